//! Pinned buffers and transfers beside `pread(2)` and the io-uring crate used bare, in turns and in the same run.
//!
//! `cargo bench --bench dma --features io-uring -- --tables` prints the figures that the project is held to, as
//! ratios of rounds that followed each other; `OUBLIETTE_BENCH_FOLDER` names the folder for the file that is
//! read (256 MiB, removed at once). Without `--tables` criterion measures single operations.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a bench may panic"
)]
#![expect(unsafe_code, reason = "uses the io-uring crate bare, to compare with it")]
#![cfg(target_os = "linux")]

use std::collections::VecDeque;
use std::fs::File;
use std::hint::black_box;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use io_uring::{IoUring, opcode, types};
use oubliette::DmaBuffer;
use oubliette::dma::{BufferPool, Descriptor, HugePages, Ring};

const FILE_BYTES: usize = 256 << 20;
/// Rounds of each side, in turns. The figure is the median.
const ROUNDS: usize = 9;
/// Transfers under way at once.
const DEPTH: usize = 8;

fn main() {
    if std::env::args().any(|argument| argument == "--tables") {
        return tables();
    }
    let mut criterion = Criterion::default().configure_from_args();
    singles(&mut criterion);
    criterion.final_summary();
}

fn singles(c: &mut Criterion) {
    let ring = Ring::new(DEPTH as u32).unwrap();
    let pool = BufferPool::new(&ring, DEPTH as u32, 4096).unwrap();
    let mut group = c.benchmark_group("buffer");
    group.bench_function("take_and_return_4KiB", |b| b.iter(|| black_box(pool.take().unwrap()[0])));
    group.bench_function("ring_new_and_drop", |b| b.iter(|| black_box(Ring::new(64).unwrap())));
    for kib in [4, 64, 1024] {
        group.bench_function(format!("new_and_drop_{kib}KiB"), |b| {
            b.iter(|| black_box(DmaBuffer::new(kib << 10).unwrap()));
        });
    }
    group.finish();
    let mut group = c.benchmark_group("read_zeros_4KiB");
    group.throughput(Throughput::Bytes(4096));
    let zeros = File::open("/dev/zero").unwrap();
    let shared = Descriptor::new(zeros.try_clone().unwrap());
    let mut buffer = Some(DmaBuffer::new(4096).unwrap());
    group.bench_function("ring", |b| {
        b.iter(|| buffer = Some(ring.read(buffer.take().unwrap(), &shared, 0).unwrap().wait().unwrap().0));
    });
    group.bench_function("ring_with_a_file_to_duplicate", |b| {
        b.iter(|| buffer = Some(ring.read(buffer.take().unwrap(), &zeros, 0).unwrap().wait().unwrap().0));
    });
    let mut bytes = vec![0; 4096];
    group.bench_function("pread", |b| b.iter(|| zeros.read_at(&mut bytes, 0).unwrap()));
    group.finish();
}

/// A way to read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `pread(2)`, one after the other.
    Plain,
    /// This crate's ring, so many at once.
    Ours(usize),
    /// The io-uring crate with registered buffers.
    BareFixed(usize),
    /// The io-uring crate with buffers that are pinned anew by each transfer.
    Bare(usize),
}

/// What a round took.
#[derive(Clone, Copy, Debug)]
struct Cost {
    wall: Duration,
    cpu: Duration,
}

struct Bench {
    file: File,
    shared: Descriptor,
    /// Where each transfer of a round begins.
    offsets: Vec<u64>,
    bytes: usize,
}

impl Bench {
    fn round(&self, way: Way) -> Cost {
        match way {
            Way::Plain => self.plain(),
            Way::Ours(depth) => self.ours(depth),
            Way::BareFixed(depth) => self.bare(depth, true),
            Way::Bare(depth) => self.bare(depth, false),
        }
    }

    fn plain(&self) -> Cost {
        let mut buffer = DmaBuffer::new(self.bytes).unwrap();
        cost_of(|| {
            for offset in &self.offsets {
                assert_eq!(self.file.read_at(&mut buffer, *offset).unwrap(), self.bytes);
            }
        })
    }

    fn ours(&self, depth: usize) -> Cost {
        let ring = Ring::new(depth as u32).unwrap();
        let mut idle: Vec<_> = (0..depth).map(|_| DmaBuffer::new(self.bytes).unwrap()).collect();
        idle.iter_mut().for_each(|buffer| ring.attach(buffer).unwrap());
        cost_of(|| {
            let mut flying = VecDeque::with_capacity(depth);
            for offset in &self.offsets {
                let buffer = idle.pop().unwrap_or_else(|| finish(&mut flying, self.bytes));
                flying.push_back(ring.read(buffer, &self.shared, *offset).unwrap());
            }
            while !flying.is_empty() {
                idle.push(finish(&mut flying, self.bytes));
            }
        })
    }

    fn bare(&self, depth: usize, is_fixed: bool) -> Cost {
        let mut ring = IoUring::new(depth as u32).unwrap();
        let mut buffers: Vec<_> = (0..depth).map(|_| DmaBuffer::new(self.bytes).unwrap()).collect();
        let ranges: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() })
            .collect();
        // SAFETY: the buffers outlive the ring's last transfer, which this function waits for.
        unsafe { ring.submitter().register_buffers(&ranges) }.unwrap();
        let file = types::Fd(self.file.as_raw_fd());
        let len = self.bytes as u32;
        let cost = cost_of(|| {
            let mut idle: Vec<usize> = (0..depth).collect();
            let mut next = self.offsets.iter();
            let mut left = self.offsets.len();
            while left > 0 {
                while !idle.is_empty()
                    && let Some(offset) = next.next()
                {
                    let index = idle.pop().unwrap();
                    let start = ranges[index].iov_base.cast();
                    let entry = if is_fixed {
                        opcode::ReadFixed::new(file, start, len, index as u16).offset(*offset).build()
                    } else {
                        opcode::Read::new(file, start, len).offset(*offset).build()
                    };
                    // SAFETY: the buffer is idle, and stays until the transfer was reaped below.
                    unsafe { ring.submission().push(&entry.user_data(index as u64)) }.unwrap();
                }
                ring.submit_and_wait(1).unwrap();
                for done in ring.completion() {
                    assert_eq!(done.result(), self.bytes as i32);
                    idle.push(done.user_data() as usize);
                    left -= 1;
                }
            }
        });
        drop(ring);
        drop(buffers);
        cost
    }
}

fn finish(flying: &mut VecDeque<oubliette::dma::InFlight>, bytes: usize) -> DmaBuffer {
    let (buffer, n) = flying.pop_front().unwrap().wait().unwrap();
    assert_eq!(n, bytes);
    buffer
}

fn cost_of(work: impl FnOnce()) -> Cost {
    let (start, cpu) = (Instant::now(), cpu_time());
    work();
    Cost { wall: start.elapsed(), cpu: cpu_time() - cpu }
}

/// User and system time of this process, its kernel workers included.
fn cpu_time() -> Duration {
    // SAFETY: `rusage` consists of integers, for which all zeros are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is valid for a write (getrusage(2)).
    assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) }, 0);
    let span = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    span(usage.ru_utime) + span(usage.ru_stime)
}

fn tables() {
    let folder = std::env::var_os("OUBLIETTE_BENCH_FOLDER").map_or_else(std::env::temp_dir, Into::into);
    let path = folder.join(format!("oubliette-bench-{}", std::process::id()));
    let mut file = File::create_new(&path).unwrap();
    for piece in 0..FILE_BYTES >> 20 {
        file.write_all(&vec![piece as u8; 1 << 20]).unwrap();
    }
    file.sync_all().unwrap();
    let direct = File::options().read(true).custom_flags(libc::O_DIRECT).open(&path);
    std::fs::remove_file(&path).unwrap();
    let Ok(file) = direct else {
        return println!("skipped: no O_DIRECT in {}", folder.display());
    };
    let shared = Descriptor::new(file.try_clone().unwrap());
    let mut bench = Bench { file, shared, offsets: Vec::new(), bytes: 128 << 10 };
    bench.offsets = (0..FILE_BYTES / bench.bytes).map(|block| (block * bench.bytes) as u64).collect();
    compare("128 KiB, in order", &bench);
    bench.bytes = 4 << 10;
    let blocks = FILE_BYTES / bench.bytes;
    // A stride that is coprime to the number of blocks: no order that a disk foresees.
    bench.offsets = (0..6_000).map(|index| (index * 40_503 % blocks * bench.bytes) as u64).collect();
    compare("4 KiB, in no order", &bench);
    pool_beside_new();
    second_thread();
}

fn compare(what: &str, bench: &Bench) {
    let ways = [
        Way::Plain,
        Way::Ours(1),
        Way::BareFixed(1),
        Way::Ours(DEPTH),
        Way::BareFixed(DEPTH),
        Way::Bare(DEPTH),
    ];
    let mut costs = vec![Vec::new(); ways.len()];
    for way in ways {
        black_box(bench.round(way));
    }
    for _ in 0..ROUNDS {
        for (way, costs) in ways.iter().zip(&mut costs) {
            costs.push(bench.round(*way));
        }
    }
    let mib = (bench.offsets.len() * bench.bytes) as f64 / f64::from(1 << 20);
    println!("\n{what}\n  {:18} {:>9} {:>16} {:>12}", "", "MiB/s", "CPU us/transfer", "CPU us/MiB");
    for (way, costs) in ways.iter().zip(&costs) {
        let wall = median(costs.iter().map(|cost| cost.wall.as_secs_f64()));
        let cpu = median(costs.iter().map(|cost| cost.cpu.as_secs_f64())) * 1e6;
        let name = format!("{way:?}");
        println!(
            "  {name:18} {:9.0} {:16.2} {:12.1}",
            mib / wall,
            cpu / bench.offsets.len() as f64,
            cpu / mib
        );
    }
    // Throughput of the first over that of the second, round by round.
    let ratio = |first: Way, second: Way| {
        let of = |way| &costs[ways.iter().position(|other| *other == way).unwrap()];
        let pairs = of(first).iter().zip(of(second));
        median(pairs.map(|(first, second)| second.wall.as_secs_f64() / first.wall.as_secs_f64()))
    };
    for (first, second) in [
        (Way::Ours(DEPTH), Way::Plain),
        (Way::Ours(1), Way::Plain),
        (Way::Ours(DEPTH), Way::BareFixed(DEPTH)),
        (Way::Ours(1), Way::BareFixed(1)),
        (Way::BareFixed(DEPTH), Way::Bare(DEPTH)),
    ] {
        println!("  {:42} {:.3}", format!("{first:?} / {second:?}"), ratio(first, second));
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Nanoseconds of one call, the median of a few rounds.
fn nanoseconds(operations: usize, mut operation: impl FnMut()) -> f64 {
    median((0..ROUNDS).map(|_| {
        let start = Instant::now();
        (0..operations).for_each(|_| operation());
        start.elapsed().as_nanos() as f64 / operations as f64
    }))
}

fn pool_beside_new() {
    let ring = Ring::new(DEPTH as u32).unwrap();
    println!("\nnanoseconds for a buffer that is touched, and wiped at its end");
    println!("  {:>10} {:>12} {:>12} {:>8}", "bytes", "reused", "new, dropped", "ratio");
    for bytes in [4 << 10, 64 << 10, 1 << 20] {
        let pool = BufferPool::new(&ring, DEPTH as u32, bytes).unwrap();
        let reused = nanoseconds(2_000, || pool.take().unwrap()[0] = 1);
        let made = nanoseconds(100, || DmaBuffer::new(bytes).unwrap()[0] = 1);
        println!("  {bytes:10} {reused:12.0} {made:12.0} {:8.1}", made / reused);
    }
    let huge = || DmaBuffer::builder(2 << 20).huge_pages(HugePages::Transparent).build().unwrap();
    let small = nanoseconds(30, || DmaBuffer::new(2 << 20).unwrap()[0] = 1);
    let large = nanoseconds(30, || huge()[0] = 1);
    println!(
        "  2 MiB, new and dropped: small pages {small:.0}, a huge one {large:.0} ({:?})",
        huge().huge_pages()
    );
}

/// What making and dropping buffers costs with a second thread that runs on another processor, and what it costs
/// that thread: unmapping interrupts it, since it may remember the addresses (TLB shootdown).
fn second_thread() {
    const BYTES: usize = 64 << 10;
    let ring = Ring::new(DEPTH as u32).unwrap();
    let pool = BufferPool::new(&ring, DEPTH as u32, BYTES).unwrap();
    let new = || nanoseconds(100, || DmaBuffer::new(BYTES).unwrap()[0] = 1);
    let reuse = || nanoseconds(2_000, || pool.take().unwrap()[0] = 1);
    let (new_alone, reuse_alone) = (new(), reuse());
    let shootdowns = || {
        let text = std::fs::read_to_string("/proc/interrupts").unwrap_or_default();
        let line = text.lines().find(|line| line.trim_start().starts_with("TLB:"));
        let counts =
            line.map(|line| line.split_whitespace().filter_map(|word| word.parse::<u64>().ok()).sum());
        counts.unwrap_or(0_u64)
    };
    let (is_over, steps) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                steps.fetch_add(1, Ordering::Relaxed);
            }
        });
        let before = shootdowns();
        let new_beside = new();
        let made = shootdowns() - before;
        let before = shootdowns();
        let reuse_beside = reuse();
        let reused = shootdowns() - before;
        is_over.store(true, Ordering::Relaxed);
        println!(
            "\n64 KiB, nanoseconds; interrupts to flush a TLB, for {} and {} buffers",
            100 * ROUNDS,
            2_000 * ROUNDS
        );
        println!("  {:14} {:>10} {:>24} {:>12}", "", "alone", "beside a running thread", "interrupts");
        println!("  {:14} {new_alone:10.0} {new_beside:24.0} {made:12}", "new, dropped");
        println!("  {:14} {reuse_alone:10.0} {reuse_beside:24.0} {reused:12}", "reused");
    });
    black_box(steps.into_inner());
}
