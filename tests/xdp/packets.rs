//! What is sent on one end arrives on the other.

use super::*;

/// Sizes from the least of Ethernet to the most of an interface.
fn sizes() -> impl Iterator<Item = usize> {
    (60..1514).step_by(7).chain([1514])
}

fn arrive_exactly(mode: Attach) {
    with_pair(1, || {
        let interface = Interface::attach(OURS, mode).unwrap();
        let socket = bind(&interface, 0, 512, XdpOptions::new());
        let wire = Wire::new(THEIRS).unwrap();
        settle(&wire, &socket);
        for (seed, len) in (1..).zip(sizes()) {
            wire.send(&packet(seed, len)).unwrap();
        }
        // All held at once: no two lie in the same place.
        let received: Vec<_> = sizes().map(|_| next(&socket)).collect();
        for ((seed, len), received) in (1..).zip(sizes()).zip(&received) {
            assert_eq!(**received, *packet(seed, len), "packet {seed}");
        }
        assert!(socket.receive().is_none());
    });
}

#[test]
fn packets_arrive_with_their_exact_content_from_the_driver() {
    arrive_exactly(Attach::Driver);
}

#[test]
fn packets_arrive_with_their_exact_content_from_the_system() {
    arrive_exactly(Attach::Generic);
}

#[test]
fn a_packet_can_be_changed_in_its_place() {
    with_pair(1, || {
        let interface = Interface::attach(OURS, Attach::Generic).unwrap();
        let socket = bind(&interface, 0, 8, XdpOptions::new());
        let wire = Wire::new(THEIRS).unwrap();
        settle(&wire, &socket);
        wire.send(&packet(1, 100)).unwrap();
        wire.send(&packet(2, 100)).unwrap();
        let (mut first, second) = (next(&socket), next(&socket));
        first.fill(7);
        assert!(first.iter().all(|byte| *byte == 7));
        assert_eq!(*second, *packet(2, 100));
    });
}

#[test]
fn a_hundred_thousand_packets_pass_through_32_frames() {
    const PACKETS: u64 = 100_000;
    with_pair(1, || {
        let interface = Interface::attach(OURS, Attach::Driver).unwrap();
        let socket = bind(&interface, 0, 32, XdpOptions::new().receive_frames(32));
        let wire = Wire::new(THEIRS).unwrap();
        settle(&wire, &socket);
        let start = Instant::now();
        let mut seed = 0;
        while seed < PACKETS {
            for ahead in 0..16 {
                wire.send(&packet(seed + ahead, 64)).unwrap();
            }
            for _ in 0..16 {
                assert_eq!(*next(&socket), *packet(seed, 64));
                seed += 1;
            }
        }
        println!("{PACKETS} packets in {:?}", start.elapsed());
        assert_eq!(socket.statistics().unwrap().dropped, 0);
    });
}

#[test]
fn sent_packets_arrive_on_the_other_end() {
    with_pair(1, || {
        let interface = Interface::attach(OURS, Attach::Driver).unwrap();
        let socket = bind(&interface, 0, 16, XdpOptions::new());
        let wire = Wire::new(THEIRS).unwrap();
        settle(&wire, &socket);
        // More than there are frames.
        for (seed, len) in (1..).zip(sizes()) {
            let packet = packet(seed, len);
            send(&socket, &packet);
            assert_eq!(wire.receive(LONG).unwrap(), packet, "packet {seed}");
        }
        // Many at once, with one call.
        for seed in 0..8 {
            let mut frame = socket.reserve(200).unwrap();
            assert!(frame.iter().all(|byte| *byte == 0), "a frame with something in it");
            frame.copy_from_slice(&packet(seed, 200));
            frame.submit();
        }
        socket.transmit().unwrap();
        for seed in 0..8 {
            assert_eq!(wire.receive(LONG).unwrap(), packet(seed, 200));
        }
    });
}

/// Sends when there is a frame.
fn send(socket: &XdpSocket, packet: &[u8]) {
    let end = Instant::now() + LONG;
    while let Err(error) = socket.send(packet) {
        assert_eq!(error, Error::Xdp(XdpRefusal::NoFrame));
        assert!(Instant::now() < end, "frames do not come back: {} being sent", socket.sending());
    }
}

#[test]
fn without_a_frame_nothing_is_sent_and_nothing_is_received() {
    with_pair(1, || {
        let interface = Interface::attach(OURS, Attach::Driver).unwrap();
        let socket = bind(&interface, 0, 16, XdpOptions::new().receive_frames(8));
        let wire = Wire::new(THEIRS).unwrap();
        settle(&wire, &socket);
        // To send: eight are there, the ninth is not.
        let mut frames: Vec<_> = (0..8).map(|_| socket.reserve(60).unwrap()).collect();
        assert_eq!(socket.reserve(60).unwrap_err(), Error::Xdp(XdpRefusal::NoFrame));
        assert_eq!(socket.reserve(2049).unwrap_err(), Error::TooLarge);
        // One that is not submitted comes back, and is not sent.
        drop(frames.pop());
        frames.push(socket.reserve(60).unwrap());
        drop(frames);
        assert_eq!(socket.sending(), 0);
        assert_eq!(wire.receive(Duration::from_millis(50)), None);
        // To receive: eight are there, and what comes beyond them is dropped.
        let before = socket.statistics().unwrap();
        for seed in 0..12 {
            wire.send(&packet(seed, 60)).unwrap();
        }
        let received: Vec<_> = (0..8).map(|_| next(&socket)).collect();
        let end = Instant::now() + LONG;
        let after = loop {
            assert_eq!(socket.wait(Some(Duration::from_millis(50))).unwrap(), 0);
            let after = socket.statistics().unwrap();
            if after.dropped - before.dropped >= 4 || Instant::now() > end {
                break after;
            }
        };
        assert_eq!(after.dropped - before.dropped, 4, "{after:?}");
        assert!(after.no_frame > before.no_frame && after.invalid == 0, "{after:?}");
        drop(received);
        wire.send(&packet(20, 60)).unwrap();
        assert_eq!(*next(&socket), *packet(20, 60));
    });
}

#[test]
fn two_queues_have_a_socket_each_and_without_one_packets_go_to_the_system() {
    with_pair(2, || {
        let interface = Interface::attach(OURS, Attach::Driver).unwrap();
        let sockets = [0, 1].map(|queue| bind(&interface, queue, 512, XdpOptions::new().receive_frames(512)));
        let (wire, system) = (Wire::new(THEIRS).unwrap(), Wire::new(OURS).unwrap());
        let deadline = Instant::now() + LONG;
        let udp = |port| udp_packet(port);
        // Which queue a packet comes in by is a matter of its ports.
        let mut counts = [0; 2];
        while counts.contains(&0) {
            assert!(Instant::now() < deadline, "{counts:?}");
            (1..200).for_each(|port| wire.send(&udp(port)).unwrap());
            for (socket, count) in sockets.iter().zip(&mut counts) {
                while socket.wait(Some(Duration::from_millis(20))).unwrap() > 0 {
                    *count += socket.receive().map_or(0, |packet| usize::from(packet.len() == 60));
                }
            }
        }
        assert!(system.receive(Duration::from_millis(20)).is_none(), "the system got a packet of ours");
        // One of them ends: its packets go to the system, the others to the other.
        let [first, second] = sockets;
        drop(first);
        (1..200).for_each(|port| wire.send(&udp(port)).unwrap());
        assert!(system.receive(LONG).is_some());
        assert!(second.wait(Some(LONG)).unwrap() > 0);
        drop(second);
        drop(interface);
        (1..200).for_each(|port| wire.send(&udp(port)).unwrap());
        assert!((0..199).all(|_| system.receive(LONG).is_some()));
    });
}

/// A UDP packet from nowhere to nowhere, by this port.
fn udp_packet(port: u16) -> Vec<u8> {
    let mut packet = packet(port.into(), 60);
    packet[12..14].copy_from_slice(&[8, 0]);
    packet[14..34].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 8, 7, 10, 9, 8, 6]);
    packet[34..36].copy_from_slice(&port.to_be_bytes());
    packet[36..42].copy_from_slice(&[0, 53, 0, 26, 0, 0]);
    packet
}

#[test]
fn another_thread_may_have_it() {
    with_pair(1, || {
        let interface = Interface::attach(OURS, Attach::Driver).unwrap();
        let socket = bind(&interface, 0, 16, XdpOptions::new());
        let wire = Wire::new(THEIRS).unwrap();
        settle(&wire, &socket);
        std::thread::spawn(move || {
            wire.send(&packet(1, 60)).unwrap();
            assert_eq!(*next(&socket), *packet(1, 60));
        })
        .join()
        .unwrap();
    });
}
