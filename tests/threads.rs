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
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
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

/// One parcel at a time; the lock gives the happens-before that passing a block needs.
type Mailbox = Mutex<Vec<Parcel>>;

#[test]
fn blocks_pass_between_threads() {
    static HEAP: Oubliette = Oubliette::new();
    pass_blocks(&HEAP);
}

#[test]
fn pinned_blocks_pass_between_threads() {
    static HEAP: Oubliette = Oubliette::with_policy(Policy::PROGRAM.with_backing(Backing::Auto));
    pass_blocks(&HEAP);
}

fn pass_blocks(heap: &'static Oubliette) {
    let mailboxes: Vec<Mailbox> = (0..THREADS).map(|_| Mutex::new(Vec::new())).collect();
    let passed = AtomicU64::new(0);
    let end = Instant::now() + duration();
    std::thread::scope(|scope| {
        for number in 0..THREADS {
            let (mailboxes, passed) = (&mailboxes, &passed);
            scope.spawn(move || {
                // Threads end and others take their place, which takes over their part of the heap.
                let mut generation = 0;
                while Instant::now() < end {
                    generation += 1;
                    std::thread::scope(|scope| {
                        scope.spawn(|| {
                            work(heap, mailboxes, passed, number, generation);
                        });
                    });
                }
            });
        }
    });
    for mailbox in mailboxes {
        mailbox.into_inner().unwrap().into_iter().for_each(|parcel| open(heap, parcel));
    }
    assert!(passed.load(Ordering::Relaxed) > 1000);
}

/// Some thousand blocks: made, filled, kept for a while, freed here or sent on.
fn work(heap: &Oubliette, mailboxes: &[Mailbox], passed: &AtomicU64, number: usize, generation: u64) {
    let mut random = Xorshift((number as u64 + 1) << 32 | generation);
    let mut kept: Vec<Parcel> = Vec::new();
    for _ in 0..2000 {
        match random.below(8) {
            0..=3 => kept.push(pack(heap, &mut random)),
            4 if !kept.is_empty() => {
                let parcel = kept.swap_remove(random.below(kept.len()));
                open(heap, parcel);
            }
            5 | 6 if !kept.is_empty() => {
                let parcel = kept.swap_remove(random.below(kept.len()));
                mailboxes[random.below(THREADS)].lock().unwrap().push(parcel);
                passed.fetch_add(1, Ordering::Relaxed);
            }
            _ => {
                let parcels = std::mem::take(&mut *mailboxes[number].lock().unwrap());
                parcels.into_iter().for_each(|parcel| open(heap, parcel));
            }
        }
    }
    for parcel in kept {
        open(heap, parcel);
    }
}

/// A new block, all zero as it must be, filled with one byte.
fn pack(heap: &Oubliette, random: &mut Xorshift) -> Parcel {
    let size = match random.below(100) {
        0 => 40_000 + random.below(200_000),
        1..=9 => 1000 + random.below(10_000),
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

type SealedKey = (u8, SecretBox<[u8; 32]>);

#[test]
fn secrets_pass_between_threads() {
    /// So that what lies in the mailboxes fits under any limit.
    const MOST_KEYS: usize = 500;
    let end = Instant::now() + duration();
    let mailboxes: Vec<Mutex<Vec<SealedKey>>> = (0..THREADS).map(|_| Mutex::default()).collect();
    std::thread::scope(|scope| {
        for number in 0..THREADS {
            let mailboxes = &mailboxes;
            scope.spawn(move || {
                let mut random = Xorshift(number as u64 + 77);
                while Instant::now() < end {
                    for _ in 0..100 {
                        let seal = random.below(255) as u8 + 1;
                        let key = SecretBox::new_with(|bytes: &mut [u8; 32]| bytes.fill(seal)).unwrap();
                        let mut mailbox = mailboxes[random.below(THREADS)].lock().unwrap();
                        mailbox.push((seal, key));
                        mailbox.truncate(MOST_KEYS);
                    }
                    for (seal, key) in std::mem::take(&mut *mailboxes[number].lock().unwrap()) {
                        assert_eq!(key.expose(), &[seal; 32]);
                    }
                }
            });
        }
    });
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
