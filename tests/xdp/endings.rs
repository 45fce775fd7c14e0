//! The end of a socket: no byte lands in its memory afterwards, and who may end what.

use std::sync::atomic::{AtomicBool, Ordering};

use oubliette::dma::xdp::Wipe;

use super::support::child::Role;
use super::support::fork::{self, ChildEnd};
use super::support::pages::OwnMemory;
use super::*;

pub(super) const ROLES: &[Role] =
    &[("forks", forks), ("holds", holds), ("ends", |_| ends()), ("drops", |_| drops())];

/// In a process of its own: in this one the other tests map memory where some was given back, and quarantine some.
#[track_caller]
fn play(role: &str) {
    if !support::limits::is_root() {
        return skip::not_set_up("an interface takes root");
    }
    let ended = child::run(role, "");
    ended.assert_success();
    print!("{}", ended.stdout);
}

/// Packets from the other end, one after the other, as long as `test` runs.
fn under_fire(test: impl FnOnce(&AtomicBool) + Send) {
    with_pair(1, || {
        let wire = Wire::new(THEIRS).unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let gun = scope.spawn(|| {
                for seed in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        return seed;
                    }
                    let _ = wire.send(&packet(seed, 1000));
                }
                0
            });
            let tested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&is_over)));
            is_over.store(true, Ordering::Relaxed);
            println!("{} packets were sent meanwhile", gun.join().unwrap());
            if let Err(panic) = tested {
                std::panic::resume_unwind(panic);
            }
        });
    });
}

#[test]
fn no_byte_lands_after_the_end_of_a_socket() {
    play("ends");
}

fn ends() {
    const ROUNDS: u32 = 20;
    // More than are filled until long after the end.
    const FRAMES: u32 = 4096;
    under_fire(|_| {
        let memory = OwnMemory::open();
        let mut buffer = Some(DmaBuffer::new(FRAMES as usize * 2048).unwrap());
        let mut landed = 0;
        let mut longest = Duration::ZERO;
        // Rounds in which most frames were left at the end: on a busy machine this thread may be late.
        let mut in_time = 0;
        for round in 0.. {
            if in_time == ROUNDS {
                break;
            }
            assert!(round < 20 * ROUNDS, "{in_time} rounds with frames left that packets can land in");
            let mode = if round.is_multiple_of(2) { Attach::Driver } else { Attach::Generic };
            let interface = Interface::attach(OURS, mode).unwrap();
            let mut owned = buffer.take().unwrap();
            owned.fill(0);
            let (start, len) = (owned.as_ptr().addr(), owned.len());
            let umem = Umem::new(owned, FrameSize::Bytes2048);
            let options = XdpOptions::new().wipe(Wipe::AtEnd).receive_frames(FRAMES);
            let socket = XdpSocket::bind(umem, &interface, 0, options).unwrap();
            // The control: as long as the socket lives they do land, looked at from outside.
            let end = Instant::now() + LONG;
            while memory.is_zero(start, len) {
                assert!(Instant::now() < end, "nothing lands in a live socket");
            }
            landed += 1;
            // In flight: some packets are held, some wait, more come. At one moment or another.
            let taken = (0..round % ROUNDS).map_while(|_| socket.receive()).collect::<Vec<_>>();
            let held = u32::try_from(taken.len()).unwrap();
            drop(taken);
            let begun = Instant::now();
            let left = FRAMES - held - socket.wait(Some(Duration::ZERO)).unwrap();
            in_time += u32::from(left > FRAMES / 2);
            let mut back = socket.into_buffer().unwrap();
            longest = longest.max(begun.elapsed());
            back.fill(0);
            let end = Instant::now() + Duration::from_millis(20);
            while Instant::now() < end {
                assert!(memory.is_zero(start, len), "a byte landed after the end, in round {round}");
            }
            buffer = Some(back);
        }
        println!("{landed} were written to before the end, none after; the end took {longest:?} at most");
        assert_eq!(oubliette::report().dma().quarantined, 0);
    });
}

#[test]
fn a_socket_dropped_in_flight_frees_its_memory() {
    play("drops");
}

fn drops() {
    under_fire(|_| {
        let interface = Interface::attach(OURS, Attach::Driver).unwrap();
        for _ in 0..10 {
            let socket = bind(&interface, 0, 64, XdpOptions::new());
            let address = next(&socket).as_ptr().addr();
            for seed in 0..8 {
                let mut frame = socket.reserve(100).unwrap();
                frame.copy_from_slice(&packet(seed, 100));
                frame.submit();
            }
            drop(socket);
            assert!(!is_mapped(address), "the buffer is still there");
        }
    });
}

/// Whether an address belongs to anything that can be read.
fn is_mapped(address: usize) -> bool {
    let maps = support::maps::mappings_of("self").unwrap();
    maps.iter().any(|mapping| mapping.range.contains(&address) && mapping.access.starts_with("rw"))
}

#[test]
fn a_buffer_comes_back_as_zeros() {
    under_fire(|_| {
        let interface = Interface::attach(OURS, Attach::Driver).unwrap();
        let socket = bind(&interface, 0, 64, XdpOptions::new());
        assert!(socket.wait(Some(LONG)).unwrap() > 0);
        let buffer = socket.into_buffer().unwrap();
        assert!(buffer.iter().all(|byte| *byte == 0));
    });
}

#[test]
fn an_interface_that_goes_takes_no_memory_with_it() {
    with_pair(1, || {
        let interface = Interface::attach(OURS, Attach::Driver).unwrap();
        let socket = bind(&interface, 0, 16, XdpOptions::new());
        settle(&Wire::new(THEIRS).unwrap(), &socket);
        net::remove(OURS).unwrap();
        assert_eq!(socket.wait(Some(LONG)), Err(Error::Xdp(XdpRefusal::InterfaceDown)));
        assert_eq!(socket.send(&packet(1, 60)), Err(Error::Xdp(XdpRefusal::InterfaceDown)));
        let buffer = socket.into_buffer().unwrap();
        assert!(buffer.iter().all(|byte| *byte == 0));
    });
}

/// In a process of its own: a child has the descriptors of every test.
#[test]
fn children_end_nothing_and_hold_what_they_have() {
    if !support::limits::is_root() {
        return skip::not_set_up("an interface takes root");
    }
    child::run("forks", "").assert_success();
    child::run("holds", "").assert_success();
}

/// A forked child receives nothing, sees nothing, and ends nothing of its parent's.
fn forks(_: &str) {
    with_pair(1, || {
        let interface = Interface::attach(OURS, Attach::Driver).unwrap();
        let socket = bind(&interface, 0, 16, XdpOptions::new());
        let wire = Wire::new(THEIRS).unwrap();
        settle(&wire, &socket);
        for seed in 1..=2 {
            wire.send(&packet(seed, 60)).unwrap();
        }
        let mut held = Some(next(&socket));
        let end = fork::in_child(|| {
            let inherited = held.take().unwrap();
            assert!(inherited.iter().all(|byte| *byte == 0), "a child sees a packet");
            drop(inherited);
            assert!(socket.receive().is_none());
            assert_eq!(socket.wait(None), Err(Error::LeftBehind));
            assert_eq!(socket.send(&[0; 60]), Err(Error::LeftBehind));
        });
        assert_eq!(end, ChildEnd::Done);
        assert_eq!(**held.as_ref().unwrap(), *packet(1, 60));
        drop(held);
        let mut inherited = Some((socket, interface));
        let end = fork::in_child(|| drop(inherited.take()));
        assert_eq!(end, ChildEnd::Done);
        let (socket, _interface) = inherited.as_ref().unwrap();
        assert_eq!(*next(socket), *packet(2, 60));
        wire.send(&packet(3, 60)).unwrap();
        assert_eq!(*next(socket), *packet(3, 60));
    });
}

/// Memory of a socket that another process has is left alone.
fn holds(_: &str) {
    with_pair(1, || {
        let interface = Interface::attach(OURS, Attach::Driver).unwrap();
        let socket = bind(&interface, 0, 16, XdpOptions::new());
        let wire = Wire::new(THEIRS).unwrap();
        settle(&wire, &socket);
        wire.send(&packet(1, 60)).unwrap();
        let address = next(&socket).as_ptr().addr();
        // A child that has the descriptor and does nothing.
        let (mut reader, writer) = std::io::pipe().unwrap();
        // SAFETY: the child calls what a signal handler may, and leaves by `_exit`.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            drop(writer);
            let _ = std::io::Read::read(&mut reader, &mut [0]);
            // SAFETY: ends this process.
            unsafe { libc::_exit(0) };
        }
        let before = oubliette::report().dma().quarantined;
        assert_eq!(socket.into_buffer().unwrap_err(), Error::Xdp(XdpRefusal::Quarantined));
        assert_eq!(oubliette::report().dma().quarantined, before + 1);
        assert!(is_mapped(address));
        assert!(OwnMemory::open().is_zero(address & !2047, 2048));
        drop(writer);
        let mut status = 0;
        // SAFETY: `status` is valid for a write; the process is our child and not yet reaped.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    });
}
