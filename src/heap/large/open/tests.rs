//! Open runs seen from outside: `/proc/self/maps`, `/proc/self/mem`, the calls that are made.

// UNSAFETY: drives the raw interface of a private heap.
#![allow(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "tests drive the raw interface; what they do is what they test"
)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests"
)]

use core::ops::Range;
use core::ptr::NonNull;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{OPEN_BYTES, OPEN_EXTENT_BYTES};
use crate::heap::facade::private::PrivateHeap;
use crate::heap::large::testing::{ROOMY, UNLOCKED, layout};
use crate::heap::rng::Rng;
use crate::os::{Call, Errno, fake};
use crate::testing::skip_unless_lockable;
use crate::{Backing, Flush, Fork, Lock, Policy};

/// Closes its runs at once, and is refused nothing.
const SECRETS: Policy = UNLOCKED.with_fork(Fork::Wipe);
const PAGE: usize = 4096;

/// What is accessible of a heap without small blocks: mappings, those side by side as one.
fn accessible(heap: &PrivateHeap) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for line in std::fs::read_to_string("/proc/self/maps").unwrap().lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let start = usize::from_str_radix(start, 16).unwrap();
        let end = usize::from_str_radix(end, 16).unwrap();
        if !rest.starts_with('r') || !heap.addresses().contains(&start) {
            continue;
        }
        match found.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => found.push(start..end),
        }
    }
    found
}

/// The pages of a block.
fn pages_of(block: NonNull<u8>, size: usize) -> Range<usize> {
    let start = block.addr().get();
    start / PAGE * PAGE..(start + size).next_multiple_of(PAGE)
}

fn allocate(heap: &PrivateHeap, size: usize) -> NonNull<u8> {
    let block = heap.allocate(layout(size)).unwrap();
    assert!(bytes(block, size).iter().all(|&byte| byte == 0), "a new block is zero");
    block
}

fn bytes<'a>(block: NonNull<u8>, size: usize) -> &'a [u8] {
    unsafe { core::slice::from_raw_parts(block.as_ptr(), size) }
}

fn fill(block: NonNull<u8>, size: usize) {
    unsafe { block.write_bytes(0xa5, size) };
}

fn free(heap: &PrivateHeap, block: NonNull<u8>, size: usize) {
    unsafe { heap.deallocate(block, layout(size), Flush::Bounded) };
}

/// What the kernel reads there; `None` if it cannot.
fn from_outside(address: usize, size: usize) -> Option<Vec<u8>> {
    let mut found = vec![1; size];
    File::open("/proc/self/mem").unwrap().read_exact_at(&mut found, address as u64).ok()?;
    Some(found)
}

/// The system calls that large blocks make.
fn calls() -> usize {
    [Call::Protect, Call::Resident, Call::Lock, Call::Unlock, Call::Discard, Call::MovePages]
        .map(fake::count)
        .iter()
        .sum()
}

#[test]
fn the_same_size_again_costs_no_system_call() {
    let cycle = |heap: &PrivateHeap, size| {
        let block = heap.allocate(layout(size)).unwrap();
        fill(block, size);
        free(heap, block, size);
    };
    for size in [32_768, 65_536, 100_001, 400_000] {
        for (policy, expected) in [(Policy::PROGRAM, 0), (UNLOCKED, 0), (SECRETS, 40)] {
            let heap = PrivateHeap::new(policy, ROOMY).unwrap();
            (0..2).for_each(|_| cycle(&heap, size));
            let before = calls();
            (0..20).for_each(|_| cycle(&heap, size));
            assert_eq!(calls() - before, expected, "{size} bytes, {policy:?}");
        }
    }
}

#[test]
fn a_freed_block_is_zero() {
    let size = 100_001;
    for policy in [Policy::PROGRAM, UNLOCKED] {
        let heap = PrivateHeap::new(policy, ROOMY).unwrap();
        let block = allocate(&heap, size);
        fill(block, size);
        let pages = pages_of(block, size);
        let see = || from_outside(pages.start, pages.len());
        assert!(see().unwrap().iter().filter(|&&byte| byte == 0xa5).count() >= size, "the control");
        free(&heap, block, size);
        assert_eq!(accessible(&heap).as_slice(), core::slice::from_ref(&pages), "it stays open");
        assert!(see().unwrap().iter().all(|&byte| byte == 0));
        heap.give_up();
        assert_eq!(accessible(&heap), []);
        assert!(see().is_none_or(|bytes| bytes.iter().all(|&byte| byte == 0)));
        assert_eq!(heap.stats().resident_bytes, 0);
    }
}

#[test]
fn heaps_of_secrets_close_at_once() {
    let size = 100_000;
    let policies = [
        (UNLOCKED, true),
        (SECRETS, false),
        (UNLOCKED.with_fork(Fork::Exclude), false),
        (UNLOCKED.with_lock(Lock::Required), false),
        (Policy::SECRET.with_backing(Backing::Locked), false),
    ];
    for (policy, is_open) in policies {
        let heap = PrivateHeap::new(policy, ROOMY).unwrap();
        let Ok(block) = heap.allocate(layout(size)) else {
            println!("skipped: {policy:?} cannot lock so much here");
            continue;
        };
        fill(block, size);
        free(&heap, block, size);
        assert_eq!(accessible(&heap).len(), usize::from(is_open), "{policy:?}");
    }
}

#[test]
fn few_runs_stay_open_and_short_ones() {
    for (size, most) in
        [(40_000, 8), (65_536, 8), (400_000, 8), (900_000, 4), (OPEN_EXTENT_BYTES + 1, 0), (5 << 20, 0)]
    {
        let heap = PrivateHeap::new(UNLOCKED, ROOMY).unwrap();
        let blocks: Vec<_> = (0..30).map(|_| allocate(&heap, size)).collect();
        assert_eq!(accessible(&heap).len(), 30);
        for block in blocks {
            free(&heap, block, size);
        }
        let open = accessible(&heap);
        assert_eq!(open.len(), most, "blocks of {size}");
        assert!(open.iter().map(Range::len).sum::<usize>() <= OPEN_BYTES);
        heap.give_up();
        assert_eq!(accessible(&heap), []);
    }
}

#[test]
fn a_block_of_another_size_has_its_guards() {
    // Of one length class each.
    for [a, b] in [[120_000, 70_000], [70_000, 120_000], [65_536, 65_537], [33_000, 61_440]] {
        for policy in [Policy::PROGRAM, UNLOCKED] {
            let heap = PrivateHeap::new(policy, ROOMY).unwrap();
            for size in [a, b, b, a, b, a] {
                let before = calls();
                let block = allocate(&heap, size);
                assert_eq!(accessible(&heap), [pages_of(block, size)], "{size} of {a}, {b}");
                fill(block, size);
                free(&heap, block, size);
                assert!(calls() - before <= 4, "{} calls", calls() - before);
            }
        }
    }
}

#[test]
fn what_was_never_touched_takes_no_memory() {
    let size = 400_000;
    let heap = PrivateHeap::new(Policy::PROGRAM, ROOMY).unwrap();
    let cycle = |touched: usize| {
        for _ in 0..10 {
            let block = heap.allocate(layout(size)).unwrap();
            fill(block, touched);
            free(&heap, block, size);
        }
        heap.stats().resident_bytes / PAGE
    };
    let resident = cycle(PAGE);
    if heap.stats().locked_bytes == 0 {
        assert!(std::env::var_os("CI").is_none(), "this process may not lock 400 kB");
        println!("skipped: this process may not lock 400 kB");
        return;
    }
    // Two pages at the start, and the last one for the slack.
    assert!(resident <= 3, "{resident} pages");
    assert_eq!(cycle(size), size.div_ceil(PAGE), "the control");
}

/// Blocks of all lengths that may stay open, and longer ones, against what was written to them.
#[test]
fn random_blocks_keep_their_contents_and_leave_none() {
    for (policy, seed) in [(Policy::PROGRAM, 1), (UNLOCKED, 2), (SECRETS, 3)] {
        let heap = PrivateHeap::new(policy, ROOMY).unwrap();
        let mut rng = Rng::new(seed);
        let mut live: Vec<(NonNull<u8>, usize, usize)> = Vec::new();
        let sizes: Vec<usize> = (0..6).map(|_| 31_000 + rng.below(500_000) as usize).collect();
        for step in 0..1500 {
            if live.len() < 3 || live.len() < 10 && rng.below(2) == 0 {
                let size = match rng.below(4) {
                    0 => 31_000 + rng.below(700_000) as usize,
                    _ => sizes[rng.below(6) as usize] + rng.below(2) as usize * rng.below(9000) as usize,
                };
                let block = heap.allocate(layout(size)).unwrap();
                let touched = rng.below(size as u32 + 1) as usize / (1 + 9 * rng.below(2) as usize);
                fill(block, touched);
                live.push((block, size, touched));
            } else {
                let (block, size, touched) = live.swap_remove(rng.below(live.len() as u32) as usize);
                let (filled, rest) = bytes(block, size).split_at(touched);
                assert!(filled.iter().all(|&byte| byte == 0xa5), "contents");
                if rng.below(8) == 0 {
                    assert!(rest.iter().all(|&byte| byte == 0), "a new block is zero");
                }
                free(&heap, block, size);
                let left = from_outside(block.addr().get(), size);
                assert!(
                    left.is_none_or(|bytes| bytes.iter().all(|&byte| byte == 0)),
                    "a freed block is zero"
                );
            }
            if step % 50 == 0 {
                let accessible = accessible(&heap);
                for &(block, size, _) in &live {
                    assert!(accessible.contains(&pages_of(block, size)), "guards on both sides");
                }
                assert!(accessible.len() <= live.len() + 8);
            }
        }
        for (block, size, _) in live {
            free(&heap, block, size);
        }
        heap.give_up();
        assert_eq!(accessible(&heap), []);
        let stats = heap.stats();
        assert_eq!((stats.live_blocks, stats.in_use_bytes, stats.locked_bytes), (0, 0, 0), "{policy:?}");
    }
}

/// However many calls it took to find out.
#[test]
fn what_is_in_memory_is_asked_for_once() {
    // Of what is not locked nothing is asked for.
    skip_unless_lockable!(12);
    let size = 12 << 20;
    let heap = PrivateHeap::new(Policy::PROGRAM, ROOMY).unwrap();
    let asked = || {
        let block = allocate(&heap, size);
        fill(block, size);
        let before = fake::count(Call::Resident);
        free(&heap, block, size);
        fake::count(Call::Resident) - before
    };
    assert!(asked() > 1, "the control: more pages than one call tells of");
    assert_eq!(asked(), 0);
}

#[test]
fn whichever_call_is_refused_a_block_is_zero() {
    for policy in [Policy::PROGRAM, UNLOCKED] {
        let heap = PrivateHeap::new(policy, ROOMY).unwrap();
        let refused = fake::every_call_in_turn(Errno::NOMEM, |_| {
            for size in [120_000, 70_000, 120_000, 300_000, 400_000, 5 << 20, 90_000, 50_000] {
                if let Ok(block) = heap.allocate(layout(size)) {
                    assert!(bytes(block, size).iter().all(|&byte| byte == 0), "a new block is zero");
                    fill(block, size);
                    free(&heap, block, size);
                }
            }
            heap.give_up();
        });
        assert!(refused > 10, "{refused} refusals");
        let stats = heap.stats();
        assert_eq!((stats.live_blocks, stats.in_use_bytes), (0, 0));
    }
}
