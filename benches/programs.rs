//! Programs of others under `examples/preload.rs`, against the same programs on the C library's `malloc`.
//!
//! ```text
//! cargo bench --bench programs                     # all of them, 5 rounds
//! cargo bench --bench programs -- 15 gawk sqlite3  # more rounds of some
//! MIMALLOC_BENCH=../mimalloc-bench cargo bench --bench programs -- 5 mimalloc-bench
//! PEERS=libmimalloc-secure.so,libhardened_malloc.so cargo bench --bench programs
//! ```
//!
//! Each round runs every program once on each allocator, one after the other, so that what else the machine does
//! hits all alike. What counts is the processor time of the program and its children, user and system together
//! (`wait4(2)`), and the largest resident set, both divided by those with the C library in the same round; of these
//! ratios the median over the rounds, and in parentheses the quartiles, between which half of the rounds are: what
//! differs by less than that is not told apart. The mean of a round is the geometric one over the programs of a
//! suite. Before that, the outputs must be equal where they do not tell of times.
//!
//! A program that is not installed is left out, with a word. Those of Debian's packages gawk, perl, python3,
//! sqlite3, lua5.4, jq, g++, git, xsltproc, openssl, redis-server, redis-tools, gnuplot-nox are the suite `debian`.
//!
//! `MIMALLOC_BENCH` is the root of a checkout of mimalloc-bench whose programs were built by
//! `build-bench-env.sh bench`. They are a suite with a table and means of its own, `mimalloc-bench`. Those that
//! run for a fixed time cost what they print, not processor time.
//!
//! `PEERS` are libraries of other allocators, which get columns of their own.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a benchmark may panic"
)]
#![cfg_attr(target_os = "linux", expect(unsafe_code, reason = "wait4(2) tells what a child took"))]

#[cfg(target_os = "linux")]
#[path = "programs/allocators.rs"]
mod allocators;
#[cfg(target_os = "linux")]
#[path = "programs/inputs.rs"]
mod inputs;
#[cfg(target_os = "linux")]
#[path = "programs/measure.rs"]
mod measure;
#[cfg(target_os = "linux")]
#[path = "programs/mimalloc_bench.rs"]
mod mimalloc_bench;
#[cfg(target_os = "linux")]
#[path = "programs/ratios.rs"]
mod ratios;
#[cfg(target_os = "linux")]
#[path = "programs/suite.rs"]
mod suite;
#[cfg(target_os = "linux")]
#[path = "programs/table.rs"]
mod table;

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let rounds = words.iter().find_map(|word| word.parse().ok()).unwrap_or(5).max(1);
    let wanted: Vec<&str> =
        words.iter().map(String::as_str).filter(|word| word.parse::<usize>().is_err()).collect();

    let mut suites = vec![("debian", suite::programs())];
    if let Ok(root) = std::env::var("MIMALLOC_BENCH") {
        suites.push(("mimalloc-bench", mimalloc_bench::programs(&root)));
    }
    let allocators = allocators::all();
    let folder = inputs::make();
    for (suite, programs) in suites {
        let mut rows = Vec::new();
        for program in programs {
            if !wanted.is_empty() && !wanted.contains(&program.name) && !wanted.contains(&suite) {
                continue;
            }
            match measure::compare(&program, &folder, &allocators, rounds) {
                Ok(row) => {
                    println!("{}", table::line(&row, &allocators));
                    rows.push(row);
                }
                Err(why) => println!("{}: left out: {why}", program.name),
            }
        }
        if !rows.is_empty() {
            println!("\n{}", table::markdown(&rows, &allocators, rounds));
        }
    }
}
