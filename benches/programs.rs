//! Programs of others under `examples/preload.rs`, against the same programs on the C library's `malloc`.
//!
//! ```text
//! cargo bench --bench programs                     # all of them, 5 rounds
//! cargo bench --bench programs -- 15 gawk sqlite3  # more rounds of some
//! ```
//!
//! Each round runs every program once on each allocator, one after the other, so that what else the machine does
//! hits all alike. What counts is the processor time of the program and its children, user and system together
//! (`wait4(2)`), the median over the rounds; and the largest resident set. Before that, the outputs must be equal.
//!
//! A program that is not installed is left out, with a word. Those of Debian's packages gawk, perl, python3,
//! sqlite3, lua5.4, jq, g++, git, xsltproc, openssl, redis-server, redis-tools, gnuplot-nox.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a benchmark may panic"
)]
#![cfg_attr(target_os = "linux", expect(unsafe_code, reason = "wait4(2) tells what a child took"))]

#[cfg(target_os = "linux")]
#[path = "programs/inputs.rs"]
mod inputs;
#[cfg(target_os = "linux")]
#[path = "programs/measure.rs"]
mod measure;
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
    let rounds = words.iter().find_map(|word| word.parse().ok()).unwrap_or(5);
    let wanted: Vec<&str> =
        words.iter().map(String::as_str).filter(|word| word.parse::<usize>().is_err()).collect();

    let library = measure::build_library();
    let folder = inputs::make();
    let mut rows = Vec::new();
    for program in suite::programs() {
        if !wanted.is_empty() && !wanted.contains(&program.name) {
            continue;
        }
        match measure::compare(&program, &folder, &library, rounds) {
            Ok(row) => {
                println!("{}", table::line(&row));
                rows.push(row);
            }
            Err(why) => println!("{}: left out: {why}", program.name),
        }
    }
    println!("\n{}", table::markdown(&rows, rounds));
}
