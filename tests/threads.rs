//! Eight threads that pass blocks to each other: contents, zeros, frees by other threads, threads that come
//! and go. Two seconds by default; the sanitizers' run sets `OUBLIETTE_TEST_SECONDS` to 60.
//!
//! Everything happens in this process and thread, without children, so that a sanitizer sees all of it.
#![expect(unsafe_code, reason = "uses the allocator directly")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test may panic"
)]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use oubliette::{Backing, Oubliette, Policy, SecretBox};

const THREADS: usize = 8;

fn duration() -> Duration {
    let seconds = std::env::var("OUBLIETTE_TEST_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

/// A block on its way from one thread to another.
struct Parcel {
    address: usize,
    layout: Layout,
    seal: u8,
}

#[test]
fn blocks_pass_between_threads() {
    static HEAP: Oubliette = Oubliette::new();
    static MAILBOXES: [Mailbox<Parcel>; THREADS] = mailboxes();
    pass_blocks(&HEAP, &MAILBOXES);
}

#[test]
fn pinned_blocks_pass_between_threads() {
    static HEAP: Oubliette = Oubliette::with_policy(Policy::PROGRAM.with_backing(Backing::Auto));
    static MAILBOXES: [Mailbox<Parcel>; THREADS] = mailboxes();
    pass_blocks(&HEAP, &MAILBOXES);
}

fn pass_blocks(heap: &'static Oubliette, mailboxes: Mailboxes<Parcel>) {
    let end = Instant::now() + duration();
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            std::thread::spawn(move || {
                // Threads end and others take their place, which takes over their part of the heap.
                let mut passed = 0;
                let mut generation = 0;
                while Instant::now() < end {
                    generation += 1;
                    passed +=
                        std::thread::spawn(move || work(heap, mailboxes, number, generation)).join().unwrap();
                }
                passed
            })
        })
        .collect();
    let passed: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    for mailbox in mailboxes {
        mailbox.take().into_iter().for_each(|parcel| open(heap, parcel));
    }
    assert!(passed > 1000, "{passed}");
}

/// Some thousand blocks: made, filled, kept for a while, freed here or sent on.
fn work(heap: &Oubliette, mailboxes: Mailboxes<Parcel>, number: usize, generation: u64) -> usize {
    let mut random = Xorshift((number as u64 + 1) << 32 | generation);
    let mut kept: Vec<Parcel> = Vec::new();
    let mut passed = 0;
    for _ in 0..2000 {
        match random.below(8) {
            0..=3 => kept.push(pack(heap, &mut random)),
            4 if !kept.is_empty() => {
                let parcel = kept.swap_remove(random.below(kept.len()));
                open(heap, parcel);
            }
            5 | 6 if !kept.is_empty() => {
                let parcel = kept.swap_remove(random.below(kept.len()));
                mailboxes[random.below(THREADS)].with(|parcels| parcels.push(parcel));
                passed += 1;
            }
            _ => {
                mailboxes[number].take().into_iter().for_each(|parcel| open(heap, parcel));
            }
        }
    }
    for parcel in kept {
        open(heap, parcel);
    }
    passed
}

/// A new block, all zero as it must be, filled with one byte.
fn pack(heap: &Oubliette, random: &mut Xorshift) -> Parcel {
    let size = match random.below(100) {
        0 => 40_000 + random.below(200_000),
        // One size, so that its places stay open and go from thread to thread.
        1 | 2 => 65_536,
        3..=9 => 1000 + random.below(10_000),
        _ => 1 + random.below(300),
    };
    let layout = Layout::from_size_align(size, 1 << random.below(7)).unwrap();
    // SAFETY: the size is not zero.
    let block = unsafe { heap.alloc_zeroed(layout) };
    assert!(!block.is_null());
    // SAFETY: allocated above, `size` bytes that are initialised to zero and used by nobody else.
    let bytes = unsafe { std::slice::from_raw_parts_mut(block, size) };
    assert!(bytes.iter().all(|byte| *byte == 0), "a new block is not zero");
    let seal = random.below(255) as u8 + 1;
    bytes.fill(seal);
    Parcel { address: block.expose_provenance(), layout, seal }
}

/// Looks at a block and frees it.
fn open(heap: &Oubliette, parcel: Parcel) {
    let block: *mut u8 = std::ptr::with_exposed_provenance_mut(parcel.address);
    // SAFETY: a parcel has one owner at a time, and its block is live and of this size.
    let bytes = unsafe { std::slice::from_raw_parts(block, parcel.layout.size()) };
    assert!(bytes.iter().all(|byte| *byte == parcel.seal), "a block was changed on its way");
    // SAFETY: allocated with this layout; the parcel ends here.
    unsafe { heap.dealloc(block, parcel.layout) };
}

#[test]
fn secrets_pass_between_threads() {
    /// So that what lies in the mailboxes fits under a limit of a few MiB.
    const MOST_KEYS: usize = 500;
    if oubliette::report().lock_limit().left_bytes.is_some_and(|left| left < 7 << 20) {
        return not_set_up("RLIMIT_MEMLOCK leaves less than 7 MiB");
    }
    let end = Instant::now() + duration();
    static MAILBOXES: [Mailbox<(u8, SecretBox<[u8; 32]>)>; THREADS] = mailboxes();
    let mailboxes = &MAILBOXES;
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            std::thread::spawn(move || {
                let mut random = Xorshift(number as u64 + 77);
                while Instant::now() < end {
                    for _ in 0..100 {
                        let seal = random.below(255) as u8 + 1;
                        let key = SecretBox::new_with(|bytes: &mut [u8; 32]| bytes.fill(seal)).unwrap();
                        mailboxes[random.below(THREADS)].with(|keys| {
                            keys.push((seal, key));
                            keys.truncate(MOST_KEYS);
                        });
                    }
                    for (seal, key) in mailboxes[number].take() {
                        assert_eq!(key.expose(), &[seal; 32]);
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    mailboxes.iter().for_each(|mailbox| drop(mailbox.take()));
}

/// As in `support::skip`, which this binary does without.
fn not_set_up(why: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "skipped in CI: {why}");
    // Not `eprintln!`: the test harness keeps that for itself as long as the test passes.
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

type Mailboxes<T> = &'static [Mailbox<T>; THREADS];

/// A mailbox for each thread.
const fn mailboxes<T>() -> [Mailbox<T>; THREADS] {
    [const { Mailbox { is_taken: AtomicBool::new(false), content: UnsafeCell::new(Vec::new()) } }; THREADS]
}

/// What was sent to a thread, behind a lock made of one atomic: it gives the happens-before that passing a
/// block on needs. The lock of std is compiled without ThreadSanitizer, which then sees races that are none.
struct Mailbox<T> {
    is_taken: AtomicBool,
    content: UnsafeCell<Vec<T>>,
}

// SAFETY: `content` is used only by the thread that has set `is_taken`, and `T` may go to another thread.
unsafe impl<T: Send> Sync for Mailbox<T> {}

impl<T> Mailbox<T> {
    fn with<R>(&self, work: impl FnOnce(&mut Vec<T>) -> R) -> R {
        // Acquire pairs with Release below.
        while self.is_taken.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            std::thread::yield_now();
        }
        // SAFETY: this thread has set `is_taken`, so nobody else is here.
        let result = work(unsafe { &mut *self.content.get() });
        self.is_taken.store(false, Ordering::Release);
        result
    }

    fn take(&self) -> Vec<T> {
        self.with(std::mem::take)
    }
}

/// A small generator (Marsaglia 2003), so that a run can be repeated.
struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}
