//! The heap against a model, with the consistency walker after every few operations.

// UNSAFETY: takes blocks from the heap and gives them back by address.
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

use core::alloc::Layout;
use core::ptr::NonNull;
use std::collections::BTreeSet;

use super::facade::{of, private::PrivateHeap};
use super::geometry::{Constraints, UNIT_BYTES};
use super::rng::Rng;
use crate::{Backing, Error, Flush, Fork, Lock, Policy};

mod common;

const MODEST: Constraints = Constraints { memory_bytes: 256 << 20, max_threads: 8 };
const UNLOCKED: Policy = Policy::SECRET.with_backing(Backing::Locked).with_lock(Lock::Off);

struct Block {
    ptr: NonNull<u8>,
    layout: Layout,
    fill: u8,
}

impl Block {
    fn new(heap: &PrivateHeap, layout: Layout, fill: u8) -> Result<Self, Error> {
        let ptr = heap.allocate(layout)?;
        assert_eq!(ptr.addr().get() % layout.align(), 0, "{layout:?}");
        let block = Self { ptr, layout, fill };
        assert!(block.bytes().iter().all(|&byte| byte == 0), "a new block is all zero");
        unsafe { ptr.write_bytes(fill, layout.size()) };
        Ok(block)
    }

    fn bytes(&self) -> &[u8] {
        unsafe { core::slice::from_raw_parts(self.ptr.as_ptr(), self.layout.size()) }
    }

    fn check(&self) {
        assert!(self.bytes().iter().all(|&byte| byte == self.fill), "a block keeps its contents");
    }
}

fn random_layout(rng: &mut Rng) -> Layout {
    let size = match rng.below(16) {
        0..=9 => rng.below(200),
        10..=12 => rng.below(5000),
        13..=14 => rng.below(40_000),
        _ => rng.below(400_000),
    } as usize;
    let align = match rng.below(8) {
        0..=5 => 1 << rng.below(5),
        6 => 1 << rng.below(13),
        _ => 1 << rng.below(17),
    };
    Layout::from_size_align(size, align).unwrap()
}

fn churn(heap: &PrivateHeap, seed: u64, operations: u32, flush: Flush) {
    let mut rng = Rng::new(seed);
    let mut live: Vec<Block> = Vec::new();
    for i in 0..operations {
        match rng.below(5) {
            0 | 1 => live.push(Block::new(heap, random_layout(&mut rng), 1 + rng.below(255) as u8).unwrap()),
            2 if !live.is_empty() => {
                let index = rng.below(live.len() as u32) as usize;
                let block = &mut live[index];
                block.check();
                let new_size = random_layout(&mut rng).size();
                let old_size = block.layout.size();
                block.ptr = unsafe { heap.reallocate(block.ptr, block.layout, new_size, flush) }.unwrap();
                block.layout = Layout::from_size_align(new_size, block.layout.align()).unwrap();
                let kept = old_size.min(new_size);
                assert!(block.bytes()[..kept].iter().all(|&byte| byte == block.fill));
                assert!(block.bytes()[kept..].iter().all(|&byte| byte == 0), "what is new is zero");
                unsafe { block.ptr.write_bytes(block.fill, new_size) };
            }
            _ if !live.is_empty() => {
                let block = live.swap_remove(rng.below(live.len() as u32) as usize);
                block.check();
                unsafe { heap.deallocate(block.ptr, block.layout, flush) };
            }
            _ => {}
        }
        if i % 64 == 0 {
            heap.walk();
        }
        if live.len() > 300 {
            for block in live.drain(..250) {
                block.check();
                unsafe { heap.deallocate(block.ptr, block.layout, flush) };
            }
        }
    }
    for block in live {
        block.check();
        unsafe { heap.deallocate(block.ptr, block.layout, flush) };
    }
    assert_eq!(heap.walk().live_blocks, 0);
}

#[test]
fn random_operations_keep_every_record_consistent() {
    for (seed, flush) in [(1, Flush::Off), (2, Flush::Bounded), (3, Flush::Immediate)] {
        let heap = PrivateHeap::new(UNLOCKED, MODEST).unwrap();
        churn(&heap, seed, 6_000, flush);
        let stats = heap.stats();
        assert_eq!((stats.live_blocks, stats.live_bytes), (0, 0));
        heap.give_up();
        assert_eq!(heap.stats().in_use_bytes, 0, "everything went back to the pool");
        assert_eq!(heap.stats().resident_bytes, 0, "and to the kernel");
    }
}

#[test]
fn random_operations_locked_and_pinned() {
    let heap = PrivateHeap::new(Policy::SECRET.with_lock(Lock::BestEffort), MODEST).unwrap();
    churn(&heap, 4, 2_000, Flush::Immediate);
}

#[test]
fn every_boundary_size_and_alignment() {
    let heap = PrivateHeap::new(UNLOCKED, Constraints { memory_bytes: 8 << 30, max_threads: 2 }).unwrap();
    for shift in 0..=30 {
        for size in [0, 1, 7, 8, 9, 24, 25, 1032, 1033, 4096, 8184, 8185, 30_680, 30_681, 65_536, 1 << 20] {
            let layout = Layout::from_size_align(size, 1 << shift).unwrap();
            let block = Block::new(&heap, layout, 7).unwrap();
            unsafe { heap.deallocate(block.ptr, layout, Flush::Off) };
        }
    }
    heap.walk();
}

#[test]
fn what_cannot_be_had_is_an_error() {
    let heap = PrivateHeap::new(UNLOCKED, MODEST).unwrap();
    let huge = Layout::from_size_align(1 << 40, 16).unwrap();
    assert!(matches!(heap.allocate(huge), Err(Error::HeapFull { .. } | Error::TooLarge)));
    let most = Layout::from_size_align(isize::MAX as usize - 4096, 1).unwrap();
    assert!(heap.allocate(most).is_err());
    // Use the heap up, give all of it back, and use it again.
    for _ in 0..2 {
        let layout = Layout::from_size_align(30_000, 16).unwrap();
        let mut blocks = Vec::new();
        while let Ok(ptr) = heap.allocate(layout) {
            blocks.push(ptr);
        }
        assert!(blocks.len() > 1000);
        assert!(matches!(heap.allocate(layout), Err(Error::HeapFull { .. })));
        for ptr in blocks {
            unsafe { heap.deallocate(ptr, layout, Flush::Off) };
        }
    }
    heap.walk();
}

/// Where the heap is full, free slots of one size are no reason to refuse a block of another.
#[test]
fn what_is_at_hand_of_one_size_gives_way_to_another() {
    let small = Layout::from_size_align(24, 8).unwrap();
    let large = Layout::from_size_align(700, 8).unwrap();
    for policy in [UNLOCKED, Policy::PROGRAM.with_lock(Lock::Off)] {
        let constraints = Constraints { memory_bytes: 16 << 20, max_threads: 2 };
        let fill = |heap: &PrivateHeap, layout| core::iter::from_fn(|| heap.allocate(layout).ok()).collect();
        let fresh = PrivateHeap::new(policy, constraints).unwrap();
        let most: Vec<NonNull<u8>> = fill(&fresh, large);
        assert!(most.len() > 1000, "{}", most.len());
        let heap = PrivateHeap::new(policy, constraints).unwrap();
        let blocks: Vec<NonNull<u8>> = fill(&heap, small);
        // The last that are freed, and so at hand, come from slabs all over the heap.
        let (last, first): (Vec<_>, Vec<_>) = blocks.iter().enumerate().partition(|(i, _)| i % 1021 == 0);
        assert!(last.len() > 50, "{}", last.len());
        for (_, &ptr) in first.into_iter().chain(last) {
            unsafe { heap.deallocate(ptr, small, Flush::Off) };
        }
        let blocks: Vec<_> = fill(&heap, large);
        assert_eq!(blocks.len(), most.len());
        for ptr in blocks {
            unsafe { heap.deallocate(ptr, large, Flush::Off) };
        }
        assert_eq!(heap.walk().live_blocks, 0);
    }
}

#[test]
fn blocks_pass_between_threads() {
    const POLICY: Policy = Policy::PROGRAM.with_fork(Fork::Wipe).with_lock(Lock::Off);
    let heap = of(POLICY);
    let threads: Vec<_> = (0..4)
        .map(|id| {
            std::thread::spawn(move || {
                let mut rng = Rng::new(id);
                let mut made = Vec::new();
                for _ in 0..20_000 {
                    let layout = Layout::from_size_align(1 + rng.below(600) as usize, 8).unwrap();
                    let ptr = heap.allocate(layout).unwrap();
                    unsafe { ptr.write_bytes(0xa5, layout.size()) };
                    made.push((ptr.as_ptr() as usize, layout));
                }
                made
            })
        })
        .collect();
    let made: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    let half = made.len() / 2;
    std::thread::scope(|scope| {
        for part in [&made[..half], &made[half..]] {
            scope.spawn(move || {
                for &(address, layout) in part {
                    let ptr = NonNull::new(address as *mut u8).unwrap();
                    unsafe { heap.deallocate(ptr, layout, Flush::Bounded) };
                }
            });
        }
    });
    // The thread heaps of the four are idle now: their slots come home when they are taken over.
    let (_, stats) = heap.stats().unwrap();
    assert_eq!(stats.live_blocks, 0);
    assert!(stats.thread_heaps <= 8, "{stats:?}");
}

#[test]
fn pending_lines_stay_within_their_bound_and_a_flush_clears_what_a_thread_leaves() {
    const POLICY: Policy = Policy::PROGRAM.with_lock(Lock::Off).with_fork(Fork::Exclude);
    let heap = of(POLICY);
    let pending = move || heap.stats().unwrap().1.pending_lines;
    std::thread::spawn(move || {
        let layout = Layout::from_size_align(100, 8).unwrap();
        // Three times the lines that the table has places for.
        for count in [1000, 3 * super::PENDING_LINES / 2, 1000] {
            let blocks: Vec<_> = (0..count).map(|_| heap.allocate(layout).unwrap()).collect();
            for ptr in blocks {
                unsafe { heap.deallocate(ptr, layout, Flush::Bounded) };
            }
            assert!(pending() > 0 && pending() <= super::PENDING_LINES, "{} lines", pending());
        }
        // What the end of a scope does.
        heap.flush_thread();
        assert_eq!(pending(), 0, "written back, and forgotten");
        // Few enough lines that none is pushed out: all of them go with the free that is one too many. What has a slot
        // of 112 bytes is freed.
        let ptr = heap.allocate(layout).unwrap();
        unsafe { heap.deallocate(ptr, layout, Flush::Bounded) };
        let lines = pending();
        // Three, of which one counts twice where two groups meet.
        assert!((1..=4).contains(&lines), "{lines} lines");
        for _ in 1..super::BYTES_PER_FENCE.div_ceil(112) {
            let ptr = heap.allocate(layout).unwrap();
            unsafe { heap.deallocate(ptr, layout, Flush::Bounded) };
        }
        assert_eq!(pending(), 0, "written back after so many bytes");
        let ptr = heap.allocate(layout).unwrap();
        unsafe { heap.deallocate(ptr, layout, Flush::Bounded) };
        assert!(pending() > 0);
    })
    .join()
    .unwrap();
    assert_eq!(heap.stats().unwrap().1.pending_lines, 0, "a thread that ends leaves none");
}

#[test]
fn steady_use_needs_no_new_memory() {
    let heap = PrivateHeap::new(UNLOCKED, MODEST).unwrap();
    let layout = Layout::from_size_align(32, 8).unwrap();
    for _ in 0..1000 {
        let ptr = heap.allocate(layout).unwrap();
        unsafe { heap.deallocate(ptr, layout, Flush::Off) };
    }
    let before = heap.stats();
    for _ in 0..100_000 {
        let ptr = heap.allocate(layout).unwrap();
        unsafe { heap.deallocate(ptr, layout, Flush::Off) };
    }
    assert_eq!(heap.stats(), before);
}

#[test]
fn trim_gives_back_what_the_thread_keeps() {
    const POLICY: Policy = Policy::SECRET.with_backing(Backing::Locked).with_lock(Lock::BestEffort);
    std::thread::spawn(|| {
        let heap = of(POLICY);
        let layout = Layout::from_size_align(2000, 8).unwrap();
        let blocks: Vec<_> = (0..200).map(|_| heap.allocate(layout).unwrap()).collect();
        let kept = heap.allocate(layout).unwrap();
        for ptr in blocks {
            unsafe { heap.deallocate(ptr, layout, Flush::Off) };
        }
        crate::trim();
        let (_, stats) = heap.stats().unwrap();
        assert_eq!(stats.in_use_bytes, 1 << 16, "one slab, for the block that is in use: {stats:?}");
        assert!(stats.resident_bytes <= 1 << 16);
        unsafe { heap.deallocate(kept, layout, Flush::Off) };
    })
    .join()
    .unwrap();
}

#[test]
fn freed_pages_are_kept_for_the_next_block_and_grow_with_it() {
    for policy in [UNLOCKED, Policy::SECRET.with_lock(Lock::BestEffort)] {
        let heap = PrivateHeap::new(policy, MODEST).unwrap();
        let first = Block::new(&heap, Layout::from_size_align(50_000, 8).unwrap(), 1).unwrap();
        unsafe { heap.deallocate(first.ptr, first.layout, Flush::Off) };
        let kept = heap.stats();
        assert_eq!((kept.live_blocks, kept.in_use_bytes), (0, 0));
        if cfg!(not(oubliette_portable)) {
            // The portable backend cannot tell what is resident.
            assert_eq!(kept.resident_bytes, 53_248, "thirteen pages: {kept:?}");
        }
        // Shorter, then longer than what is kept; all of it reads as zero, as `Block::new` checks.
        for size in [40_000, 61_000, 50_000] {
            let block = Block::new(&heap, Layout::from_size_align(size, 8).unwrap(), 2).unwrap();
            assert_eq!(block.ptr.as_ptr() as usize >> 16, first.ptr.as_ptr() as usize >> 16, "the same run");
            unsafe { heap.deallocate(block.ptr, block.layout, Flush::Immediate) };
        }
        heap.give_up();
        let after = heap.stats();
        assert_eq!((after.resident_bytes, after.locked_bytes, after.pinned_bytes), (0, 0, 0), "{after:?}");
    }
}

#[test]
fn the_heap_of_a_program_keeps_longer_blocks_than_one_of_secrets() {
    if cfg!(oubliette_portable) {
        return println!("skipped: the portable backend cannot tell what is resident");
    }
    const MIB: usize = 1 << 20;
    let program = UNLOCKED.with_fork(Fork::Inherit);
    for (policy, mib, is_kept) in
        [(program, 20, true), (program, 40, false), (UNLOCKED, 3, true), (UNLOCKED, 20, false)]
    {
        let roomy = Constraints { memory_bytes: 1 << 30, ..MODEST };
        let heap = PrivateHeap::new(policy, roomy).unwrap();
        let block = Block::new(&heap, Layout::from_size_align(mib * MIB, 16).unwrap(), 1).unwrap();
        unsafe { heap.deallocate(block.ptr, block.layout, Flush::Off) };
        let kept = heap.stats().resident_bytes;
        assert_eq!(kept, if is_kept { mib * MIB } else { 0 }, "{mib} MiB of {policy:?}");
        // Not more than 64 MiB in all.
        let blocks: Vec<_> = (0..4)
            .map(|_| Block::new(&heap, Layout::from_size_align(mib * MIB, 16).unwrap(), 1).unwrap())
            .collect();
        for block in blocks {
            unsafe { heap.deallocate(block.ptr, block.layout, Flush::Off) };
        }
        assert!(heap.stats().resident_bytes <= 64 * MIB, "{:?}", heap.stats());
        heap.give_up();
        assert_eq!(heap.stats().resident_bytes, 0);
    }
}

#[test]
fn the_heap_of_a_program_keeps_half_of_what_it_uses_and_takes_longer_runs_for_shorter_blocks() {
    if cfg!(oubliette_portable) {
        return println!("skipped: the portable backend cannot tell what is resident");
    }
    const MIB: usize = 1 << 20;
    let of = |mib: usize| Layout::from_size_align(mib * MIB, 16).unwrap();
    let program = UNLOCKED.with_fork(Fork::Inherit);
    // Up to half as long again as needed.
    for (policy, next_mib, is_found) in [
        (program, 15, true),
        (program, 12, true),
        (program, 7, false),
        (program, 20, false),
        (UNLOCKED, 15, false),
    ] {
        let heap = PrivateHeap::new(policy, Constraints { memory_bytes: 1 << 30, ..MODEST }).unwrap();
        // In use, and not in memory: they are never touched.
        let others: Vec<_> = (0..9).map(|_| heap.allocate(of(20)).unwrap()).collect();
        let blocks: Vec<_> = (0..8).map(|_| Block::new(&heap, of(15), 1).unwrap()).collect();
        for block in blocks {
            unsafe { heap.deallocate(block.ptr, block.layout, Flush::Off) };
        }
        // Before the seventh is freed 210 MiB are in use: seven make half of it. Before the eighth, 195.
        let kept = heap.stats().resident_bytes;
        assert_eq!(kept, if policy == program { 7 * 15 * MIB } else { 0 }, "{policy:?}");
        let next = Block::new(&heap, of(next_mib), 2).unwrap();
        let grown = heap.stats().resident_bytes - kept;
        assert_eq!(grown, if is_found { 0 } else { next_mib * MIB }, "{next_mib} MiB of {policy:?}");
        unsafe { heap.deallocate(next.ptr, next.layout, Flush::Off) };
        for other in others {
            unsafe { heap.deallocate(other, of(20), Flush::Off) };
        }
        heap.give_up();
        assert_eq!(heap.stats().resident_bytes, 0);
    }
}

#[test]
fn pages_that_are_added_to_kept_ones_are_pinned_and_counted_once() {
    let heap = PrivateHeap::new(Policy::SECRET.with_lock(Lock::BestEffort), MODEST).unwrap();
    let other = Block::new(&heap, Layout::from_size_align(200_000, 8).unwrap(), 1).unwrap();
    if heap.stats().pinned_bytes == 0 {
        return println!("skipped: nothing can be pinned here");
    }
    let others = heap.stats().pinned_bytes;
    for (size, pages) in [(50_000, 13), (40_000, 13), (61_000, 15), (33_000, 15)] {
        let block = Block::new(&heap, Layout::from_size_align(size, 8).unwrap(), 2).unwrap();
        assert_eq!(heap.stats().pinned_bytes, others + pages * 4096, "{size}");
        unsafe { heap.deallocate(block.ptr, block.layout, Flush::Off) };
    }
    unsafe { heap.deallocate(other.ptr, other.layout, Flush::Off) };
    heap.give_up();
    assert_eq!((heap.stats().pinned_bytes, heap.stats().locked_bytes), (0, 0));
}

/// Fills and empties the heap, and returns the bytes resident when full and when empty again.
fn fill_and_empty(heap: &PrivateHeap) -> [usize; 2] {
    let layout = Layout::from_size_align(1000, 8).unwrap();
    let blocks: Vec<_> = (0..8000).map(|_| Block::new(heap, layout, 3).unwrap()).collect();
    let full = heap.stats().resident_bytes;
    for block in blocks {
        unsafe { heap.deallocate(block.ptr, layout, Flush::Off) };
    }
    [full, heap.stats().resident_bytes]
}

#[cfg(all(target_os = "linux", not(oubliette_portable)))]
#[test]
fn empty_units_stay_warm_for_a_while_and_are_given_back_then() {
    let heap = PrivateHeap::new(UNLOCKED, MODEST).unwrap();
    let [full, empty] = fill_and_empty(&heap);
    assert!(full > 8_000_000 && empty * 10 > full * 9, "{full} resident, {empty} when empty: kept");
    let [again, _] = fill_and_empty(&heap);
    assert!(again < full + 200_000, "{again} resident at the second time, {full} at the first: used again");
    heap.walk();
    // What two whole periods did without goes, though a slab comes back now and then.
    for _ in 0..3 {
        std::thread::sleep(core::time::Duration::from_millis(600));
        let layout = Layout::from_size_align(20_000, 8).unwrap();
        let blocks: Vec<_> = (0..40).map(|_| Block::new(&heap, layout, 4).unwrap()).collect();
        for block in blocks {
            unsafe { heap.deallocate(block.ptr, layout, Flush::Off) };
        }
    }
    let later = heap.stats().resident_bytes;
    assert!(later < full / 3, "{later} resident after three periods, {full} when full");
    heap.walk();
    let [full, _] = fill_and_empty(&heap);
    heap.give_up();
    assert!(heap.stats().resident_bytes < full / 50, "trim gives all of it back");
}

/// Where blocks lie in their slab, in the order of their birth.
fn places(blocks: &[Block]) -> Vec<usize> {
    blocks.iter().map(|block| block.ptr.addr().get() % UNIT_BYTES).collect()
}

/// How often a block lies before the one that was made before it.
fn steps_back(blocks: &[Block]) -> usize {
    places(blocks).windows(2).filter(|pair| pair[1] < pair[0]).count()
}

#[test]
fn blocks_of_a_program_lie_in_the_order_of_their_birth_from_a_random_place_on() {
    let layout = Layout::new::<[u8; 100]>();
    let mut rng = Rng::new(17);
    let mut starts = BTreeSet::new();
    for round in 0..24 {
        let heap = PrivateHeap::new(UNLOCKED.with_fork(Fork::Inherit), MODEST).unwrap();
        let make = || Block::new(&heap, layout, 7).unwrap();
        // Less than a slab, with what the thread has at hand besides.
        let mut blocks: Vec<Block> = (0..400).map(|_| make()).collect();
        starts.insert(places(&blocks)[0]);
        // From the end of the slab on to its start.
        assert!(steps_back(&blocks) <= 1, "round {round}: {:?}", places(&blocks));
        // Freed in disorder, and put back.
        for _ in 0..300 {
            let block = blocks.swap_remove(rng.below(blocks.len() as u32) as usize);
            unsafe { heap.deallocate(block.ptr, block.layout, Flush::Off) };
        }
        heap.give_up();
        let again: Vec<Block> = (0..250).map(|_| make()).collect();
        assert!(steps_back(&again) <= 1, "round {round}: {:?}", places(&again));
        for block in blocks.into_iter().chain(again) {
            unsafe { heap.deallocate(block.ptr, block.layout, Flush::Off) };
        }
        heap.walk();
    }
    assert!(starts.len() >= 12, "{starts:?}");
    // The control: secrets are drawn by lot.
    let heap = PrivateHeap::new(UNLOCKED, MODEST).unwrap();
    let secrets: Vec<Block> = (0..400).map(|_| Block::new(&heap, layout, 7).unwrap()).collect();
    assert!(steps_back(&secrets) > 100, "{:?}", places(&secrets));
    for block in secrets {
        unsafe { heap.deallocate(block.ptr, block.layout, Flush::Off) };
    }
}

#[cfg(all(target_os = "linux", not(oubliette_portable)))]
#[test]
fn a_page_is_faulted_in_once() {
    let heap = PrivateHeap::new(UNLOCKED, MODEST).unwrap();
    let faults = || {
        let mut usage: libc::rusage = unsafe { core::mem::zeroed() };
        assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) }, 0);
        usize::try_from(usage.ru_minflt).unwrap()
    };
    let layout = Layout::from_size_align(200, 8).unwrap();
    let count = 40_000;
    let mut blocks = Vec::with_capacity(count);
    blocks.resize(count, NonNull::dangling());
    let (before, resident) = (faults(), heap.stats().resident_bytes);
    for block in &mut blocks {
        *block = heap.allocate(layout).unwrap();
        unsafe { block.write(1) };
    }
    let pages = (heap.stats().resident_bytes - resident) / 4096;
    let taken = faults() - before;
    // A tenth for the tables, whose pages are read first.
    assert!(pages > 2000 && taken < pages + pages / 10, "{taken} faults for {pages} pages");
    for block in blocks {
        unsafe { heap.deallocate(block, layout, Flush::Off) };
    }
}

#[test]
fn many_large_blocks_share_mappings() {
    if crate::os::features().guard_install != crate::os::Support::Yes {
        println!("skipped: this system has no guards that cost no mapping");
        return;
    }
    let heap = PrivateHeap::new(UNLOCKED, Constraints { memory_bytes: 16 << 30, max_threads: 1 }).unwrap();
    let layout = Layout::from_size_align(40_000, 16).unwrap();
    let blocks: Vec<_> = (0..20_000).map(|_| heap.allocate(layout).unwrap()).collect();
    // Those of this heap: other tests make and end mappings meanwhile.
    let zone = heap.addresses();
    let made = crate::testing::mappings(zone.start, zone.len()).len();
    assert!(made < 2 * 8192 + 100, "{made} mappings for 20,000 blocks");
    let (early, late) = (blocks[10], blocks[19_990]);
    for ptr in [early, late] {
        unsafe { ptr.write_bytes(7, layout.size()) };
        unsafe { heap.deallocate(ptr, layout, Flush::Off) };
    }
    let again: Vec<_> = [(); 2].map(|()| Block::new(&heap, layout, 9).unwrap()).into_iter().collect();
    assert!(again.iter().any(|block| block.ptr == late), "a crowded run is used again, and found zero");
    for block in again {
        unsafe { heap.deallocate(block.ptr, layout, Flush::Off) };
    }
    for (i, ptr) in blocks.into_iter().enumerate() {
        if i != 10 && i != 19_990 {
            unsafe { heap.deallocate(ptr, layout, Flush::Off) };
        }
    }
    let stats = heap.stats();
    assert_eq!((stats.live_blocks, stats.in_use_bytes), (0, 0));
}
