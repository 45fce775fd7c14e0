//! Checks that need a machine of their own: a device behind an IOMMU, two memory nodes, guest memory that can be
//! searched from outside, and kernels other than this machine's. `ci/lab` boots one in QEMU for each kernel and
//! runs them there; anywhere else this program says `skipped` and ends.
//!
//! ```text
//! lab                         skipped, unless called as below
//! lab list [SELECTION]        the checks, a line each
//! lab guest                   in the guest: runs what the kernel's command line selects (lab=a,b), each in a
//!                             process of its own, and tells how each ended
//! lab check NAME              one of them
//! lab judge SELECTION RESULTS [RAM...]    on the host: whether what the guest told is what it had to tell
//! ```
//!
//! A selection is a list of checks and groups with commas between, `all` for everything but the controls.
//!
//! What the guest tells (see `report`):
//!
//! ```text
//! lab: begin KERNEL
//! lab: NAME passed SECONDS | lab: NAME FAILED REASON | lab: NAME skipped REASON
//! lab: NAME search SEED BYTES none|some WHAT
//! lab: done COUNT
//! ```
//!
//! To add a check: a function `fn() -> Outcome` in a file here, and a line in the table of its group. A check
//! fails by an `Err` or by a panic, and prints what it measured. It runs as root and may change every setting of
//! the guest; the next check runs in the same guest.
#![expect(unsafe_code, reason = "checks make system calls to arrange what they look at")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::mem_forget,
    reason = "a check may panic, and leaks on purpose"
)]
#![cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "the guest is Linux"))]

#[cfg(target_os = "linux")]
#[path = "../support/mod.rs"]
mod support;

#[cfg(target_os = "linux")]
mod check;
#[cfg(target_os = "linux")]
mod controls;
#[cfg(target_os = "linux")]
mod edu;
#[cfg(target_os = "linux")]
mod iommu;
#[cfg(target_os = "linux")]
mod judge;
#[cfg(target_os = "linux")]
mod keys;
#[cfg(target_os = "linux")]
mod late;
#[cfg(target_os = "linux")]
#[path = "../support/late_io.rs"]
mod late_io;
#[cfg(target_os = "linux")]
mod moves;
#[cfg(target_os = "linux")]
mod packets;
#[cfg(target_os = "linux")]
mod refusals;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod runner;
#[cfg(target_os = "linux")]
mod search;
#[cfg(target_os = "linux")]
mod secrets;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    use std::process::ExitCode;

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["list"] => judge::list("all"),
        ["list", selection] => judge::list(selection),
        ["guest"] => runner::run_selected(),
        ["check", name] => runner::run_here(name),
        ["judge", selection, results, ref ram @ ..] => judge::judge(selection, results, ram),
        // Whatever `cargo test` passes on is for a harness that is not here.
        _ => {
            eprintln!("skipped: runs inside ci/lab");
            ExitCode::SUCCESS
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("skipped: runs inside ci/lab, on Linux");
}
