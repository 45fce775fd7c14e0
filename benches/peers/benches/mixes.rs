//! Mixes of allocations as programs make them, on one, two and four threads, beside other allocators.
//!
//! `cargo bench --manifest-path benches/peers/Cargo.toml --bench mixes`, and once more with
//! `--features mimalloc-secure`.

use std::alloc::Layout;
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use oubliette_peers::allocators::{self, Allocator};
use oubliette_peers::sizes::Sizes;

/// Keeps 1,000 blocks alive and replaces them at random.
fn churn(allocator: Allocator, seed: u64, operations: u64) {
    let mut sizes = Sizes(seed);
    let mut alive: Vec<(*mut u8, Layout)> = Vec::with_capacity(1000);
    for i in 0..operations {
        let layout = Layout::from_size_align(sizes.next().unwrap(), 8).unwrap();
        // SAFETY: the size is not zero; the block is written to inside its bounds.
        let block = unsafe { allocator.alloc(layout) };
        assert!(!block.is_null());
        // SAFETY: as above.
        unsafe { block.write_bytes(i as u8, layout.size().min(64)) };
        if alive.len() < 1000 {
            alive.push((block, layout));
        } else {
            let place = sizes.below(1000);
            let (old, layout) = std::mem::replace(&mut alive[place], (block, layout));
            // SAFETY: allocated with this layout, freed once.
            unsafe { allocator.dealloc(black_box(old), layout) };
        }
    }
    for (block, layout) in alive {
        // SAFETY: as above.
        unsafe { allocator.dealloc(block, layout) };
    }
}

/// The time that `threads` threads take for `iterations` operations each.
fn on_threads(threads: u64, iterations: u64, work: impl Fn(u64, u64) + Sync) -> Duration {
    let barrier = Barrier::new(threads as usize + 1);
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|seed| {
                let (barrier, work) = (&barrier, &work);
                scope.spawn(move || {
                    barrier.wait();
                    work(seed + 1, iterations);
                })
            })
            .collect();
        barrier.wait();
        let start = Instant::now();
        for handle in handles {
            handle.join().unwrap();
        }
        start.elapsed()
    })
}

fn mixes(criterion: &mut Criterion) {
    for threads in [1, 2, 4] {
        let mut group = criterion.benchmark_group(format!("churn, {threads} threads"));
        for (name, allocator) in allocators::all() {
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|n| on_threads(threads, n, |seed, n| churn(allocator, seed, n)));
            });
        }
        group.finish();
    }
}

struct Block(*mut u8, Layout);
// SAFETY: a block may be freed by any thread, as `GlobalAlloc` promises.
unsafe impl Send for Block {}

/// One thread allocates, the other frees.
fn producer_consumer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("producer and consumer, 100 bytes");
    let layout = Layout::from_size_align(100, 8).unwrap();
    for (name, allocator) in allocators::all() {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|n| {
                let (sender, receiver) = mpsc::sync_channel::<Vec<Block>>(16);
                let start = Instant::now();
                std::thread::scope(|scope| {
                    scope.spawn(move || {
                        let mut left = n;
                        while left > 0 {
                            let count = left.min(256);
                            left -= count;
                            // SAFETY: the size is not zero.
                            let block = || Block(unsafe { allocator.alloc(layout) }, layout);
                            sender.send((0..count).map(|_| block()).collect()).unwrap();
                        }
                    });
                    for Block(block, layout) in receiver.into_iter().flatten() {
                        // SAFETY: allocated with this layout, freed once.
                        unsafe { allocator.dealloc(block, layout) };
                    }
                });
                start.elapsed()
            });
        });
    }
    group.finish();
}

/// Threads in a ring, each of which frees what the one before it allocated, sizes as programs have them.
fn hand_over(criterion: &mut Criterion) {
    for threads in [2, 4] {
        let mut group = criterion.benchmark_group(format!("hand over, {threads} threads"));
        for (name, allocator) in allocators::all() {
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|n| {
                    let (senders, mut receivers): (Vec<_>, Vec<_>) =
                        (0..threads).map(|_| mpsc::sync_channel::<Vec<Block>>(16)).unzip();
                    receivers.rotate_right(1);
                    let start = Instant::now();
                    std::thread::scope(|scope| {
                        for (seed, (sender, receiver)) in (1..).zip(senders.into_iter().zip(receivers)) {
                            scope.spawn(move || pass_on(allocator, seed, n, &sender, &receiver));
                        }
                    });
                    start.elapsed()
                });
            });
        }
        group.finish();
    }
}

/// Allocates `count` blocks, sends them on, and frees as many others.
fn pass_on(
    allocator: Allocator,
    seed: u64,
    count: u64,
    sender: &mpsc::SyncSender<Vec<Block>>,
    receiver: &mpsc::Receiver<Vec<Block>>,
) {
    let mut sizes = Sizes(seed);
    let mut left = count;
    while left > 0 {
        let now = left.min(256);
        left -= now;
        let mut blocks = Vec::with_capacity(256);
        for _ in 0..now {
            let layout = Layout::from_size_align(sizes.next().unwrap(), 8).unwrap();
            // SAFETY: the size is not zero.
            blocks.push(Block(unsafe { allocator.alloc(layout) }, layout));
        }
        sender.send(blocks).unwrap();
        for Block(block, layout) in receiver.recv().unwrap() {
            // SAFETY: allocated with this layout, freed once.
            unsafe { allocator.dealloc(block, layout) };
        }
    }
}

fn growth(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("growth by realloc, 16 B to 1 MiB");
    for (name, allocator) in allocators::all() {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut layout = Layout::from_size_align(16, 8).unwrap();
                // SAFETY: the size is not zero.
                let mut block = unsafe { allocator.alloc(layout) };
                while layout.size() < 1 << 20 {
                    let size = layout.size() * 2;
                    // SAFETY: the layout is the block's; the new size is not zero.
                    block = unsafe { allocator.realloc(block, layout, size) };
                    layout = Layout::from_size_align(size, 8).unwrap();
                    // SAFETY: inside the block.
                    unsafe { block.add(size - 1).write(1) };
                }
                // SAFETY: as above.
                unsafe { allocator.dealloc(block, layout) };
            });
        });
    }
    group.finish();
}

fn config() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .nresamples(2000)
        .measurement_time(Duration::from_secs(1))
        .warm_up_time(Duration::from_millis(300))
}

criterion_group! {
    name = benches;
    config = config();
    targets = mixes, producer_consumer, hand_over, growth
}
criterion_main!(benches);
