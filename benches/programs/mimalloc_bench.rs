//! The programs of mimalloc-bench (<https://github.com/daanx/mimalloc-bench>), called as its `bench.sh` does.
//!
//! Not those that need more than its own sources: lean, redis, rocksdb, z3, ghostscript, lua, linux, ruby, and
//! sh6bench and sh8bench. `bench.sh` prints the time on the clock; here it is the processor's, except for the
//! programs that run for a fixed time, whose cost is what `bench.sh` makes of what they print.

use std::fs;
use std::thread::available_parallelism;

use crate::suite::{Kind, Program};

/// The programs that the checkout at `root` has built, with as many threads as the machine has processors.
pub(crate) fn programs(root: &str) -> Vec<Program> {
    // The programs run in a folder of ours.
    let root = fs::canonicalize(root).unwrap_or_else(|error| panic!("MIMALLOC_BENCH: {root}: {error}"));
    let root = root.to_str().unwrap();
    let threads = available_parallelism().map_or(1, usize::from);
    let new = |name, line: &str, kind| {
        let mut command: Vec<String> = line.split(' ').map(str::to_owned).collect();
        command[0] = format!("{root}/out/bench/{}", command[0]);
        Program { name, command, environment: &[], input: None, kind }
    };
    let batch = |name, line: &str| new(name, line, Kind::Batch);
    let varying = |name, line: &str| new(name, line, Kind::Varying);
    let mut espresso = batch("espresso", "espresso");
    espresso.command.push(format!("{root}/bench/espresso/largest.espresso"));
    let mut barnes = varying("barnes", "barnes");
    barnes.input = Some(format!("{root}/bench/barnes/input"));
    vec![
        batch("cfrac", "cfrac 17545186520507317056371138836327483792789528"),
        espresso,
        barnes,
        varying("alloc-test1", "alloc-test 1"),
        // 16 is the most that it knows.
        varying("alloc-testN", &format!("alloc-test {}", threads.min(16))),
        new("larsonN", &format!("larson 5 8 1000 5000 100 4141 {threads}"), Kind::FixedTime(larson)),
        new("xmalloc-testN", &format!("xmalloc-test -w {threads} -t 5 -s 64"), Kind::FixedTime(xmalloc_test)),
        batch("cache-thrashN", &format!("cache-thrash {threads} 1000 1 2000000 {threads}")),
        batch("cache-scratchN", &format!("cache-scratch {threads} 1000 1 2000000 {threads}")),
        batch("malloc-large", "malloc-large"),
        batch("mstressN", &format!("mstress {threads} 50 25")),
        batch("mleak10", "mleak 5"),
        new("rptestN", &format!("rptest {threads} 0 1 2 500 1000 100 8 16000"), Kind::FixedTime(rptest)),
        batch("glibc-simple", "glibc-simple"),
        new("glibc-thread", &format!("glibc-thread {threads}"), Kind::FixedTime(glibc_thread)),
    ]
}

/// `Throughput = 48803437 operations per second, relative time: 20.490s.`
fn larson(output: &str) -> Option<f64> {
    number(output.split_once(" time: ")?.1)
}

/// `rtime: 4.122, free/sec: 24.263 M`
fn xmalloc_test(output: &str) -> Option<f64> {
    number(output.split_once("rtime: ")?.1)
}

/// `crt  2 threads random [..] 100 ops: ........2432236 memory ops/CPU second (37MiB peak, [..])`: the seconds of
/// two millions.
fn rptest(output: &str) -> Option<f64> {
    let (before, _) = output.split_once(" memory ops")?;
    Some(2e6 / number(before.rsplit('.').next()?)?)
}

/// `188123638 iterations`: what `bench.sh` calls the seconds of a milliard of them, though it took two for these.
fn glibc_thread(output: &str) -> Option<f64> {
    Some(1e9 / number(output)?)
}

/// The number that a text begins with.
fn number(text: &str) -> Option<f64> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.').next()?.parse().ok()
}
