//! How long single operations take: the median, and the slowest in a hundred to in ten thousand.

use std::alloc::Layout;
use std::hint::black_box;

use oubliette::{Flush, IsolatedBox, SecretBox, set_secret_flush};
use oubliette_peers::allocators;
use oubliette_peers::figures::record;
use oubliette_peers::sizes::Sizes;

use super::clock::nanoseconds;

const PERCENTILES: [f64; 4] = [50.0, 99.0, 99.9, 99.99];
const OPERATIONS: usize = 400_000;

pub fn measure() {
    let nothing = sorted((0..OPERATIONS).map(|_| nanoseconds(|| ())).collect());
    report("latency of one allocation or free", "the clock itself", &nothing);
    for (name, allocator) in allocators::all() {
        let mut sizes = Sizes(7);
        let mut alive: Vec<(*mut u8, Layout)> = Vec::with_capacity(1000);
        let mut samples = Vec::with_capacity(OPERATIONS);
        while samples.len() < OPERATIONS {
            let layout = Layout::from_size_align(sizes.next().unwrap(), 8).unwrap();
            let mut block = std::ptr::null_mut();
            // SAFETY: the size is not zero.
            samples.push(nanoseconds(|| block = unsafe { allocator.alloc(layout) }));
            // SAFETY: inside the block.
            unsafe { block.write(1) };
            if alive.len() < 1000 {
                alive.push((block, layout));
                continue;
            }
            let place = sizes.below(1000);
            let (old, layout) = std::mem::replace(&mut alive[place], (block, layout));
            // SAFETY: allocated with this layout, freed once.
            samples.push(nanoseconds(|| unsafe { allocator.dealloc(black_box(old), layout) }));
        }
        for (block, layout) in alive {
            // SAFETY: as above.
            unsafe { allocator.dealloc(block, layout) };
        }
        report("latency of one allocation or free", name, &sorted(samples));
    }
    secrets();
}

fn secrets() {
    let figure = "latency of new + drop, 32 bytes";
    for (name, flush) in [("off", Flush::Off), ("bounded", Flush::Bounded), ("immediate", Flush::Immediate)] {
        set_secret_flush(flush);
        let one = || {
            let key = SecretBox::<[u8; 32]>::new_with(|key| key[0] = 1).unwrap();
            black_box(key.expose());
        };
        let samples = (0..OPERATIONS).map(|_| nanoseconds(one)).collect();
        report(figure, &format!("SecretBox, flush {name}"), &sorted(samples));
    }
    let one = || drop(black_box(IsolatedBox::<[u8; 32]>::new_with(|key| key[0] = 1).unwrap()));
    report(figure, "IsolatedBox", &sorted((0..OPERATIONS / 10).map(|_| nanoseconds(one)).collect()));
    let one = || {
        // SAFETY: written to inside its bounds, and freed once.
        unsafe {
            let mut key = memsec::malloc::<[u8; 32]>().unwrap();
            key.as_mut()[0] = 1;
            memsec::free(black_box(key));
        }
    };
    report(figure, "memsec", &sorted((0..OPERATIONS / 10).map(|_| nanoseconds(one)).collect()));
}

fn sorted(mut samples: Vec<f64>) -> Vec<f64> {
    samples.sort_by(f64::total_cmp);
    samples
}

fn report(figure: &str, series: &str, sorted: &[f64]) {
    for percentile in PERCENTILES {
        let place = ((sorted.len() as f64 * percentile / 100.0) as usize).min(sorted.len() - 1);
        record(figure, series, percentile, sorted[place]);
    }
}
