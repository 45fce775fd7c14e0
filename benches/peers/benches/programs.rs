//! Small Rust programs on the C library's allocator, on ours and on others: processor time and peak memory.
//!
//! `cargo bench --manifest-path benches/peers/Cargo.toml --bench programs`
//!
//! Every program runs as a process of its own, the allocators in turn, so that a change of the machine's speed
//! meets all of them; the figure is the median of the ratios to System in the same turn.

use std::path::Path;
use std::process::Command;

use oubliette_peers::allocators::MIMALLOC;
use oubliette_peers::figures::record;
use oubliette_peers::programs;

const TURNS: usize = 5;

const ALLOCATORS: [(&str, &str); 5] = [
    ("System", env!("CARGO_BIN_EXE_on-system")),
    ("Oubliette", env!("CARGO_BIN_EXE_on-oubliette")),
    ("Oubliette, flush off", env!("CARGO_BIN_EXE_on-oubliette-off")),
    (MIMALLOC, env!("CARGO_BIN_EXE_on-mimalloc")),
    ("zeroizing-alloc", env!("CARGO_BIN_EXE_on-zeroizing")),
];

fn main() {
    let mut logs = [[0.0_f64; 2]; ALLOCATORS.len()];
    for (x, (program, _)) in (1..).zip(programs::ALL) {
        let turns: Vec<[[f64; 2]; ALLOCATORS.len()]> =
            (0..TURNS).map(|_| ALLOCATORS.map(|(_, path)| cost(Path::new(path), program))).collect();
        for (i, (name, _)) in ALLOCATORS.iter().enumerate() {
            let [time, memory] = [0, 1].map(|what| {
                let mut ratios: Vec<_> = turns.iter().map(|turn| turn[i][what] / turn[0][what]).collect();
                ratios.sort_by(f64::total_cmp);
                ratios[ratios.len() / 2]
            });
            logs[i][0] += time.ln();
            logs[i][1] += memory.ln();
            record(&format!("processor time against System: {program}"), name, f64::from(x), time);
            record(&format!("peak memory against System: {program}"), name, f64::from(x), memory);
        }
    }
    for (i, (name, _)) in ALLOCATORS.iter().enumerate() {
        let [time, memory] = logs[i].map(|log| (log / programs::ALL.len() as f64).exp());
        record("processor time against System: geometric mean", name, 0.0, time);
        record("peak memory against System: geometric mean", name, 0.0, memory);
    }
}

/// Runs one program and returns its processor time in seconds and its peak memory in bytes.
fn cost(path: &Path, program: &str) -> [f64; 2] {
    let child = Command::new(path).arg(program).spawn().unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let mut status = 0;
    // SAFETY: all zero is a value of this plain C struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: a child of this process that nobody else waits for; both pointers are to live values.
    let waited = unsafe { libc::wait4(child.id() as i32, &raw mut status, 0, &raw mut usage) };
    assert!(waited == child.id() as i32 && status == 0, "{path:?} {program}: {status:#x}");
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    [seconds(usage.ru_utime) + seconds(usage.ru_stime), usage.ru_maxrss as f64 * 1024.0]
}
