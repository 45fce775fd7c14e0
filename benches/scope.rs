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
    pair(
        "64 blocks of 16 to 1,024 bytes, filled: System / ScopedAlloc",
        4,
        || hold_64(&System),
        || hold_64(&ALLOC),
    );
    two_threads();
}

/// Allocates 64 blocks, fills each, and frees them in another order.
fn hold_64<A: GlobalAlloc>(allocator: &A) {
    let mut blocks = [(std::ptr::null_mut(), Layout::new::<u8>()); 64];
    for (number, block) in blocks.iter_mut().enumerate() {
        let layout = Layout::from_size_align(16 << (number * 5 % 7), 8).unwrap();
        let memory = unsafe { allocator.alloc(layout) };
        unsafe { memory.write_bytes(number as u8, layout.size()) };
        *block = (black_box(memory), layout);
    }
    for number in 0..64 {
        let (memory, layout) = blocks[number * 13 % 64];
        unsafe { allocator.dealloc(memory, layout) };
    }
}

/// Scopes that allocate and free, on one thread and on two. Wall-clock time says how they scale on an idle
/// machine of two cores, the processor time of a thread says it on a busy one.
fn two_threads() {
    for frees in [Frees::Home, Frees::Across] {
        let [one, two] = [1, 2].map(|count| run_threads(count, frees));
        println!(
            "{SCOPES} scopes a thread, {frees:?}: 1 thread {:.2?} (processor {:.2?}), 2 threads {:.2?} (processor \
             {:.2?} each), scaling {:.2} (processor {:.2})",
            one[0],
            one[1],
            two[0],
            two[1],
            2.0 * one[0].as_secs_f64() / two[0].as_secs_f64(),
            2.0 * one[1].as_secs_f64() / two[1].as_secs_f64(),
        );
    }
}

const SCOPES: u32 = 1_000_000;

/// Who frees a block.
#[derive(Clone, Copy, Debug)]
enum Frees {
    /// The thread that allocated it, in its next scope.
    Home,
    /// The next thread, in a scope of its own.
    Across,
}

/// Wall-clock time, and the processor time of the slowest thread.
fn run_threads(count: usize, frees: Frees) -> [Duration; 2] {
    let barrier = Barrier::new(count + 1);
    let (outs, ins): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::sync_channel::<Vec<Vec<u8>>>(64)).unzip();
    let next = |index: usize| match frees {
        Frees::Home => index,
        Frees::Across => (index + 1) % count,
    };
    let outs: Vec<_> = (0..count).map(|index| outs[next(index)].clone()).collect();
    thread::scope(|threads| {
        let threads: Vec<_> = outs
            .into_iter()
            .zip(ins)
            .map(|(outgoing, incoming)| {
                let barrier = &barrier;
                threads.spawn(move || {
                    scope(|| ());
                    barrier.wait();
                    let start = processor_time();
                    enter_and_exchange(&outgoing, &incoming);
                    processor_time() - start
                })
            })
            .collect();
        barrier.wait();
        let start = Instant::now();
        let times: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        [start.elapsed(), times.into_iter().max().unwrap()]
    })
}

/// Each scope allocates a block, which goes out in hundreds, and frees one that came in.
fn enter_and_exchange(outgoing: &mpsc::SyncSender<Vec<Vec<u8>>>, incoming: &mpsc::Receiver<Vec<Vec<u8>>>) {
    let mut mine = Vec::with_capacity(100);
    let mut theirs: Vec<Vec<u8>> = Vec::new();
    for number in 0..SCOPES {
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
}

fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
