//! What huge pages save: the steps of finding a page. A gibibyte is read at one byte a page of 4 KiB, in an order that
//! no prefetcher foresees, on pages of 4 KiB and of 2 MiB.
//!
//! `cargo bench --bench huge_pages -- --ratio` prints the ratio alone, measured in turns. Explicit huge pages are measured
//! where the system's pool has 512 of them free (`sysctl vm.nr_hugepages=512`).
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a bench may panic"
)]

use std::alloc::Layout;
use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use oubliette::{Advice, Error, GuardedPages, HugePages, Ordinary};

const BYTES: usize = 1 << 30;
const PAGE_BYTES: usize = 4096;
const PAGES: usize = BYTES / PAGE_BYTES;
/// Odd, so that it visits every page; near the golden section, so that neighbours in time are none in space.
const STRIDE: usize = 161_803;
/// Rounds of each side, in turns. The figure is the median.
const ROUNDS: usize = 9;

fn main() {
    let buffers = buffers();
    if std::env::args().any(|argument| argument == "--ratio") {
        return print_ratios(&buffers);
    }
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("a_byte_a_page_of_1_gib");
    group.sample_size(10).throughput(Throughput::Elements(PAGES as u64));
    for (name, buffer) in &buffers {
        group.bench_function(BenchmarkId::from_parameter(name), |b| b.iter(|| walk(buffer)));
    }
    group.finish();
    print_ratios(&buffers);
    criterion.final_summary();
}

type Buffer = GuardedPages<Ordinary>;

/// Small pages first, then what this system has of huge ones.
fn buffers() -> Vec<(&'static str, Buffer)> {
    let layout = Layout::from_size_align(BYTES, 1).unwrap();
    let mut small = Buffer::with_layout(layout).unwrap();
    small.advise(Advice::NoHugePage).unwrap();
    let mut buffers = vec![("small", small)];
    for (name, pages) in [("transparent", HugePages::Transparent), ("explicit", HugePages::Explicit)] {
        match Buffer::with_huge_pages(layout, pages) {
            Ok(buffer) => buffers.push((name, buffer)),
            Err(error @ (Error::HugePages { .. } | Error::Refused(_))) => {
                println!("skipped: {name}: {error}")
            }
            Err(error) => panic!("{error}"),
        }
    }
    for (name, buffer) in &mut buffers {
        buffer.fill(1);
        println!("{name}: {} MiB of huge pages", huge_mib(buffer.as_ptr().addr()));
    }
    buffers
}

/// Reads one byte of every page. Each byte is at another place in its page, so that they share no set of the caches.
fn walk(buffer: &[u8]) -> usize {
    let mut page = 0;
    let mut sum = 0;
    for _ in 0..PAGES {
        sum += usize::from(buffer[page * PAGE_BYTES + page % 64 * 64]);
        page = (page + STRIDE) % PAGES;
    }
    sum
}

fn print_ratios(buffers: &[(&str, Buffer)]) {
    let mut times = vec![Vec::new(); buffers.len()];
    for _ in 0..ROUNDS {
        for ((_, buffer), times) in buffers.iter().zip(&mut times) {
            let start = Instant::now();
            black_box(walk(buffer));
            times.push(start.elapsed());
        }
    }
    let medians: Vec<Duration> = times
        .into_iter()
        .map(|mut times| {
            times.sort_unstable();
            times[ROUNDS / 2]
        })
        .collect();
    for ((name, _), median) in buffers.iter().zip(&medians) {
        let ratio = medians[0].as_secs_f64() / median.as_secs_f64();
        println!(
            "{name:>12} {:>7.2} ns a page {ratio:>6.2} times as fast",
            median.as_nanos() as f64 / PAGES as f64
        );
    }
}

/// What of a mapping lies on huge pages, transparent or explicit, as smaps says.
fn huge_mib(address: usize) -> usize {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut is_it, mut kib) = (false, 0);
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some((start, end)) = first.split_once('-')
            && let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16))
        {
            is_it = (start..end).contains(&address);
        } else if is_it && matches!(first, "AnonHugePages:" | "Private_Hugetlb:") {
            kib += words.next().and_then(|word| word.parse::<usize>().ok()).unwrap_or(0);
        }
    }
    kib / 1024
}
