//! Every system call failing in turn. Needs the feature `fault-injection`.

use oubliette::fault::{self, Call};

use super::support::child::Role;
use super::*;

pub(super) const ROLES: &[Role] = &[("fail_each", fail_each)];

#[test]
fn each_call_fails_once() {
    if !support::limits::is_root() {
        return skip::not_set_up("an interface takes root");
    }
    let ended = child::run("fail_each", "");
    ended.assert_success();
    println!("{}", ended.stdout);
}

/// A life of a socket, with each of its calls failing; either it works, or there is an error and the memory is back.
fn fail_each(_: &str) {
    with_pair(1, || {
        let wire = Wire::new(THEIRS).unwrap();
        for kind in [Call::XdpSocket, Call::XdpBind, Call::XdpProgram, Call::XdpWake] {
            let (mut refused, mut nth) = (0, 0);
            loop {
                let before = fault::count(kind);
                let failing = fault::fail(kind, nth, libc::EIO);
                let lived = live(&wire);
                drop(failing);
                if fault::count(kind) - before <= nth {
                    assert_eq!(lived, Ok(()), "{kind:?} without a failure");
                    break;
                }
                refused += u32::from(lived.is_err());
                nth += 1;
            }
            println!("{kind:?}: {nth} calls, {refused} led to an error");
            assert!(nth > 0, "{kind:?} is never called");
        }
        // A witness that could not be asked: as often as that the memory was left alone.
        println!("quarantined: {}", oubliette::report().dma().quarantined);
    });
}

fn live(wire: &Wire) -> Result<(), Error> {
    let interface = Interface::attach(OURS, Attach::Driver)?;
    let umem = umem(16);
    let socket = match XdpSocket::bind(umem, &interface, 0, XdpOptions::new()) {
        Ok(socket) => socket,
        Err(failed) => {
            let error = failed.error();
            let buffer = failed.into_umem().map(Umem::into_buffer);
            assert!(buffer.is_some_and(|buffer| buffer.len() == 16 * 2048), "{error}: no memory");
            return Err(error);
        }
    };
    let end = Instant::now() + LONG;
    while socket.wait(Some(Duration::from_millis(20)))? == 0 {
        let _ = wire.send(&packet(1, 60));
        assert!(Instant::now() < end);
    }
    assert_eq!(*socket.receive().unwrap(), *packet(1, 60));
    socket.send(&packet(2, 60))?;
    socket.into_buffer().map(drop)
}
