//! Buffers from inside: which calls are made, what a refusal of each leaves, what the mapping shows.

use super::*;
use crate::os::{self, Call, Errno, fake};
use crate::testing::{forked, mapping, passes, peek, skip_unless_lockable};
use crate::{DmaBuffer, Error, Operation};

fn address(buffer: &DmaBuffer) -> usize {
    buffer.as_ptr().addr()
}

/// Whether this process may pin at all; says so where it may not.
fn may_pin() -> bool {
    let is_pinned = DmaBuffer::new(1).is_ok();
    if !is_pinned {
        println!("skipped: this process may not pin memory");
    }
    is_pinned
}

#[test]
fn whole_pages_between_guards() {
    skip_unless_lockable!();
    let page = os::page_size();
    for bytes in [0, 1, page, page + 1, 5 * page] {
        let buffer = DmaBuffer::builder(bytes).allow_locked_only().build().unwrap();
        let start = address(&buffer);
        assert_eq!((buffer.len(), start % page), (bytes, 0));
        assert_eq!(buffer.page_bytes(), bytes.max(1).next_multiple_of(page));
        assert!(buffer.iter().all(|&byte| byte == 0));
        for flag in ["lo", "dd", "wf"] {
            assert!(mapping(start).has(flag), "{flag}");
        }
        for guard in [start - 1, start + buffer.page_bytes()] {
            assert!(peek(guard, 1).is_err(), "a guard can be read");
        }
    }
}

#[test]
fn too_large_for_one_pin() {
    let built = DmaBuffer::new(pin::MOST_BYTES + 1);
    assert!(matches!(built, Err(Error::TooLarge | Error::LockLimit { .. })), "{built:?}");
    assert!(matches!(DmaBuffer::new(usize::MAX), Err(Error::TooLarge)));
}

#[test]
fn a_refused_pin_is_an_error_that_says_why_or_a_locked_buffer() {
    skip_unless_lockable!();
    let table = [
        (Errno::PERM, Error::NoPins { errno: libc::EPERM }),
        (Errno::NOSYS, Error::NoPins { errno: libc::ENOSYS }),
        (Errno(libc::EFAULT), Error::Os { operation: Operation::Pin, errno: libc::EFAULT }),
    ];
    for (errno, expected) in table {
        let _fault = fake::fail_always(Call::RingRegister, errno);
        let _setup = fake::fail_always(Call::RingSetup, errno);
        assert_eq!(DmaBuffer::new(1).err(), Some(expected));
        let before = stats().not_pinned;
        let buffer = DmaBuffer::builder(1).allow_locked_only().build().unwrap();
        assert_eq!(buffer.pinning(), Pinning::LockedOnly);
        assert!(stats().not_pinned > before);
    }
    let _fault = fake::fail_always(Call::RingRegister, Errno::NOMEM);
    let _setup = fake::fail_always(Call::RingSetup, Errno::NOMEM);
    match (DmaBuffer::new(1).err(), os::memlock_limit().soft) {
        (Some(Error::PinLimit { needed_bytes, limit_bytes }), soft) => {
            assert_eq!((needed_bytes, Some(limit_bytes)), (os::page_size(), soft));
        }
        (Some(Error::Os { operation: Operation::Pin, .. }), None) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_call_that_fails_leaves_nothing_behind() {
    const TEST: &str = concat!(module_path!(), "::each_call_that_fails_leaves_nothing_behind");
    skip_unless_lockable!();
    passes(TEST, "calls", || {
        drop(DmaBuffer::builder(1).allow_locked_only().build());
        let before = (stats().buffers, crate::pages::pins().count());
        for pages in [HugePages::Off, HugePages::Transparent] {
            let runs = fake::every_call_in_turn(Errno::NOMEM, |_| {
                if let Ok(mut buffer) = DmaBuffer::builder(1).huge_pages(pages).build() {
                    buffer.fill(7);
                }
            });
            assert!(runs >= 10, "{runs}");
        }
        // An unpin that failed leaves its slot taken: at most one for each run.
        assert_eq!(stats().buffers, before.0);
        assert!(crate::pages::pins().count() <= before.1 + 2);
    });
}

#[test]
fn dropped_in_the_promised_order() {
    skip_unless_lockable!();
    if !may_pin() {
        return;
    }
    // Each call of the end fails in turn, and what comes before it has happened.
    let mut buffer = DmaBuffer::new(1).unwrap();
    let start = address(&buffer);
    buffer[0] = 7;
    let calls = [Call::RingUnregister, Call::Unlock, Call::Release];
    let before = calls.map(fake::count);
    let fault = fake::fail_always(Call::Release, Errno::NOMEM);
    drop(buffer);
    drop(fault);
    let after = calls.map(fake::count);
    assert_eq!(before.map(|count| count + 1), after);
    // It is still mapped, since unmapping failed: wiped, and not locked any more.
    assert!(peek(start, os::page_size()).unwrap().iter().all(|&byte| byte == 0));
    assert!(!mapping(start).has("lo"));
}

#[test]
fn transparent_huge_pages_before_the_pin() {
    if !crate::testing::can_lock(8 << 20) {
        return println!("skipped: this process may not lock 8 MiB");
    }
    let buffer =
        DmaBuffer::builder(1).huge_pages(HugePages::Transparent).allow_locked_only().build().unwrap();
    assert_eq!(address(&buffer) % os::HUGE_PAGE_BYTES, 0);
    assert_eq!(buffer.page_bytes(), os::HUGE_PAGE_BYTES);
    if buffer.huge_pages() == HugePages::Off {
        println!("skipped: the kernel has no huge page to give");
    }
}

#[test]
fn explicit_huge_pages_or_an_error_that_names_the_pool() {
    match DmaBuffer::builder(1).huge_pages(HugePages::Explicit).allow_locked_only().build() {
        Ok(mut buffer) => {
            assert_eq!(buffer.huge_pages(), HugePages::Explicit);
            assert!(mapping(address(&buffer)).has("ht"));
            buffer.fill(7);
        }
        Err(Error::HugePages { needed_bytes }) => assert_eq!(needed_bytes, os::HUGE_PAGE_BYTES),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn purge_reaches_it() {
    const TEST: &str = concat!(module_path!(), "::purge_reaches_it");
    skip_unless_lockable!();
    passes(TEST, "purge", || {
        let mut buffer = DmaBuffer::builder(100).allow_locked_only().build().unwrap();
        buffer.fill(7);
        crate::purge();
        assert!(buffer.iter().all(|&byte| byte == 0));
        assert_eq!((stats().buffers, crate::pages::run_stats().runs), (1, 0));
    });
}

#[test]
fn a_child_finds_zeros_and_may_drop_what_it_inherited() {
    const TEST: &str = concat!(module_path!(), "::a_child_finds_zeros_and_may_drop_what_it_inherited");
    skip_unless_lockable!();
    passes(TEST, "fork", || {
        let mut buffer = DmaBuffer::builder(100).allow_locked_only().build().unwrap();
        buffer.fill(7);
        let was = buffer.pinning();
        let mut inherited = Some(buffer);
        let status = forked(|| {
            let buffer = inherited.take().unwrap();
            assert!(buffer.iter().all(|&byte| byte == 0));
            assert_eq!(buffer.pinning(), Pinning::LockedOnly, "a pin is not inherited");
            drop(buffer);
        });
        assert_eq!(status, 0);
        let buffer = inherited.take().unwrap();
        assert!(buffer.iter().all(|&byte| byte == 7));
        assert_eq!(buffer.pinning(), was);
    });
}
