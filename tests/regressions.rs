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
use std::sync::mpsc;
use std::time::{Duration, Instant};

use oubliette::{Fork, Lock, Oubliette, Policy, SecretBox, SecretVec, purge};

const WHILE: Duration = Duration::from_secs(1);

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

/// Runs `body` in a child made by fork and gives the status that it ends with.
fn forked(body: impl FnOnce()) -> i32 {
    let child = unsafe { libc::fork() };
    if child == 0 {
        body();
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    status
}

/// A block without slack got its marker where its canary goes, and for a moment whoever freed the block behind
/// it took that for an underflow.
#[test]
fn a_free_beside_an_allocation_is_no_underflow() {
    static HEAP: Oubliette = Oubliette::with_policy(Policy::PROGRAM.with_lock(Lock::Off));
    let exact = layout(24);
    let (send, receive) = mpsc::sync_channel::<Vec<usize>>(64);
    let freer = std::thread::spawn(move || {
        for address in receive.into_iter().flatten() {
            unsafe { HEAP.dealloc(std::ptr::with_exposed_provenance_mut(address), exact) };
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
