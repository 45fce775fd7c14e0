//! How fast memory is wiped, beside how fast it can be written.

use std::hint::black_box;
use std::time::{Duration, Instant};

use oubliette_peers::figures::record;
use zeroize::Zeroize;

const FIGURE: &str = "wiping, GB a second";

pub fn measure() {
    for shift in (6..=28).step_by(2) {
        let bytes = 1_usize << shift;
        let mut memory = vec![1_u8; bytes];
        let all: [(&str, fn(&mut [u8])); 4] = [
            ("fill (memory's own)", |memory| black_box(memory).fill(1)),
            ("oubliette::wipe, flushed", |memory| oubliette::wipe(black_box(memory))),
            ("memsec::memzero", |memory| {
                // SAFETY: the slice's own bytes.
                unsafe { memsec::memzero(black_box(&mut *memory).as_mut_ptr(), memory.len()) }
            }),
            ("zeroize", |memory| black_box(memory).zeroize()),
        ];
        for (name, operation) in all {
            record(FIGURE, name, bytes as f64, gigabytes_a_second(&mut memory, operation));
        }
    }
}

/// The best of several runs of about ten milliseconds; before each, the memory is made dirty again.
fn gigabytes_a_second(memory: &mut [u8], operation: fn(&mut [u8])) -> f64 {
    let mut best = 0.0_f64;
    for _ in 0..5 {
        let (mut spent, mut rounds) = (Duration::ZERO, 0_u32);
        while rounds == 0 || spent < Duration::from_millis(10) && rounds < 100_000 {
            memory.fill(1);
            let start = Instant::now();
            operation(memory);
            spent += start.elapsed();
            rounds += 1;
        }
        best = best.max(memory.len() as f64 * f64::from(rounds) / spent.as_nanos() as f64);
    }
    best
}
