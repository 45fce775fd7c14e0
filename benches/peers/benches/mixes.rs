//! Mixes of allocations as programs make them, on one, two and four threads, beside other allocators.
//!
//! `cargo bench --manifest-path benches/peers/Cargo.toml --bench mixes`, and once more with
//! `--features mimalloc-secure`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use oubliette::{Flush, Oubliette, Policy};

static BOUNDED: Oubliette = Oubliette::new();
static OFF: Oubliette = Oubliette::with_policy(Policy::PROGRAM.with_flush(Flush::Off));
static ZEROIZING: zeroizing_alloc::ZeroAlloc<System> = zeroizing_alloc::ZeroAlloc(System);

type Allocator = &'static (dyn GlobalAlloc + Sync);

fn allocators() -> Vec<(&'static str, Allocator)> {
    let mimalloc = if cfg!(feature = "mimalloc-secure") { "mimalloc secure" } else { "mimalloc" };
    vec![
        ("System", &System),
        ("Oubliette", &BOUNDED),
        ("Oubliette, flush off", &OFF),
        (mimalloc, &mimalloc::MiMalloc),
        ("snmalloc", &snmalloc_rs::SnMalloc),
        ("jemalloc", &tikv_jemallocator::Jemalloc),
        ("zeroizing-alloc", &ZEROIZING),
    ]
}

/// A generator of sizes: mostly small, as programs have them.
struct Sizes(u64);

impl Sizes {
    fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let draw = (self.0 >> 33) as usize;
        match draw % 100 {
            0..=59 => 8 + draw / 128 % 120,
            60..=89 => 128 + draw / 128 % 900,
            90..=98 => 1024 + draw / 128 % 7000,
            _ => 8192 + draw / 128 % 20_000,
        }
    }
}

/// Keeps 1,000 blocks alive and replaces them at random.
fn churn(allocator: Allocator, seed: u64, operations: u64) {
    let mut sizes = Sizes(seed);
    let mut alive: Vec<(*mut u8, Layout)> = Vec::with_capacity(1000);
    for i in 0..operations {
        let layout = Layout::from_size_align(sizes.next(), 8).unwrap();
        // SAFETY: the size is not zero; the block is written to inside its bounds.
        let block = unsafe { allocator.alloc(layout) };
        assert!(!block.is_null());
        // SAFETY: as above.
        unsafe { block.write_bytes(i as u8, layout.size().min(64)) };
        if alive.len() < 1000 {
            alive.push((block, layout));
        } else {
            let place = (sizes.0 >> 40) as usize % 1000;
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
        for (name, allocator) in allocators() {
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|n| on_threads(threads, n, |seed, n| churn(allocator, seed, n)));
            });
        }
        group.finish();
    }
}

struct Block(*mut u8);
// SAFETY: a block may be freed by any thread, as `GlobalAlloc` promises.
unsafe impl Send for Block {}

fn producer_consumer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("producer and consumer, 100 bytes");
    let layout = Layout::from_size_align(100, 8).unwrap();
    for (name, allocator) in allocators() {
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
                            let blocks =
                                (0..count).map(|_| Block(unsafe { allocator.alloc(layout) })).collect();
                            sender.send(blocks).unwrap();
                        }
                    });
                    for Block(block) in receiver.into_iter().flatten() {
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

fn growth(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("growth by realloc, 16 B to 1 MiB");
    for (name, allocator) in allocators() {
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
        .measurement_time(Duration::from_secs(2))
        .warm_up_time(Duration::from_millis(500))
}

criterion_group! { name = benches; config = config(); targets = mixes, producer_consumer, growth }
criterion_main!(benches);
