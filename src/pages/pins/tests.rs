//! Pins, seen from the kernel.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "tests"
)]

use std::thread;

use super::*;
use crate::os::fake::{fail, fail_always};
use crate::os::{Call, Hint};
use crate::pages::{PageBytes, Reservation};
use crate::testing::{forked, frame, passes, skip_unless_lockable};

const HUGE: usize = 2 << 20;

/// A process of its own for a test that forks or closes descriptors, and tables that no other test uses.
macro_rules! test_path {
    ($name:literal) => {
        concat!(module_path!(), "::", $name)
    };
}

fn tables() -> &'static Pins {
    Box::leak(Box::new(Pins::new()))
}

/// Committed pages whose first byte of each is written.
fn memory(len: usize) -> Reservation {
    let len = PageBytes::exact(len).unwrap();
    let align = PageBytes::exact(HUGE).unwrap();
    let range = Reservation::new_aligned(len, len, align).unwrap();
    range.hint(Hint::NoHugePage).ok();
    range.commit(PageBytes::ZERO, len).unwrap();
    for offset in (0..len.get()).step_by(os::page_size()) {
        // SAFETY: the offset lies within the range.
        let byte = unsafe { range.base().add(offset) };
        // SAFETY: the range is committed.
        unsafe { byte.write(7) };
    }
    range
}

fn pin(pins: &Pins, range: &Reservation) -> Result<PinId, Errno> {
    // SAFETY: the range is reserved, and the tests unpin before they release.
    unsafe { pins.pin(range.base(), range.len().get()) }
}

/// A pin; without one the test ends, saying why.
macro_rules! pin_or_skip {
    ($pins:expr, $range:expr) => {
        match pin($pins, $range) {
            Ok(id) => id,
            Err(errno) => return println!("skipped: no pins here, {errno:?}"),
        }
    };
}

fn release(range: Reservation) {
    // SAFETY: the tests keep no address.
    unsafe { range.release() }.unwrap();
}

/// Whether the kernel moved the pages of a range together into a huge page, which it was asked to.
fn moves(range: &Reservation) -> Result<bool, Errno> {
    let before = frames(range);
    range.hint(Hint::HugePage).unwrap();
    // SAFETY: the range is reserved.
    let result = unsafe { os::advise(range.base(), range.len().get(), Hint::Collapse) };
    range.hint(Hint::NoHugePage).unwrap();
    match result {
        Ok(()) if before.is_empty() => Ok(true),
        Ok(()) => Ok(frames(range) != before),
        Err(errno) => Err(errno),
    }
}

/// The same for pages without a pin: again, as long as something else holds one of them just then.
fn moves_in_time(range: &Reservation) -> Result<bool, Errno> {
    let mut tries = (0..2000).map(|_| {
        thread::sleep(core::time::Duration::from_millis(1));
        moves(range)
    });
    tries.find(|moved| *moved != Err(Errno::AGAIN)).unwrap_or(Err(Errno::AGAIN))
}

/// The frames of a range; empty without the right to see them.
fn frames(range: &Reservation) -> Vec<u64> {
    let base = range.base().addr().get();
    (base..base + range.len().get()).step_by(os::page_size()).filter_map(frame).collect()
}

#[test]
fn a_locked_page_moves_and_a_pinned_one_does_not() {
    let locked = memory(HUGE);
    let pinned = memory(HUGE);
    for range in [&locked, &pinned] {
        if range.lock(PageBytes::ZERO, range.len()).is_err() {
            return println!("skipped: cannot lock {HUGE} bytes");
        }
    }
    let pins = tables();
    let id = pin_or_skip!(pins, &pinned);
    match moves_in_time(&locked) {
        Ok(moved) => assert!(moved, "the control: a locked page moves"),
        Err(errno) => return println!("skipped: the kernel moves nothing on request, {errno:?}"),
    }
    let before = frames(&pinned);
    assert_eq!(moves(&pinned), Err(Errno::AGAIN));
    assert_eq!(frames(&pinned), before);
    pins.unpin(id).unwrap();
    assert_eq!(moves_in_time(&pinned), Ok(true), "the other control: it moves once it is unpinned");
    release(locked);
    release(pinned);
}

#[test]
fn a_range_with_a_page_without_access_cannot_be_pinned() {
    let pins = tables();
    let range = memory(16 * os::page_size());
    let id = pin_or_skip!(pins, &range);
    pins.unpin(id).unwrap();
    // SAFETY: no reference into the range exists.
    unsafe { range.decommit(PageBytes::from_pages(3).unwrap(), PageBytes::one()) }.unwrap();
    assert_eq!(pin(pins, &range), Err(Errno(libc::EFAULT)));
    assert_eq!(pins.count(), 0, "the slot is free again");
    release(range);
}

#[test]
fn a_full_table_is_followed_by_another() {
    skip_unless_lockable!();
    let pins = tables();
    let range = memory(os::page_size());
    let first = pin_or_skip!(pins, &range);
    let mut ids = vec![first];
    ids.extend((0..SLOTS[0]).map(|_| pin(pins, &range).unwrap()));
    assert_eq!(pins.count(), SLOTS[0] + 1);
    assert_eq!(ids.last().map(PinId::table), Some(1));
    assert!(pins.is_alive());
    for id in ids {
        assert!(pins.holds(&id));
        pins.unpin(PinId::from_bits(id.into_bits())).unwrap();
    }
    assert_eq!(pins.count(), 0);
    release(range);
}

#[test]
fn many_threads_pin_at_once() {
    skip_unless_lockable!();
    let pins = tables();
    let range = memory(os::page_size());
    let id = pin_or_skip!(pins, &range);
    pins.unpin(id).unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    let ids = [(); 5].map(|()| pin(pins, &range).unwrap());
                    for id in ids {
                        assert!(pins.holds(&id));
                        pins.unpin(id).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(pins.count(), 0);
    assert_eq!(pins.tables[1].state(), State::EMPTY, "one ring was enough");
    release(range);
}

#[test]
fn a_refused_ring_is_asked_for_again() {
    let pins = tables();
    let range = memory(os::page_size());
    {
        let _fault = fail_always(Call::RingSetup, Errno::PERM);
        assert_eq!(pin(pins, &range), Err(Errno::PERM));
        assert!(pins.is_alive(), "no pin is lost where none was made");
    }
    let id = pin_or_skip!(pins, &range);
    pins.unpin(id).unwrap();
    release(range);
}

#[test]
fn a_refused_pin_frees_its_slot_and_a_refused_end_keeps_it() {
    skip_unless_lockable!();
    let pins = tables();
    let range = memory(os::page_size());
    let id = pin_or_skip!(pins, &range);
    {
        let _fault = fail(Call::RingRegister, 0, Errno::NOMEM);
        assert_eq!(pin(pins, &range), Err(Errno::NOMEM));
        assert_eq!(pins.count(), 1);
    }
    let _fault = fail(Call::RingUnregister, 0, Errno::NOMEM);
    assert_eq!(pins.unpin(id), Err(Errno::NOMEM));
    assert_eq!(pins.count(), 1, "what may still be pinned is not given out again");
}

#[test]
fn the_descriptor_is_high_and_ends_at_exec() {
    let pins = tables();
    let range = memory(os::page_size());
    let id = pin_or_skip!(pins, &range);
    let descriptor = pins.tables[0].name(0).descriptor;
    assert!(descriptor >= 256, "{descriptor}");
    // SAFETY: reads the flags of a descriptor.
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFD) };
    assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    pins.unpin(id).unwrap();
    release(range);
}

#[test]
fn a_closed_descriptor_is_noticed_and_replaced() {
    skip_unless_lockable!();
    passes(test_path!("a_closed_descriptor_is_noticed_and_replaced"), "close", || {
        let pins = tables();
        let range = memory(os::page_size());
        let id = pin_or_skip!(pins, &range);
        let other = pin(pins, &range).unwrap();
        let descriptor = pins.tables[0].name(0).descriptor;
        // SAFETY: what a daemon does with every descriptor it finds.
        assert_eq!(unsafe { libc::close(descriptor) }, 0);
        assert!(!pins.holds(&id));
        let next = pin(pins, &range).unwrap();
        assert_eq!(next.table(), 1);
        assert!(pins.holds(&next));
        assert!(!pins.is_alive(), "some pins were lost");
        assert_eq!(pins.unpin(id), Ok(()), "which needs no ending");
        assert_eq!(pins.unpin(other), Ok(()));
        pins.unpin(next).unwrap();
    });
}

#[test]
fn another_file_under_the_same_number_is_left_alone() {
    skip_unless_lockable!();
    passes(test_path!("another_file_under_the_same_number_is_left_alone"), "reuse", || {
        let (pins, others) = (tables(), tables());
        let range = memory(os::page_size());
        let id = pin_or_skip!(pins, &range);
        let kept = pin(others, &range).unwrap();
        let [from, to] = [others, pins].map(|pins| pins.tables[0].name(0).descriptor);
        // Another ring takes the number: one that would obey.
        // SAFETY: what a program does that owns the numbers it finds free.
        assert_eq!(unsafe { libc::dup2(from, to) }, to);
        assert_eq!(pins.unpin(id), Ok(()));
        assert!(!pins.is_alive());
        assert!(others.holds(&kept));
    });
}

#[test]
fn a_forked_child_neither_ends_nor_uses_its_parents_pins() {
    skip_unless_lockable!();
    passes(test_path!("a_forked_child_neither_ends_nor_uses_its_parents_pins"), "fork", || {
        let pins = tables();
        let range = memory(HUGE);
        let id = pin_or_skip!(pins, &range);
        let bits = id.into_bits();
        let status = forked(|| {
            let inherited = PinId::from_bits(bits);
            let own = pin(pins, &range).unwrap();
            let alone = pins.count() == 1 && pins.is_alive() && !pins.holds(&inherited) && pins.holds(&own);
            let ended = pins.unpin(inherited).is_ok() && pins.holds(&own) && pins.unpin(own).is_ok();
            if !(alone && ended) {
                // SAFETY: ends the child.
                unsafe { libc::_exit(1) };
            }
        });
        assert_eq!(status, 0);
        let id = PinId::from_bits(bits);
        assert!(pins.holds(&id));
        match moves(&range) {
            Err(errno) => assert_eq!(errno, Errno::AGAIN),
            Ok(moved) => assert!(!moved, "the parent's page is still pinned"),
        }
        pins.unpin(id).unwrap();
    });
}
