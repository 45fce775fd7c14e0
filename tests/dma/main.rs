//! Pinned buffers and transfers, seen from outside: frame numbers, memory through the kernel, files' pages in
//! the cache, system calls, limits.
#![expect(unsafe_code, reason = "moves, locks, filters, signals")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::mem_forget,
    reason = "a test may panic, and leaks on purpose"
)]
#![cfg(target_os = "linux")]

#[path = "../support/mod.rs"]
mod support;

mod frames;
#[cfg(feature = "io-uring")]
#[path = "../support/late_io.rs"]
mod late_io;
mod refusals;
mod secret_file;
#[cfg(feature = "io-uring")]
mod transfers;

/// Not a test of its own: the child's part. See `support::child`.
#[test]
#[ignore = "plays the children of the other tests"]
fn role() {
    let roles = [
        frames::ROLES,
        refusals::ROLES,
        #[cfg(feature = "io-uring")]
        transfers::ROLES,
    ];
    support::child::play(&roles.concat());
}
