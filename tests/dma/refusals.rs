//! A pin that the system refuses is an error that names the limit, or memory that is locked only.

use std::fs;

use oubliette::dma::Pinning;
use oubliette::{DmaBuffer, Error};

use crate::support::child::{self, Role};
use crate::support::limits::{Refused, as_ordinary_user};
use crate::support::machine::{alone, beside_others};
use crate::support::seccomp::{Denied, deny};
use crate::support::skip;

pub(super) const ROLES: &[Role] = &[
    ("dma lock limit", lock_limit),
    ("dma filtered", filtered),
    ("dma switched off", switched_off),
    #[cfg(feature = "io-uring")]
    ("dma pin limit", pin_limit),
];

#[track_caller]
fn play(role: &str, argument: &str) {
    let ended = child::run(role, argument);
    ended.assert_success();
    if let Some(why) = ended.said("skipped:") {
        skip::not_set_up(why);
    }
}

/// Tells the test that a limit cannot be set.
fn is_refused(result: Result<(), Refused>) -> bool {
    result.inspect_err(|Refused(why)| println!("skipped: {why}")).is_err()
}

#[test]
fn limit_of_locked_memory() {
    let _beside = beside_others();
    play("dma lock limit", "");
}

fn lock_limit(_: &str) {
    const LIMIT_BYTES: usize = 64 << 10;
    if is_refused(as_ordinary_user(LIMIT_BYTES as u64)) {
        return;
    }
    let buffer = DmaBuffer::new(32 << 10).unwrap();
    let error = DmaBuffer::new(2 * LIMIT_BYTES).unwrap_err();
    assert_eq!(error, Error::LockLimit { needed_bytes: 2 * LIMIT_BYTES, limit_bytes: LIMIT_BYTES });
    assert!(error.to_string().contains("RLIMIT_MEMLOCK"));
    // Locked memory is a part of the promise that cannot be waived.
    assert!(DmaBuffer::builder(2 * LIMIT_BYTES).allow_locked_only().build().is_err());
    drop(buffer);
    DmaBuffer::new(32 << 10).unwrap();
}

#[test]
#[cfg(feature = "io-uring")]
fn limit_of_pinned_memory() {
    let _beside = beside_others();
    play("dma pin limit", "");
}

#[cfg(feature = "io-uring")]
fn pin_limit(_: &str) {
    const LIMIT_BYTES: usize = 1 << 20;
    if is_refused(as_ordinary_user(LIMIT_BYTES as u64)) {
        return;
    }
    let ring = oubliette::dma::Ring::new(1).unwrap();
    let mut buffer = DmaBuffer::new(LIMIT_BYTES / 4 * 3).unwrap();
    let refused = Err(Error::PinLimit { needed_bytes: buffer.len(), limit_bytes: LIMIT_BYTES });
    assert_eq!(ring.attach(&mut buffer), refused, "pinned twice for a moment");
    assert!(matches!(buffer.pinning(), Pinning::Pinned(_)), "it keeps the pin that it had");
    drop(buffer);
    ring.attach(&mut DmaBuffer::new(LIMIT_BYTES / 4).unwrap()).unwrap();
}

#[test]
fn seccomp() {
    let _beside = beside_others();
    for errno in [libc::EPERM, libc::ENOSYS] {
        play("dma filtered", &errno.to_string());
    }
}

fn filtered(errno: &str) {
    let errno = errno.parse().unwrap();
    if let Err(error) = deny(&[Denied { errno, ..Denied::IO_URING }]) {
        println!("skipped: no filter: {error}");
        return;
    }
    expect_no_pins(errno);
}

/// Pins are an error that names what forbids them, unless the caller allows locked memory.
fn expect_no_pins(errno: i32) {
    let error = DmaBuffer::new(4096).unwrap_err();
    assert_eq!(error, Error::NoPins { errno });
    assert!(error.to_string().contains("io_uring_disabled"));
    let buffer = DmaBuffer::builder(4096).allow_locked_only().build().unwrap();
    assert_eq!(buffer.pinning(), Pinning::LockedOnly);
    let report = oubliette::report();
    let dma = report.dma();
    assert_eq!((dma.live, dma.locked_bytes, dma.pinned_bytes), (1, 4096, 0));
    assert_eq!(dma.steps_down.not_pinned_errno, errno);
    assert!(report.to_string().contains("locked, not pinned"));
    #[cfg(feature = "io-uring")]
    assert_eq!(oubliette::dma::Ring::new(1).unwrap_err(), error);
}

#[test]
fn switched_off_by_the_administrator() {
    const SWITCH: &str = "/proc/sys/kernel/io_uring_disabled";
    struct Restore(String);
    impl Drop for Restore {
        fn drop(&mut self) {
            let _ = fs::write(SWITCH, self.0.trim_end());
        }
    }
    let _alone = alone();
    let Ok(before) = fs::read_to_string(SWITCH) else {
        return skip::impossible("no such switch before Linux 6.6");
    };
    let _restore = Restore(before);
    // 1: for all but privileged processes and those of a group. Others on this machine that are privileged go on.
    if let Err(error) = fs::write(SWITCH, "1") {
        return skip::not_set_up(&format!("{SWITCH}: {error}"));
    }
    play("dma switched off", "");
}

fn switched_off(_: &str) {
    if !is_refused(as_ordinary_user(1 << 20)) {
        expect_no_pins(libc::EPERM);
    }
}
