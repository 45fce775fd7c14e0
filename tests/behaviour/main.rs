//! The promises of the crate, seen from outside: by the kernel's own account of the pages (`smaps`, frames,
//! faults, limits), by forked children, by a tracer at the end of the process.
//!
//! What has to happen in a process of its own is a role: see `support::child`.
#![expect(unsafe_code, reason = "forks, maps, filters system calls, traces")]
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

mod density;
mod endings;
mod forks;
mod limits;
mod pages;
mod reports;
mod scanner;

/// Not a test of its own: the child's part. See `support::child`.
#[test]
#[ignore = "plays the children of the other tests"]
fn role() {
    let roles = [
        scanner::ROLES,
        reports::ROLES,
        pages::ROLES,
        density::ROLES,
        forks::ROLES,
        endings::ROLES,
        limits::ROLES,
    ];
    support::child::play(&roles.concat());
}
