//! Packets as slices of a buffer: a pair of interfaces in a network namespace of the test, an ordinary socket on one
//! of them, ours on the other.
#![expect(unsafe_code, reason = "makes system calls, and overwrites rings in child processes")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::mem_forget,
    reason = "a test may panic"
)]
#![cfg(all(target_os = "linux", target_pointer_width = "64", not(any(miri, oubliette_portable))))]

mod crimes;
mod endings;
#[cfg(feature = "fault-injection")]
mod faults;
#[cfg(not(feature = "fault-injection"))]
mod faults {
    pub(super) const ROLES: &[super::support::child::Role] = &[];
}
mod frames;
mod packets;
mod refusals;
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use oubliette::dma::xdp::{Attach, FrameSize, Interface, Umem, XdpOptions, XdpSocket};
use oubliette::{DmaBuffer, Error, XdpRefusal};
use support::net::{self, Wire, packet};
use support::{child, skip};

/// Our end of the pair, and the other.
const OURS: &str = "ours";
const THEIRS: &str = "theirs";
/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(30);

/// Runs a test with a pair of interfaces, turned on, with so many queues each.
#[track_caller]
fn with_pair(queues: u32, test: impl FnOnce() + Send) {
    net::in_own_network(|| {
        if let Err(error) = net::make_pair(OURS, THEIRS, queues) {
            return skip::impossible(&format!("this kernel has no veth: {error}"));
        }
        net::turn_on(OURS).unwrap();
        net::turn_on(THEIRS).unwrap();
        if matches!(Interface::attach("lo", Attach::Generic), Err(Error::Xdp(XdpRefusal::Missing))) {
            return skip::impossible("this kernel has no AF_XDP");
        }
        test();
    });
}

/// A socket with so many frames, all to receive but `sending` of them.
fn bind(interface: &Interface, queue: u32, frames: u32, options: XdpOptions) -> XdpSocket {
    XdpSocket::bind(umem(frames), interface, queue, options).unwrap()
}

fn umem(frames: u32) -> Umem {
    let umem = Umem::new(DmaBuffer::new(frames as usize * 2048).unwrap(), FrameSize::Bytes2048);
    assert_eq!(umem.frames(), frames);
    umem
}

/// The next packet, or none for a long time.
fn next(socket: &XdpSocket) -> oubliette::dma::xdp::Packet<'_> {
    assert!(socket.wait(Some(LONG)).unwrap() > 0, "nothing came: {:?}", socket.statistics());
    socket.receive().unwrap()
}

/// Sends packets from the other end until one arrives, since interfaces that were just turned on may take a while; then
/// takes in all that are on their way.
fn settle(wire: &Wire, socket: &XdpSocket) {
    let hello = packet(0, 60);
    let end = Instant::now() + LONG;
    loop {
        let _ = wire.send(&hello);
        if socket.wait(Some(Duration::from_millis(20))).unwrap() > 0 {
            break;
        }
        assert!(Instant::now() < end, "the pair does not connect");
    }
    // They come in the order in which they were sent, so behind this one there is none. It can be lost itself.
    for len in 61.. {
        assert!(Instant::now() < end, "the last packet does not come");
        let _ = wire.send(&packet(0, len));
        while socket.wait(Some(Duration::from_millis(100))).unwrap() > 0 {
            if socket.receive().is_some_and(|packet| packet.len() == len) {
                return;
            }
        }
    }
}

#[test]
#[ignore = "runs in a child of the other tests"]
fn role() {
    child::play(&[crimes::ROLES, endings::ROLES, faults::ROLES, refusals::ROLES].concat());
}
