//! Bugs that were found once, each with the program that showed it. Races run for a second each: long enough
//! to fail within a few runs, where they were left in.
#![expect(unsafe_code, reason = "uses the allocator directly, and forks")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::unwrap_used,
    reason = "a test may panic, and drives the raw interface: what it does is what it tests"
)]
#![cfg(target_os = "linux")]

use std::alloc::{GlobalAlloc, Layout};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, mpsc};
use std::time::{Duration, Instant};

use oubliette::{Fork, HeapReport, Lock, Oubliette, Policy, SecretBox, SecretVec, purge, report};

const WHILE: Duration = Duration::from_secs(1);

/// A purge reaches the blocks of every test in this process, and children that are forked in the midst of it.
static PURGES: RwLock<()> = RwLock::new(());

/// For a test that is not about the purges of another.
fn unpurged() -> RwLockReadGuard<'static, ()> {
    PURGES.read().unwrap_or_else(PoisonError::into_inner)
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

/// Runs `body` in a child made by fork and gives the status that it ends with.
fn forked(body: impl FnOnce()) -> i32 {
    let child = unsafe { libc::fork() };
    if child == 0 {
        // No core file, whose flag would be in the status.
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
        // A panic may wait for ever for what another thread of the parent held: then this ends the child.
        unsafe { libc::alarm(60) };
        let passed = catch_unwind(AssertUnwindSafe(body)).is_ok();
        unsafe { libc::_exit(i32::from(!passed)) };
    }
    let mut status = 0;
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    status
}

/// A block without slack got its marker where its canary goes, and for a moment whoever freed the block behind
/// it took that for an underflow.
#[test]
fn a_free_beside_an_allocation_is_no_underflow() {
    let _unpurged = unpurged();
    static HEAP: Oubliette = Oubliette::with_policy(Policy::PROGRAM.with_lock(Lock::Off));
    let exact = layout(24);
    let (send, receive) = mpsc::sync_channel::<Vec<usize>>(64);
    let freer = std::thread::spawn(move || {
        for address in receive.into_iter().flatten() {
            unsafe { HEAP.dealloc(ptr::with_exposed_provenance_mut(address), exact) };
        }
    });
    let end = Instant::now() + WHILE;
    while Instant::now() < end {
        let blocks = (0..64).map(|_| {
            for _ in 0..8 {
                unsafe { HEAP.dealloc(HEAP.alloc(exact), exact) };
            }
            unsafe { HEAP.alloc(exact) }.expose_provenance()
        });
        send.send(blocks.collect()).unwrap();
    }
    drop(send);
    freer.join().unwrap();
}

/// A purge wrote to the pages of a large block while its owner took their access away: SIGSEGV. And it took the
/// marker of a small one, but not yet its canary, when the owner freed it: an overflow that never was.
#[test]
fn a_purge_beside_frees_ends_nothing() {
    let _alone = PURGES.write().unwrap_or_else(PoisonError::into_inner);
    let end = Instant::now() + WHILE;
    std::thread::scope(|scope| {
        for number in 0..3 {
            scope.spawn(move || {
                let mut count = 0;
                while Instant::now() < end {
                    count += 1;
                    let Ok(small) = SecretBox::<[u8; 10]>::new_with(|b| b.fill(1)) else { continue };
                    let medium = SecretVec::<u8>::new_with(20_000, |b| b.fill(2));
                    let large = SecretVec::<u8>::new_with(35_000 + count % 3 * 100_000, |b| b.fill(3));
                    let mut grown = SecretVec::new();
                    for byte in 0..100 {
                        let _ = grown.push(byte + number);
                    }
                    drop((small, medium, large, grown));
                }
            });
        }
        while Instant::now() < end {
            purge();
        }
    });
}

/// In a child that does not get the memory, a purge (also the one at its exit) wrote to it: SIGSEGV.
#[test]
fn a_child_without_the_memory_may_purge() {
    let _unpurged = unpurged();
    static HEAP: Oubliette =
        Oubliette::with_policy(Policy::PROGRAM.with_fork(Fork::Exclude).with_lock(Lock::Off));
    let (small, large) = (layout(100), layout(100_000));
    let (p, q) = unsafe { (HEAP.alloc(small), HEAP.alloc(large)) };
    assert!(!p.is_null() && !q.is_null());
    assert_eq!(forked(purge), 0, "before its first use of the heap");
    let used = || unsafe {
        let own = HEAP.alloc(large);
        assert!(!own.is_null());
        own.write(1);
        purge();
        assert_eq!(own.read(), 0);
        HEAP.dealloc(own, large);
        HEAP.dealloc(q, large);
    };
    assert_eq!(forked(used), 0, "after it");
    unsafe { HEAP.dealloc(p, small) };
    unsafe { HEAP.dealloc(q, large) };
}

fn heap_report(policy: Policy) -> HeapReport {
    *report().heap(policy).expect("a heap in use")
}

/// From now on this process, a child of the test, may lock that much and no more.
fn limit_locked_memory(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
    // Root may exceed the limit, nobody may not.
    if unsafe { libc::geteuid() } == 0 {
        assert_eq!(unsafe { libc::setuid(65_534) }, 0);
    }
}

/// A slab that could not be locked was counted each time that it was used, and never taken off.
#[test]
fn what_is_not_locked_is_counted_once() {
    let _unpurged = unpurged();
    static HEAP: Oubliette = Oubliette::new();
    let status = forked(|| {
        limit_locked_memory(1 << 20);
        for _ in 0..6 {
            let blocks = [(); 1000].map(|()| unsafe { HEAP.alloc(layout(4000)) });
            let heap = heap_report(Policy::PROGRAM);
            let not_locked = heap.steps_down.not_locked_bytes;
            assert!(not_locked > 0, "{heap:?}");
            assert!(not_locked + heap.locked_bytes <= heap.committed_bytes, "{heap:?}");
            blocks.into_iter().for_each(|block| unsafe { HEAP.dealloc(block, layout(4000)) });
        }
    });
    assert_eq!(status, 0);
}

/// Locks are not inherited, but the child said that all was locked, and lost count when it gave memory back.
#[test]
fn a_child_does_not_count_its_parents_locks() {
    let _unpurged = unpurged();
    const POLICY: Policy = Policy::PROGRAM.with_lock(Lock::Required);
    static HEAP: Oubliette = Oubliette::with_policy(POLICY);
    let (small, large) = (layout(4000), layout(100_000));
    let blocks = [(); 60].map(|()| unsafe { HEAP.alloc(small) });
    let inherited = unsafe { HEAP.alloc(large) };
    if inherited.is_null() || blocks.contains(&ptr::null_mut()) {
        return println!("skipped: this process may not lock 1 MiB");
    }
    let before = heap_report(POLICY);
    assert_eq!((before.steps_down.not_locked_bytes, before.live_blocks), (0, 61), "{before:?}");
    let status = forked(|| {
        let heap = heap_report(POLICY);
        assert_eq!(
            (heap.locked_bytes, heap.steps_down.not_locked_bytes),
            (0, before.locked_bytes),
            "{heap:?}"
        );
        let own = [(); 60].map(|()| unsafe { HEAP.alloc(small) });
        let heap = heap_report(POLICY);
        assert!(heap.locked_bytes > 0, "{heap:?}");
        unsafe { HEAP.dealloc(inherited, large) };
        blocks.into_iter().for_each(|block| unsafe { HEAP.dealloc(block, small) });
        oubliette::trim();
        let after = heap_report(POLICY);
        // Slabs from before the fork that hold blocks from after it stay.
        assert_eq!(after.locked_bytes, heap.locked_bytes, "{after:?}");
        assert!(after.steps_down.not_locked_bytes <= 2 << 16, "{after:?}");
        own.into_iter().for_each(|block| unsafe { HEAP.dealloc(block, small) });
        oubliette::trim();
        let end = heap_report(POLICY);
        assert_eq!(
            (end.locked_bytes, end.steps_down.not_locked_bytes, end.in_use_bytes),
            (0, 0, 0),
            "{end:?}"
        );
    });
    assert_eq!(status, 0);
    unsafe { HEAP.dealloc(inherited, large) };
    blocks.into_iter().for_each(|block| unsafe { HEAP.dealloc(block, small) });
}

/// A thread that had never used a slab needed a thread heap to free a large block, and where none could be had,
/// as with all mappings used up, the block was lost.
#[test]
fn a_large_block_can_be_freed_with_no_mapping_left() {
    let _unpurged = unpurged();
    const POLICY: Policy = Policy::PROGRAM.with_lock(Lock::Off).with_backing(oubliette::Backing::Auto);
    static HEAP: Oubliette = Oubliette::with_policy(POLICY);
    let large = layout(100_000);
    let block = unsafe { HEAP.alloc(large) };
    assert!(!block.is_null());
    let status = forked(|| {
        let pages = 1 << 17;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let range = unsafe { libc::mmap(ptr::null_mut(), pages * 4096, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(range, libc::MAP_FAILED);
        let is_full = (0..pages).step_by(2).any(|page| {
            let at = unsafe { range.byte_add(page * 4096) };
            unsafe { libc::mprotect(at, 4096, libc::PROT_READ) != 0 }
        });
        unsafe { HEAP.dealloc(block, large) };
        let heap = heap_report(POLICY);
        assert_eq!((heap.leaked_blocks, heap.live_blocks), (0, 0), "{is_full} {heap:?}");
    });
    assert_eq!(status, 0);
    unsafe { HEAP.dealloc(block, large) };
}

/// Empty slabs that the thread kept for later used up the limit, and a large secret was refused.
#[test]
fn what_empty_slabs_keep_is_there_for_large_secrets() {
    let _unpurged = unpurged();
    let status = forked(|| {
        limit_locked_memory(2 << 20);
        let secrets: Vec<_> = (0..1000).map_while(|_| SecretVec::<u8>::with_capacity(1000).ok()).collect();
        assert!(secrets.len() > 600, "{}", secrets.len());
        drop(secrets);
        assert!(SecretVec::<u8>::with_capacity((2 << 20) - (64 << 10)).is_ok());
    });
    assert_eq!(status, 0);
}

/// Under `mlockall(MCL_FUTURE)` a reservation counted against the limit of locked memory, and was made so small
/// that the heap was full after 4 MiB.
#[test]
fn a_process_that_locks_all_future_memory_gets_a_whole_heap() {
    let _unpurged = unpurged();
    const POLICY: Policy = Policy::PROGRAM.with_fork(Fork::Wipe);
    static HEAP: Oubliette = Oubliette::with_policy(POLICY);
    let status = forked(|| {
        limit_locked_memory(4 << 20);
        assert_eq!(unsafe { libc::mlockall(libc::MCL_FUTURE) }, 0);
        let block = unsafe { HEAP.alloc(layout(20 << 20)) };
        assert!(!block.is_null());
        assert!(heap_report(POLICY).reserved_bytes > 1 << 30, "{:?}", heap_report(POLICY));
        unsafe { HEAP.dealloc(block, layout(20 << 20)) };
    });
    assert_eq!(status, 0);
}

/// What was written to a block after its slab had been given back was handed out with the next block.
#[test]
fn a_write_after_the_slab_was_given_back_is_seen() {
    let _unpurged = unpurged();
    static HEAP: Oubliette = Oubliette::with_policy(Policy::PROGRAM.with_lock(Lock::Off));
    for is_criminal in [false, true] {
        let status = forked(|| {
            let blocks = [(); 500].map(|()| unsafe { HEAP.alloc(layout(2000)) });
            blocks.into_iter().for_each(|block| unsafe { HEAP.dealloc(block, layout(2000)) });
            oubliette::trim();
            if is_criminal {
                blocks.into_iter().for_each(|block| unsafe { block.write(7) });
            }
            for _ in 0..500 {
                assert_eq!(unsafe { HEAP.alloc_zeroed(layout(2000)).read() }, 0);
            }
        });
        assert_eq!(status, if is_criminal { libc::SIGABRT } else { 0 });
    }
}

/// A child resized a large block that it does not have as the first thing it did with the heap: the zeros in its place
/// were taken for an overflow.
#[test]
fn a_child_may_resize_first_what_it_does_not_have() {
    let _unpurged = unpurged();
    static HEAP: Oubliette =
        Oubliette::with_policy(Policy::PROGRAM.with_fork(Fork::Wipe).with_lock(Lock::Off));
    let large = layout(100_001);
    let block = unsafe { HEAP.alloc(large) };
    assert!(!block.is_null());
    unsafe { block.write(7) };
    let by_layout = || unsafe {
        let moved = HEAP.realloc(block, large, 100_003);
        assert!(!moved.is_null());
        assert_eq!(moved.read(), 0);
        HEAP.dealloc(moved, layout(100_003));
    };
    assert_eq!(forked(by_layout), 0, "by its layout");
    let by_address = || unsafe {
        let moved = HEAP.resize(block, 100_003, 8);
        assert!(!moved.is_null());
        assert_eq!(moved.read(), 0);
        HEAP.free(moved);
    };
    assert_eq!(forked(by_address), 0, "by its address");
    assert_eq!(unsafe { block.read() }, 7);
    unsafe { HEAP.dealloc(block, large) };
}

/// A purge came between canary and marker of a block that was being made: the marker, which reaches into where the canary
/// was, remained alone, and whoever freed the block behind it took that for an underflow.
#[test]
fn what_a_purge_leaves_of_a_canary_is_no_underflow() {
    let _unpurged = unpurged();
    static HEAP: Oubliette =
        Oubliette::with_policy(Policy::PROGRAM.with_fork(Fork::Wipe).with_lock(Lock::Off));
    let exact = layout(24);
    let free_behind = |written: fn(u32) -> u32| {
        forked(|| unsafe {
            let blocks: Vec<_> = (0..200).map(|_| HEAP.alloc(exact)).collect();
            let first = *blocks.iter().find(|block| blocks.contains(&block.wrapping_add(32))).unwrap();
            let behind = first.wrapping_add(32);
            let marker = first.add(24).cast::<u32>();
            let was = marker.read();
            purge();
            let others: Vec<_> = (0..40).map(|_| HEAP.alloc(exact)).collect();
            HEAP.dealloc(behind, exact);
            // It is not handed out before others were freed.
            others.into_iter().for_each(|other| HEAP.dealloc(other, exact));
            while HEAP.alloc(exact) != behind {}
            marker.write(written(was));
            HEAP.dealloc(behind, exact);
        })
    };
    assert_eq!(free_behind(|marker| marker), 0);
    assert_eq!(free_behind(|marker| marker ^ 1), libc::SIGABRT, "control");
}
