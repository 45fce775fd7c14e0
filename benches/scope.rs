//! What scopes cost: in and out by what is covered and how deep the stack was used, a signature inside and
//! outside, the routing of allocations, and two threads at once.
//!
//! Where two things are compared they run in turns, in one measurement each, so that whatever else the
//! machine does falls on both: `cargo bench --bench scope -- --pairs` prints medians and ratios. With other
//! arguments it is a criterion bench like the rest.

#![allow(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a bench"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use ed25519_dalek::{Signer, SigningKey};
use oubliette::{Cover, Flush, Scope, ScopedAlloc, scope, suspended};

#[global_allocator]
static ALLOC: ScopedAlloc<System> = ScopedAlloc::new(System);

const HEAP: Scope = Scope::builder().cover(Cover::Heap).build();
const NO_FLUSH: Scope = Scope::builder().flush(Flush::Off).build();

fn main() {
    if std::env::args().any(|argument| argument == "--pairs") {
        pairs();
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    enter_and_leave(&mut criterion);
    depth(&mut criterion);
    criterion.final_summary();
}

fn enter_and_leave(c: &mut Criterion) {
    let mut group = c.benchmark_group("scope/enter_and_leave");
    group.bench_function("heap", |b| b.iter(|| HEAP.run(|| black_box(1_u8))));
    group.bench_function("everything, flush off", |b| b.iter(|| NO_FLUSH.run(|| black_box(1_u8))));
    group.bench_function("everything", |b| b.iter(|| scope(|| black_box(1_u8))));
    group.bench_function("nested", |b| {
        b.iter_custom(|n| {
            let nanos = scope(|| {
                let start = Instant::now();
                for _ in 0..n {
                    black_box(scope(|| black_box(1_u8)));
                }
                start.elapsed().as_nanos() as u64
            });
            Duration::from_nanos(nanos)
        });
    });
    group.bench_function("suspended", |b| {
        b.iter_custom(|n| {
            let nanos = scope(|| {
                let start = Instant::now();
                for _ in 0..n {
                    black_box(suspended(|| black_box(1_u8)));
                }
                start.elapsed().as_nanos() as u64
            });
            Duration::from_nanos(nanos)
        });
    });
    group.finish();
}

/// Uses `N` bytes of stack.
#[inline(never)]
fn dive<const N: usize>() {
    let mut bytes = MaybeUninit::<[u8; N]>::uninit();
    unsafe { black_box(bytes.as_mut_ptr()).cast::<u8>().write_bytes(1, 64) };
    black_box(&mut bytes);
}

fn depth(c: &mut Criterion) {
    let mut group = c.benchmark_group("scope/depth_of_use");
    let depths: [(usize, fn()); 5] = [
        (1, dive::<1024>),
        (4, dive::<4096>),
        (16, dive::<16_384>),
        (32, dive::<32_768>),
        (56, dive::<57_344>),
    ];
    for (kib, dive) in depths {
        group.bench_function(BenchmarkId::new("flush off, KiB", kib), |b| b.iter(|| NO_FLUSH.run(dive)));
        group.bench_function(BenchmarkId::new("flush, KiB", kib), |b| b.iter(|| scope(dive)));
    }
    group.finish();
}

/// Runs both in turns, many times and shortly, and prints the medians and what the second is to the first.
fn pair(name: &str, batch: u32, mut first: impl FnMut(), mut second: impl FnMut()) {
    let mut times = [Vec::new(), Vec::new()];
    let mut time = |list: usize, f: &mut dyn FnMut()| {
        let start = Instant::now();
        for _ in 0..batch {
            f();
        }
        times[list].push(start.elapsed().as_nanos() as f64 / f64::from(batch));
    };
    for turn in 0..2001 {
        if turn % 2 == 0 {
            time(0, &mut first);
            time(1, &mut second);
        } else {
            time(1, &mut second);
            time(0, &mut first);
        }
    }
    let [first, second] = times.map(|mut list| {
        list.sort_by(f64::total_cmp);
        list[list.len() / 2]
    });
    println!("{name:<56} {first:>10.1} ns {second:>10.1} ns {:>8.3}", second / first);
}

fn pairs() {
    println!("{:<56} {:>13} {:>13} {:>8}", "", "first", "second", "ratio");
    pair("nothing / scope of the heap", 1000, || _ = black_box(1_u8), || _ = HEAP.run(|| black_box(1_u8)));
    pair(
        "scope, flush off / scope",
        100,
        || _ = NO_FLUSH.run(|| black_box(1_u8)),
        || _ = black_box(scope(|| black_box(1_u8))),
    );
    let key = SigningKey::from_bytes(&[7; 32]);
    let message = [1_u8; 64];
    pair(
        "ed25519 signature: bare / in a scope",
        10,
        || _ = black_box(key.sign(&message)),
        || _ = black_box(scope(|| key.sign(&message).to_bytes())),
    );
    for size in [16, 64, 256, 1024] {
        let layout = Layout::from_size_align(size, 8).unwrap();
        pair(
            &format!("{size} bytes alloc + dealloc outside: System / ScopedAlloc"),
            200,
            || unsafe { System.dealloc(black_box(System.alloc(layout)), layout) },
            || unsafe { ALLOC.dealloc(black_box(ALLOC.alloc(layout)), layout) },
        );
    }
    two_threads();
}

/// Scopes that allocate, hand their block to the other thread, and free what came from there.
fn two_threads() {
    const SCOPES: u32 = 1_000_000;
    let one = run_threads(1, SCOPES);
    let two = run_threads(2, SCOPES);
    let scaling = 2.0 * one.as_secs_f64() / two.as_secs_f64();
    println!(
        "{SCOPES} scopes a thread, blocks freed by the other thread: 1 thread {one:.3?}, 2 threads {two:.3?}, \
         scaling {scaling:.2}"
    );
}

fn run_threads(count: usize, scopes: u32) -> Duration {
    let barrier = Barrier::new(count + 1);
    let (outs, ins): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::sync_channel::<Vec<Vec<u8>>>(64)).unzip();
    let outs: Vec<_> = (0..count).map(|index| outs[(index + 1) % count].clone()).collect();
    thread::scope(|threads| {
        for (outgoing, incoming) in outs.into_iter().zip(ins) {
            let barrier = &barrier;
            threads.spawn(move || {
                scope(|| ());
                barrier.wait();
                let mut mine = Vec::with_capacity(100);
                let mut theirs: Vec<Vec<u8>> = Vec::new();
                for number in 0..scopes {
                    let mut block = Vec::new();
                    let other = theirs.pop();
                    scope(|| {
                        drop(other);
                        block.resize(64, number as u8);
                    });
                    mine.push(block);
                    if mine.len() == 100 {
                        let full = std::mem::replace(&mut mine, Vec::with_capacity(100));
                        let _ = outgoing.try_send(full);
                        if let Ok(more) = incoming.try_recv() {
                            theirs = more;
                        }
                    }
                }
            });
        }
        barrier.wait();
        // Ends when all threads have.
        Instant::now()
    })
    .elapsed()
}
