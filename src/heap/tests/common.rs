//! Slabs whose blocks pass between threads: two thread heaps in one heap.

use core::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::heap::corruption::Corruption;
use crate::heap::thread::Keeper;

const PROGRAM: Policy = Policy::PROGRAM.with_lock(Lock::Off);

fn two(policy: Policy) -> (PrivateHeap, PrivateHeap) {
    let first = PrivateHeap::new(policy, MODEST).unwrap();
    let second = first.another_thread().unwrap();
    (first, second)
}

/// `owner` allocates and `other` frees until the slabs are common, and then once more.
fn pass(owner: &PrivateHeap, other: &PrivateHeap, layout: Layout) {
    for _ in 0..4 {
        let blocks: Vec<_> = (0..200).map(|_| Block::new(owner, layout, 3).unwrap()).collect();
        for block in blocks {
            unsafe { other.deallocate(block.ptr, layout, Flush::Off) };
        }
    }
}

#[test]
fn two_threads_keep_every_record_consistent() {
    for (seed, policy, flush) in [(5, PROGRAM, Flush::Bounded), (6, UNLOCKED, Flush::Off)] {
        let (a, b) = two(policy);
        let heaps = [&a, &b];
        let mut rng = Rng::new(seed);
        let mut live: Vec<Block> = Vec::new();
        let (mut most_foreign, mut nr_stayed) = (0, 0);
        for i in 0..12_000 {
            // Now one allocates and the other frees, now both do both.
            let maker = heaps[if i / 2000 % 2 == 0 { 0 } else { rng.below(2) as usize }];
            let freer = heaps[if i / 2000 % 2 == 0 { 1 } else { rng.below(2) as usize }];
            match rng.below(8) {
                0..=3 if live.len() < 300 => {
                    let most = [30_000, 300][usize::from(rng.below(8) != 0)];
                    let size = rng.below(most) as usize;
                    let layout = Layout::from_size_align(size, 8).unwrap();
                    live.push(Block::new(maker, layout, 1 + rng.below(255) as u8).unwrap());
                }
                4 if !live.is_empty() => {
                    let index = rng.below(live.len() as u32) as usize;
                    let block = &mut live[index];
                    let (old_size, at) = (block.layout.size(), block.ptr);
                    let new_size = old_size + 1 + rng.below(20) as usize;
                    block.ptr = unsafe { freer.reallocate(at, block.layout, new_size, flush) }.unwrap();
                    block.layout = Layout::from_size_align(new_size, 8).unwrap();
                    assert!(block.bytes()[old_size..].iter().all(|&byte| byte == 0), "what is new is zero");
                    unsafe { block.ptr.write_bytes(block.fill, new_size) };
                    nr_stayed += usize::from(block.ptr == at);
                }
                _ if !live.is_empty() => {
                    let block = live.swap_remove(rng.below(live.len() as u32) as usize);
                    block.check();
                    unsafe { freer.deallocate(block.ptr, block.layout, flush) };
                }
                _ => {}
            }
            if i % 64 == 0 {
                assert_eq!(a.walk_with(&b).live_blocks, live.len());
                most_foreign = most_foreign.max(a.nr_foreign()).max(b.nr_foreign());
            }
        }
        // Slots of secrets always go home.
        assert_eq!(most_foreign > 20, policy.fork() == Fork::Inherit, "{most_foreign}");
        assert!(nr_stayed > 100, "{nr_stayed}");
        for block in live {
            unsafe { b.deallocate(block.ptr, block.layout, flush) };
        }
        // Each sends home what it has of the other, which then takes it.
        for heap in [&a, &b, &a] {
            heap.give_up();
        }
        assert_eq!(a.walk_with(&b), Default::default());
        let stats = a.stats();
        assert_eq!((stats.live_blocks, stats.in_use_bytes, stats.pending_lines), (0, 0, 0));
    }
}

/// A thread that is about to end, or trims, sends home what it has of others.
#[test]
fn slots_of_others_go_home() {
    for size in [40, 1000, 8000] {
        let layout = Layout::from_size_align(size, 8).unwrap();
        let (a, b) = two(PROGRAM);
        pass(&a, &b, layout);
        assert!(b.nr_foreign() > 3, "{size}: {}", b.nr_foreign());
        let blocks: Vec<_> = (0..b.nr_foreign()).map(|_| Block::new(&b, layout, 9).unwrap()).collect();
        assert!(b.nr_foreign() <= 16, "taken from at hand, but for what is held back: {}", b.nr_foreign());
        for block in blocks {
            unsafe { b.deallocate(block.ptr, layout, Flush::Off) };
        }
        a.give_up();
        assert_ne!(a.stats().in_use_bytes, 0, "{size}: the other has slots of it");
        b.give_up();
        assert_eq!(b.nr_foreign(), 0);
        a.give_up();
        assert_eq!(a.stats().in_use_bytes, 0, "{size}");
    }
}

/// Whoever frees a block of a common slab second is told, however close behind the first: its owner too.
#[test]
fn of_two_threads_that_free_a_block_at_once_one_is_told() {
    struct Sent<'a>(&'a PrivateHeap);
    // SAFETY: only the thread that it is sent to uses it until that has ended.
    unsafe impl Send for Sent<'_> {}
    const ROUNDS: usize = 2_000;

    for size in [40, 1000, 8000] {
        let layout = Layout::from_size_align(size, 8).unwrap();
        let (a, b) = two(PROGRAM);
        pass(&a, &b, layout);
        let (nr_waits, block) = (AtomicUsize::new(0), AtomicUsize::new(0));
        // Two threads leave it within nanoseconds of each other, if both run.
        let wait = || {
            let goal = nr_waits.fetch_add(1, Ordering::AcqRel) / 2 * 2 + 2;
            for nr_looks in 1_u32.. {
                if nr_waits.load(Ordering::Acquire) >= goal {
                    break;
                }
                if nr_looks.is_multiple_of(10_000) {
                    std::thread::yield_now();
                }
            }
        };
        let free = |heap: &PrivateHeap| {
            wait();
            let address = block.load(Ordering::Relaxed);
            let ptr = NonNull::new(core::ptr::with_exposed_provenance_mut(address)).unwrap();
            let outcome = unsafe { heap.try_deallocate(ptr, layout, Flush::Off) };
            wait();
            outcome
        };
        let (ours, theirs) = std::thread::scope(|scope| {
            let other = Sent(&b);
            let thread = scope.spawn(move || {
                let other = other;
                (0..ROUNDS).map(|_| free(other.0)).collect::<Vec<_>>()
            });
            let mut ours = Vec::new();
            let mut not_common = Vec::new();
            for _ in 0..ROUNDS {
                let ptr = loop {
                    let ptr = a.allocate(layout).unwrap();
                    if a.keeper_of(ptr) == Some(Keeper::Freer) {
                        break ptr;
                    }
                    not_common.push(ptr);
                    assert!(not_common.len() < 200, "no slab is common");
                };
                block.store(ptr.as_ptr().expose_provenance(), Ordering::Relaxed);
                ours.push(free(&a));
            }
            for ptr in not_common {
                unsafe { a.deallocate(ptr, layout, Flush::Off) };
            }
            (ours, thread.join().unwrap())
        });
        for outcomes in ours.into_iter().zip(theirs) {
            match outcomes {
                (Ok(()), Err(Corruption::DoubleFree)) | (Err(Corruption::DoubleFree), Ok(())) => {}
                _ => panic!("{size}: {outcomes:?}"),
            }
        }
        a.walk_with(&b);
    }
}
