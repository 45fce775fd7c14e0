//! `report()` tells what the kernel would tell, and notices what changes behind the heap's back.

use std::alloc::GlobalAlloc;

use oubliette::{HeapReport, Oubliette, Policy, SecretBox, SecretVec, report};

use crate::support::block::{allocate, layout};
use crate::support::child::{self, Role};
use crate::support::{limits, pattern, probe, skip};

pub(crate) const ROLES: &[Role] = &[
    ("figures", |_| figures()),
    ("full_protection", |_| full_protection()),
    ("closed_descriptors", |_| closed_descriptors()),
    ("program_figures", |_| program_figures()),
];

#[test]
fn figures_follow_what_is_made_and_dropped() {
    if !limits::allow_secrets() {
        return;
    }
    child::run("figures", "").assert_success();
    child::run("program_figures", "").assert_success();
}

#[test]
fn nothing_steps_down_where_the_machine_has_everything() {
    if !limits::allow_secrets() {
        return;
    }
    if !probe::has_io_uring() || !probe::has_guard_install() {
        return skip::not_set_up("this machine lacks io_uring or MADV_GUARD_INSTALL");
    }
    child::run("full_protection", "").assert_success();
}

#[test]
fn a_lost_pin_is_noticed() {
    if !limits::allow_secrets() {
        return;
    }
    if !probe::has_io_uring() {
        return skip::not_set_up("io_uring is disabled here, so nothing can be pinned");
    }
    child::run("closed_descriptors", "").assert_success();
}

type Key = SecretBox<[u8; 32]>;

fn key() -> Key {
    Key::new_with(|bytes| pattern::fill(bytes, 1)).unwrap()
}

fn secrets() -> HeapReport {
    *report().secrets().unwrap()
}

fn figures() {
    assert!(report().heaps().next().is_none(), "a heap before anybody used one");
    let keys: Vec<Key> = (0..10_000).map(|_| key()).collect();
    let full = secrets();
    assert_eq!((full.live_blocks, full.live_bytes), (10_000, 320_000));
    assert!(full.reserved_bytes >= full.committed_bytes, "{full:?}");
    assert!(full.committed_bytes >= full.resident_bytes && full.resident_bytes >= 320_000, "{full:?}");
    assert!(full.peak_bytes >= full.in_use_bytes && full.in_use_bytes >= 320_000, "{full:?}");
    assert_eq!(full.leaked_blocks, 0);
    assert_eq!(report().lock_limit().locked_bytes, Some(limits::status_bytes("VmLck")));
    drop(keys);
    let empty = secrets();
    assert_eq!((empty.live_blocks, empty.live_bytes), (0, 0));
    assert!(empty.in_use_bytes <= full.in_use_bytes, "{empty:?}");
    assert!(empty.peak_bytes >= full.in_use_bytes, "{empty:?}");
    let _: &mut [u8; 32] = key().leak();
    let leaked = secrets();
    assert_eq!((leaked.leaked_blocks, leaked.leaked_bytes), (1, 32), "{leaked:?}");
    let large = SecretVec::<u8>::new_with(1 << 20, |bytes| pattern::fill(bytes, 2)).unwrap();
    let with_large = secrets();
    assert!(with_large.live_bytes >= 1 << 20 && with_large.resident_bytes >= 1 << 20, "{with_large:?}");
    drop(large);
    // Its pages may be kept for the next one, but it is not in use.
    assert!(secrets().live_bytes < 1 << 20 && secrets().in_use_bytes < 1 << 20, "{:?}", secrets());
}

fn program_figures() {
    static HEAP: Oubliette = Oubliette::new();
    let layout = layout(100, 8);
    let blocks: Vec<*mut u8> = (0..1000).map(|_| allocate(&HEAP, layout)).collect();
    let program = || *report().heap(Policy::PROGRAM).unwrap();
    assert_eq!((program().live_blocks, program().live_bytes), (1000, 100_000), "{:?}", program());
    for block in blocks {
        // SAFETY: allocated above with this layout.
        unsafe { HEAP.dealloc(block, layout) };
    }
    assert_eq!((program().live_blocks, program().live_bytes), (0, 0), "{:?}", program());
    assert!(program().pending_lines > 0, "lines of a thousand freed blocks: {:?}", program());
    oubliette::flush();
    assert!(report().secrets().is_none(), "nobody made a secret");
}

fn full_protection() {
    let keys: Vec<Key> = (0..5000).map(|_| key()).collect();
    let large = SecretVec::<u8>::new_with(200_000, |bytes| pattern::fill(bytes, 2)).unwrap();
    let report = secrets();
    // Hints of features that are not built in (KSM, huge pages) are no steps down.
    let mut steps = report.steps_down;
    steps.hints_refused = 0;
    assert!(steps.is_none(), "{report}");
    assert!(report.pinned_bytes >= 5000 * 32 + 200_000, "{report:?}");
    assert!(report.to_string().contains("locked, pinned"), "{report}");
    drop((keys, large));
}

/// A program that closes every descriptor, as daemons do, ends the pins without a word.
fn closed_descriptors() {
    let before = key();
    assert!(secrets().pinned_bytes > 0 && !secrets().steps_down.is_pin_lost);
    // SAFETY: closes descriptors that nobody here uses any more, but the heap's; that is the point.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    assert_eq!(result, 0);
    assert!(secrets().steps_down.is_pin_lost, "{:?}", secrets());
    assert!(!secrets().to_string().contains("locked, pinned"), "{}", secrets());
    // All goes on.
    let keys: Vec<Key> = (0..5000).map(|_| key()).collect();
    assert!(keys.iter().chain([&before]).all(|key| pattern::matches(key.expose(), 1)));
}
