//! What a frame holds once its packet is gone, seen from outside.

use oubliette::dma::xdp::Wipe;

use super::support::pages::OwnMemory;
use super::*;

/// The frame that these bytes lie in.
fn frame_of(bytes: &[u8]) -> usize {
    bytes.as_ptr().addr() & !2047
}

fn received(wipe: Wipe) -> bool {
    let (send, receive) = std::sync::mpsc::channel();
    with_pair(1, || {
        let interface = Interface::attach(OURS, Attach::Driver).unwrap();
        let socket = bind(&interface, 0, 64, XdpOptions::new().wipe(wipe).receive_frames(64));
        let wire = Wire::new(THEIRS).unwrap();
        settle(&wire, &socket);
        let memory = OwnMemory::open();
        let mut frames = Vec::new();
        for seed in 1..=32 {
            wire.send(&packet(seed, 1514)).unwrap();
            let packet = next(&socket);
            frames.push(frame_of(&packet));
            assert!(!memory.is_zero(frame_of(&packet), 2048), "a packet that cannot be seen from outside");
        }
        send.send(frames.iter().all(|frame| memory.is_zero(*frame, 2048))).unwrap();
    });
    // A test that was skipped.
    receive.try_recv().unwrap_or(wipe == Wipe::OnReturn)
}

#[test]
fn a_frame_is_zero_once_its_packet_is_dropped() {
    assert!(received(Wipe::OnReturn));
}

#[test]
fn control_without_wiping_it_is_not() {
    assert!(!received(Wipe::AtEnd));
}

fn sent(wipe: Wipe) -> bool {
    let (tell, told) = std::sync::mpsc::channel();
    with_pair(1, || {
        let interface = Interface::attach(OURS, Attach::Driver).unwrap();
        let socket = bind(&interface, 0, 64, XdpOptions::new().wipe(wipe).receive_frames(8));
        let wire = Wire::new(THEIRS).unwrap();
        settle(&wire, &socket);
        let memory = OwnMemory::open();
        let mut frames = Vec::new();
        for seed in 1..=32 {
            let mut frame = socket.reserve(1514).unwrap();
            frame.copy_from_slice(&packet(seed, 1514));
            assert!(!memory.is_zero(frame_of(&frame), 2048), "a frame that cannot be seen from outside");
            frames.push(frame_of(&frame));
            // Half of them are sent.
            if seed % 2 == 0 {
                frame.submit();
            }
        }
        socket.transmit().unwrap();
        let end = Instant::now() + LONG;
        while socket.sending() > 0 {
            assert!(Instant::now() < end, "{} are not sent", socket.sending());
        }
        tell.send(frames.iter().all(|frame| memory.is_zero(*frame, 2048))).unwrap();
    });
    told.try_recv().unwrap_or(wipe == Wipe::OnReturn)
}

#[test]
fn a_frame_is_zero_once_its_packet_was_sent_or_given_up() {
    assert!(sent(Wipe::OnReturn));
}

#[test]
fn control_without_wiping_a_sent_frame_is_not() {
    assert!(!sent(Wipe::AtEnd));
}
