//! How cost grows: with the blocks alive, with the threads, and with the size of a block.

use std::alloc::Layout;
use std::hint::black_box;
use std::time::{Duration, Instant};

use oubliette_peers::allocators::{self, Allocator};
use oubliette_peers::figures::record;
use oubliette_peers::sizes::Sizes;

pub fn measure() {
    for (name, allocator) in allocators::all() {
        with_blocks_alive(name, allocator);
        with_threads(name, allocator);
        with_size(name, allocator);
    }
}

/// One block of 48 bytes is replaced among more and more others: the newest, and one at random.
fn with_blocks_alive(name: &str, allocator: Allocator) {
    let layout = Layout::from_size_align(48, 8).unwrap();
    // SAFETY: the size is not zero.
    let new = || unsafe { allocator.alloc(layout) };
    let mut alive: Vec<*mut u8> = Vec::new();
    for count in [1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000] {
        while alive.len() < count {
            let block = new();
            assert!(!block.is_null());
            // SAFETY: inside the block.
            unsafe { block.write(1) };
            alive.push(block);
        }
        let rounds = 300_000_u32;
        let start = Instant::now();
        for _ in 0..rounds {
            // SAFETY: allocated with this layout, freed once.
            unsafe { allocator.dealloc(black_box(new()), layout) };
        }
        let newest = start.elapsed().as_nanos() as f64 / f64::from(rounds);
        record("alloc + free of 48 bytes, ns, by blocks alive", name, count as f64, newest);

        let mut places = Sizes(count as u64);
        let start = Instant::now();
        for _ in 0..rounds {
            let place = &mut alive[places.below(count)];
            // SAFETY: as above.
            unsafe { allocator.dealloc(*place, layout) };
            *place = black_box(new());
        }
        let any = start.elapsed().as_nanos() as f64 / f64::from(rounds);
        record("replacing a random block of 48 bytes, ns, by blocks alive", name, count as f64, any);
    }
    for block in alive {
        // SAFETY: as above.
        unsafe { allocator.dealloc(block, layout) };
    }
}

/// Threads beyond the cores included; the figure is processor time.
fn with_threads(name: &str, allocator: Allocator) {
    const TOTAL: u64 = 2_000_000;
    for threads in [1, 2, 4, 8, 16, 32, 64] {
        let before = processor_time();
        std::thread::scope(|scope| {
            for seed in 0..threads {
                scope.spawn(move || replace(allocator, seed, TOTAL / threads));
            }
        });
        let spent = processor_time() - before;
        record(
            "alloc + free, program-like sizes, ns of processor time, by threads",
            name,
            threads as f64,
            spent.as_nanos() as f64 / TOTAL as f64,
        );
    }
}

fn replace(allocator: Allocator, seed: u64, operations: u64) {
    let mut sizes = Sizes(seed);
    let mut alive: Vec<(*mut u8, Layout)> = Vec::with_capacity(200);
    for _ in 0..operations {
        let layout = Layout::from_size_align(sizes.next().unwrap(), 8).unwrap();
        // SAFETY: the size is not zero.
        let block = unsafe { allocator.alloc(layout) };
        // SAFETY: inside the block.
        unsafe { block.write(1) };
        if alive.len() < 200 {
            alive.push((block, layout));
        } else {
            let (old, layout) = std::mem::replace(&mut alive[sizes.below(200)], (block, layout));
            // SAFETY: allocated with this layout, freed once.
            unsafe { allocator.dealloc(old, layout) };
        }
    }
    for (block, layout) in alive {
        // SAFETY: as above.
        unsafe { allocator.dealloc(block, layout) };
    }
}

/// A block is allocated, its first byte written, and freed.
fn with_size(name: &str, allocator: Allocator) {
    for shift in 0..=30 {
        let layout = Layout::from_size_align(1 << shift, 8).unwrap();
        let (mut rounds, start) = (0_u32, Instant::now());
        while rounds < 8 || rounds < 100_000 && start.elapsed() < Duration::from_millis(20) {
            // SAFETY: the size is not zero.
            let block = unsafe { allocator.alloc(layout) };
            if block.is_null() {
                println!("{name}: no block of {} bytes", layout.size());
                return;
            }
            // SAFETY: inside the block.
            unsafe { block.write(1) };
            // SAFETY: allocated with this layout, freed once.
            unsafe { allocator.dealloc(black_box(block), layout) };
            rounds += 1;
        }
        let each = start.elapsed().as_nanos() as f64 / f64::from(rounds);
        record("alloc + touch + free, ns, by size", name, layout.size() as f64, each);
    }
}

/// Processor time of this process so far.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to a live value.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) }, 0);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}
