//! Makes many strings and sorts them on all cores.

use std::hint::black_box;

use rayon::prelude::*;

pub fn run() {
    for round in 0..6_u64 {
        let mut words: Vec<String> = (0..200_000_u64)
            .into_par_iter()
            .map(|i| {
                let mixed = (i + round).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                format!("{mixed:x}{}", "-".repeat((mixed % 40) as usize))
            })
            .collect();
        words.par_sort();
        let lengths: Vec<Vec<usize>> =
            words.par_chunks(100).map(|words| words.iter().map(String::len).collect()).collect();
        black_box((words, lengths));
    }
}
