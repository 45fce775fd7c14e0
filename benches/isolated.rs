//! `IsolatedBox` beside `memsec`, in turns and in the same run: opened and closed, made and dropped, first use.
//!
//! `cargo bench --bench isolated -- --tables` prints the ratios of the figures that the project is held to;
//! without it criterion measures single operations.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a bench may panic"
)]
#![expect(unsafe_code, reason = "calls memsec, to compare with it")]

use std::hint::black_box;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use memsec::Prot;
use oubliette::IsolatedBox;

type Key = [u8; 32];

/// Rounds of each side, in turns. The figure is the median.
const ROUNDS: usize = 15;
/// Operations of one round.
const OPERATIONS: usize = 4000;
/// A number that is coprime to all counts below: visits them in an order that no cache foresees.
const STRIDE: usize = 7919;

fn main() {
    if std::env::args().any(|argument| argument == "--tables") {
        return tables();
    }
    let mut criterion = Criterion::default().configure_from_args();
    singles(&mut criterion);
    criterion.final_summary();
}

fn singles(c: &mut Criterion) {
    let mut group = c.benchmark_group("open_and_close");
    for live in [1, 5000] {
        let boxes = boxes(live);
        let mut at = 0;
        group.bench_function(BenchmarkId::new("oubliette", live), |b| {
            b.iter(|| {
                at = (at + STRIDE) % live;
                black_box(boxes[at].open().unwrap()[0])
            });
        });
        let peers = Peers::new(live);
        group.bench_function(BenchmarkId::new("memsec", live), |b| {
            b.iter(|| {
                at = (at + STRIDE) % live;
                peers.look(at)
            });
        });
    }
    group.finish();
    let mut group = c.benchmark_group("new_and_drop");
    group.bench_function("oubliette", |b| b.iter(|| drop(black_box(new_box(7)))));
    group.bench_function("memsec", |b| b.iter(|| free(new_peer(7))));
    group.finish();
}

fn tables() {
    println!("open + close, ns; memsec holds min(live, 5,000), since more do not fit its mappings");
    println!("{:>9} {:>10} {:>10} {:>6}", "live", "oubliette", "memsec", "ratio");
    for live in [1, 100, 1000, 5000, 20_000, 1_000_000] {
        open_and_close(live);
    }
    println!("new + drop, ns");
    let (ours, theirs) = in_turns(
        || repeat(OPERATIONS, |_| drop(black_box(new_box(7)))),
        || repeat(OPERATIONS / 4, |_| free(new_peer(7))),
    );
    print_ratio("recycled", ours, theirs);
    IsolatedBox::<Key>::reserve(64).unwrap();
    let ours = slowest(|| drop(black_box(new_box(7))));
    print_ratio("p99.99", ours, slowest(|| free(new_peer(7))));
    println!("first use of fresh pages, ns (5,000 made; none dropped meanwhile)");
    let (ours, theirs) = in_turns(
        || {
            // Fill what is kept ready, so that the clock sees fresh places only.
            let _ready = boxes(oubliette::report().isolated().ready);
            let mut made = Vec::with_capacity(5000);
            repeat(5000, |_| made.push(new_box(7)))
        },
        || {
            let mut made = Vec::with_capacity(5000);
            let time = repeat(5000, |_| made.push(new_peer(7)));
            made.into_iter().for_each(free);
            time
        },
    );
    print_ratio("fresh", ours, theirs);
}

fn open_and_close(live: usize) {
    let boxes = boxes(live);
    let peers = Peers::new(live.min(5000));
    let count = peers.0.len();
    let mut at = 0;
    let mut there = 0;
    let (ours, theirs) = in_turns(
        || {
            repeat(OPERATIONS, |_| {
                at = (at + STRIDE) % live;
                black_box(boxes[at].open().unwrap()[0]);
            })
        },
        || {
            repeat(OPERATIONS, |_| {
                there = (there + STRIDE) % count;
                peers.look(there);
            })
        },
    );
    print_ratio(&live.to_string(), ours, theirs);
    let mappings = std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    println!("{:>9} {mappings} mappings, {} of them memsec's", "", count * 5);
}

fn boxes(count: usize) -> Vec<IsolatedBox<Key>> {
    (0..count).map(|i| new_box(i as u8)).collect()
}

fn new_box(byte: u8) -> IsolatedBox<Key> {
    IsolatedBox::new_with(|key: &mut Key| key.fill(byte)).unwrap()
}

/// Keys of memsec's, without access.
struct Peers(Vec<NonNull<Key>>);

impl Peers {
    fn new(count: usize) -> Self {
        Self((0..count).map(|_| new_peer(7)).collect())
    }

    /// Opens one, reads a byte, closes it.
    fn look(&self, at: usize) {
        // SAFETY: made by `memsec::malloc` and not freed.
        unsafe { memsec::mprotect(self.0[at], Prot::ReadOnly) };
        // SAFETY: readable since the line above.
        black_box(unsafe { self.0[at].as_ref() }[0]);
        // SAFETY: as above; no reference is used any more.
        unsafe { memsec::mprotect(self.0[at], Prot::NoAccess) };
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.0.drain(..).for_each(free);
    }
}

/// A key of memsec's, filled and closed.
fn new_peer(byte: u8) -> NonNull<Key> {
    // SAFETY: no condition but a page size that is a power of two.
    let mut peer = unsafe { memsec::malloc::<Key>() }.unwrap();
    // SAFETY: allocated above, of this size, for bytes.
    unsafe { peer.as_mut() }.fill(byte);
    // SAFETY: made by `memsec::malloc`; no reference is used any more.
    unsafe { memsec::mprotect(peer, Prot::NoAccess) };
    peer
}

fn free(peer: NonNull<Key>) {
    // SAFETY: made by `memsec::malloc`. It reads its canary before it opens the pages, so they are opened first.
    unsafe { memsec::mprotect(peer, Prot::ReadWrite) };
    // SAFETY: as above, and not used any more.
    unsafe { memsec::free(peer) };
}

fn repeat(times: usize, mut operation: impl FnMut(usize)) -> Duration {
    let start = Instant::now();
    (0..times).for_each(&mut operation);
    start.elapsed() / times as u32
}

/// The 99.99th percentile of 50,000 single operations.
fn slowest(mut operation: impl FnMut()) -> Duration {
    const COUNT: usize = 50_000;
    let mut times: Vec<_> = (0..COUNT)
        .map(|_| {
            let start = Instant::now();
            operation();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[COUNT - COUNT / 10_000]
}

/// The medians of both, measured in turns.
fn in_turns(
    mut ours: impl FnMut() -> Duration,
    mut theirs: impl FnMut() -> Duration,
) -> (Duration, Duration) {
    let mut times: (Vec<_>, Vec<_>) = (0..ROUNDS).map(|_| (ours(), theirs())).unzip();
    times.0.sort_unstable();
    times.1.sort_unstable();
    (times.0[ROUNDS / 2], times.1[ROUNDS / 2])
}

fn print_ratio(name: &str, ours: Duration, theirs: Duration) {
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    println!("{name:>9} {:>10} {:>10} {ratio:>6.2}", ours.as_nanos(), theirs.as_nanos());
}
