//! What is in memory of a block before it is touched, as `/proc/self/smaps` shows it.

// UNSAFETY: drives the raw interface of a private heap.
#![allow(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    reason = "tests drive the raw interface; what they do is what they test"
)]
#![allow(clippy::arithmetic_side_effects, clippy::unwrap_used, reason = "tests")]

use core::ptr::NonNull;

use super::{LEAST_BYTES, TURNS};
use crate::heap::facade::private::PrivateHeap;
use crate::heap::large::testing::{ROOMY, UNLOCKED, layout};
use crate::os::{Call, Errno, HUGE_PAGE_BYTES, fake};
use crate::testing::{mappings, skip_unless_lockable};
use crate::{Flush, Fork, Policy};

const SIZE: usize = 12 << 20;

/// A figure of the pages of a block, in bytes.
fn figure(block: NonNull<u8>, size: usize, name: &str) -> usize {
    mappings(block.addr().get(), size).iter().map(|mapping| mapping.figures[name] << 10).sum()
}

/// Whether a block that nobody touched yet has all the pages that could be huge.
fn is_populated(block: NonNull<u8>, size: usize) -> bool {
    let resident = figure(block, size, "Rss");
    assert!(resident < 16 << 10 || resident + 2 * HUGE_PAGE_BYTES > size, "some of it: {resident}");
    resident >= 16 << 10
}

/// Whether the kernel may move pages of a block into huge ones.
fn is_asked(block: NonNull<u8>, size: usize) -> bool {
    mappings(block.addr().get(), size).iter().any(|mapping| mapping.has("hg") || !mapping.has("nh"))
}

/// Frees a block of which `touched` bytes were written to, and has its pages given back.
fn use_up(heap: &PrivateHeap, block: NonNull<u8>, size: usize, touched: usize) {
    unsafe { block.write_bytes(0xa5, touched) };
    unsafe { heap.deallocate(block, layout(size), Flush::Off) };
    heap.give_up();
}

#[test]
fn the_pages_of_a_block_come_at_once_if_the_last_had_all() {
    skip_unless_lockable!(48);
    let heap = PrivateHeap::new(Policy::PROGRAM, ROOMY).unwrap();
    let first = heap.allocate(layout(SIZE)).unwrap();
    assert!(!is_populated(first, SIZE), "the control: the first one there");
    use_up(&heap, first, SIZE, SIZE);
    let second = heap.allocate(layout(SIZE)).unwrap();
    assert_eq!(second, first, "the same run");
    assert!(is_populated(second, SIZE) && !is_asked(second, SIZE));
    let bytes = unsafe { core::slice::from_raw_parts(second.as_ptr(), SIZE) };
    assert!(bytes.iter().all(|&byte| byte == 0));
    match figure(second, SIZE, "AnonHugePages") {
        0 => println!("skipped: the kernel has no huge page to give, or was told to give none"),
        huge => println!("{} of {} KiB on huge pages", huge >> 10, SIZE >> 10),
    }
    use_up(&heap, second, SIZE, SIZE);
    let stats = heap.stats();
    assert_eq!((stats.live_blocks, stats.in_use_bytes, stats.locked_bytes), (0, 0, 0));
}

#[test]
fn after_some_turns_one_is_looked_at() {
    skip_unless_lockable!(48);
    let heap = PrivateHeap::new(Policy::PROGRAM, ROOMY).unwrap();
    let turn = |touched| {
        let block = heap.allocate(layout(SIZE)).unwrap();
        let is_populated = is_populated(block, SIZE);
        use_up(&heap, block, SIZE, touched);
        is_populated
    };
    assert!(!turn(SIZE), "the first");
    // What these touch cannot be told.
    assert!((0..TURNS).all(|_| turn(1000)));
    // All of it, and its successor is populated again; a part, and none is.
    assert!(!turn(SIZE) && turn(1000));
    assert!((1..TURNS).all(|_| turn(1000)));
    assert!(!turn(SIZE / 2) && !turn(1000) && !turn(SIZE - (64 << 10)) && !turn(SIZE) && turn(SIZE));
}

#[test]
fn secrets_shorter_and_unlocked_blocks_come_by_faults() {
    // What is not locked is all wiped, and so in memory, however little was touched.
    for (policy, size) in [
        (Policy::PROGRAM.with_fork(Fork::Wipe), SIZE),
        (Policy::PROGRAM, LEAST_BYTES - 8192),
        (UNLOCKED, SIZE),
    ] {
        let heap = PrivateHeap::new(policy, ROOMY).unwrap();
        for _ in 0..3 {
            let block = heap.allocate(layout(size)).unwrap();
            assert!(!is_populated(block, size), "{policy:?}");
            use_up(&heap, block, size, size);
        }
    }
}

#[test]
fn whichever_hint_is_refused_no_page_is_moved() {
    skip_unless_lockable!(48);
    // Huge pages, all pages, no huge pages any more: after that only is there no block.
    let expected =
        [(0, Errno::NOMEM, true), (0, Errno::INVAL, true), (1, Errno::NOMEM, true), (2, Errno::NOMEM, false)];
    for (nth, errno, is_given) in expected {
        let heap = PrivateHeap::new(Policy::PROGRAM, ROOMY).unwrap();
        let first = heap.allocate(layout(SIZE)).unwrap();
        use_up(&heap, first, SIZE, SIZE);
        let before = fake::count(Call::Advise);
        let fault = fake::fail(Call::Advise, nth, errno);
        let second = heap.allocate(layout(SIZE));
        assert!(fake::count(Call::Advise) - before > nth, "the hint was given");
        drop(fault);
        assert_eq!(second.is_ok(), is_given, "hint {nth}, {errno:?}");
        if let Ok(block) = second {
            assert!(!is_populated(block, SIZE) && !is_asked(block, SIZE), "hint {nth}, {errno:?}");
            use_up(&heap, block, SIZE, SIZE);
        } else {
            assert!(is_asked(first, SIZE), "the control: the kernel has not heard of it yet");
        }
        let third = heap.allocate(layout(SIZE)).unwrap();
        assert!(third == first && is_populated(third, SIZE) && !is_asked(third, SIZE));
        use_up(&heap, third, SIZE, SIZE);
        assert_eq!(heap.stats().live_blocks, 0);
    }
}

/// Pages of another run are given up, and the same run is tried again.
#[test]
fn no_page_is_moved_after_a_second_try_either() {
    skip_unless_lockable!(48);
    let (heap, kept_size) = (PrivateHeap::new(Policy::PROGRAM, ROOMY).unwrap(), 2 << 20);
    let kept = heap.allocate(layout(kept_size)).unwrap();
    let first = heap.allocate(layout(SIZE)).unwrap();
    use_up(&heap, first, SIZE, SIZE);
    unsafe { heap.deallocate(kept, layout(kept_size), Flush::Off) };
    let fault = fake::fail(Call::Advise, 2, Errno::NOMEM);
    let second = heap.allocate(layout(SIZE)).unwrap();
    drop(fault);
    assert!(second == first && !is_asked(second, SIZE));
    use_up(&heap, second, SIZE, SIZE);
}
