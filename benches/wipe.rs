//! `wipe` against the best known sequences of instructions, written here by hand and on their own, in the
//! same run.
//!
//! `cargo bench --bench wipe` runs Criterion's groups, then prints tables of medians measured in turns and
//! the ratio that counts: ours to the best sequence for that size and state. The figure to hold is 1.15 for
//! dirty ranges, which is what a freed secret is: the program has just written it.
//! `cargo bench --bench wipe -- --tables` prints the tables only.
#![allow(unsafe_code, reason = "the reference sequences are instructions")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::unwrap_used,
    reason = "a benchmark that panics has failed, and its times are far below the limits of f64"
)]

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    println!("the reference sequences are for x86-64");
}

#[cfg(target_arch = "x86_64")]
fn main() {
    if !x86_64::has_clflushopt() {
        println!("the reference sequences need clflushopt");
        return;
    }
    let has_flag = |flag: &str| std::env::args().any(|argument| argument == flag);
    if !has_flag("--tables") {
        x86_64::criterion();
    }
    if has_flag("--bench") && !has_flag("--test") {
        x86_64::tables();
    }
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use core::arch::asm;
    use core::time::Duration;
    use std::time::Instant;

    use criterion::{BenchmarkId, Criterion, Throughput};

    const SIZES: [usize; 12] =
        [16, 32, 64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];

    /// Zeroes a range and sends it past the caches.
    type Wipe = fn(&mut [u8]);

    const CONTENDERS: [(&str, Wipe); 3] =
        [("oubliette", oubliette::wipe), ("interleaved", interleaved), ("non-temporal", non_temporal)];

    /// What the range is when the wipe begins.
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        /// Written a moment ago: the lines that fit are modified in the caches.
        Dirty,
        /// Wiped by the same contender a moment ago, nothing since: an artificial case, in which each
        /// sequence finds the lines as it left them.
        Wiped,
    }

    pub(super) fn has_clflushopt() -> bool {
        let leaves = core::arch::x86_64::__cpuid(0).eax;
        leaves >= 7 && core::arch::x86_64::__cpuid_count(7, 0).ebx & (1 << 23) != 0
    }

    /// Reference 1: four stores and a `clflushopt` for each line, one `mfence`.
    fn interleaved(bytes: &mut [u8]) {
        let first = bytes.as_mut_ptr();
        let end = first.wrapping_add(bytes.len());
        if bytes.len() < 64 {
            // SAFETY: `bytes` is a multiple of 16 inside of one line (`Arena`, `SIZES`).
            unsafe {
                asm!(
                    "pxor xmm0, xmm0",
                    "2:",
                    "movaps [{p}], xmm0",
                    "add {p}, 16",
                    "cmp {p}, {e}",
                    "jb 2b",
                    "clflushopt [{e} - 1]",
                    "mfence",
                    p = inout(reg) first => _,
                    e = in(reg) end,
                    out("xmm0") _,
                );
            }
        } else {
            // SAFETY: `bytes` is whole lines (`Arena`, `SIZES`).
            unsafe {
                asm!(
                    "pxor xmm0, xmm0",
                    "2:",
                    "movaps [{p}], xmm0",
                    "movaps [{p} + 16], xmm0",
                    "movaps [{p} + 32], xmm0",
                    "movaps [{p} + 48], xmm0",
                    "clflushopt [{p}]",
                    "add {p}, 64",
                    "cmp {p}, {e}",
                    "jb 2b",
                    "mfence",
                    p = inout(reg) first => _,
                    e = in(reg) end,
                    out("xmm0") _,
                );
            }
        }
    }

    /// Reference 2: non-temporal stores, one `mfence`. Of 32 bytes where the processor has them.
    fn non_temporal(bytes: &mut [u8]) {
        let first = bytes.as_mut_ptr();
        let end = first.wrapping_add(bytes.len());
        if bytes.len() >= 64 && std::arch::is_x86_feature_detected!("avx") {
            // SAFETY: `bytes` is whole lines (`Arena`, `SIZES`); the processor has AVX.
            unsafe {
                asm!(
                    "vpxor xmm0, xmm0, xmm0",
                    "2:",
                    "vmovntdq [rdi], ymm0",
                    "vmovntdq [rdi + 32], ymm0",
                    "add rdi, 64",
                    "cmp rdi, rsi",
                    "jb 2b",
                    "mfence",
                    "vzeroupper",
                    inout("rdi") first => _,
                    in("rsi") end,
                    clobber_abi("C"),
                );
            }
        } else {
            // SAFETY: `bytes` begins at a line and is a multiple of 16 (`Arena`, `SIZES`).
            unsafe {
                asm!(
                    "pxor xmm0, xmm0",
                    "2:",
                    "movntdq [{p}], xmm0",
                    "add {p}, 16",
                    "cmp {p}, {e}",
                    "jb 2b",
                    "mfence",
                    p = inout(reg) first => _,
                    e = in(reg) end,
                    out("xmm0") _,
                );
            }
        }
    }

    #[repr(align(64))]
    #[derive(Clone, Copy)]
    struct Line {
        bytes: [u8; 64],
    }

    const WRITTEN: Line = Line { bytes: [0xA5; 64] };

    /// Blocks of one size, each on lines of its own: as many as fit in half of a first-level cache, so that
    /// a clock read is nothing against one pass over them.
    struct Arena {
        lines: Vec<Line>,
        block_bytes: usize,
        stride_lines: usize,
    }

    impl Arena {
        fn new(block_bytes: usize) -> Self {
            let stride_lines = block_bytes.div_ceil(64);
            let blocks = (16 * 1024 / (stride_lines * 64)).clamp(1, 64);
            Self { lines: vec![WRITTEN; blocks * stride_lines], block_bytes, stride_lines }
        }

        /// The time of one wipe, as a mean over all blocks.
        fn pass(&mut self, wipe: Wipe, state: State) -> Duration {
            if state == State::Dirty {
                self.lines.fill(WRITTEN);
                // SAFETY: a fence changes nothing.
                unsafe { asm!("mfence") };
            }
            let (len, blocks) = (self.block_bytes, self.lines.len() / self.stride_lines);
            let start = Instant::now();
            for block in self.lines.chunks_exact_mut(self.stride_lines) {
                if let [line] = block {
                    wipe(&mut line.bytes[..len]);
                } else {
                    // SAFETY: a slice of lines without padding is a slice of their bytes.
                    wipe(unsafe { core::slice::from_raw_parts_mut(block.as_mut_ptr().cast(), len) });
                }
            }
            start.elapsed() / u32::try_from(blocks).unwrap()
        }
    }

    pub(super) fn criterion() {
        let mut criterion = Criterion::default()
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_millis(800))
            .sample_size(20)
            .configure_from_args();
        let mut group = criterion.benchmark_group("zero_and_flush");
        for size in SIZES {
            group.throughput(Throughput::Bytes(size as u64));
            for (name, wipe) in CONTENDERS {
                let mut arena = Arena::new(size);
                group.bench_function(BenchmarkId::new(name, size), |bencher| {
                    bencher.iter_custom(|passes| (0..passes).map(|_| arena.pass(wipe, State::Dirty)).sum());
                });
            }
        }
        group.finish();
        criterion.final_summary();
    }

    pub(super) fn tables() {
        table(State::Dirty, "Dirty range, each written just before it is wiped (the figure to hold: 1.15)");
        table(State::Wiped, "Range wiped by the same sequence just before (for information)");
    }

    fn table(state: State, title: &str) {
        println!("\n{title}\nns a wipe, medians of passes taken in turns\n");
        println!(
            "{:>10}{:>14}{:>14}{:>14}{:>16}",
            "bytes", "oubliette", "interleaved", "non-temporal", "ours to best"
        );
        let mut worst = 0.0_f64;
        for size in SIZES {
            let [ours, interleaved, non_temporal] = medians(size, state);
            let ratio = ours / interleaved.min(non_temporal);
            worst = worst.max(ratio);
            println!("{size:>10}{ours:>14.0}{interleaved:>14.0}{non_temporal:>14.0}{ratio:>16.2}");
        }
        println!("\nworst: {worst:.2}");
    }

    /// One median for each contender, in nanoseconds.
    fn medians(size: usize, state: State) -> [f64; 3] {
        let rounds = if size < 1 << 20 { 1001 } else { 101 };
        let mut arenas = CONTENDERS.map(|_| Arena::new(size));
        let mut times = CONTENDERS.map(|_| Vec::with_capacity(rounds));
        for round in 0..rounds + 5 {
            for turn in 0..CONTENDERS.len() {
                // Each contender follows each other one equally often.
                let index = if round % 2 == 0 { turn } else { CONTENDERS.len() - 1 - turn };
                let time = arenas[index].pass(CONTENDERS[index].1, state);
                if round >= 5 {
                    times[index].push(time.as_secs_f64() * 1e9);
                }
            }
        }
        times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        })
    }
}
