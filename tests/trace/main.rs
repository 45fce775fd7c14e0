//! What is left of a secret? Asked from outside, by a process that stops this one and reads all of it.
//!
//! Each test starts this binary again as a child that runs one program ([`programs`], [`hazards`]) and
//! stops itself before, inside and after. At each stop the parent ([`tracer`]) reads every mapping and the
//! full register state of every thread, and looks for every eight-byte run of every needle ([`scan`]). The
//! child tells its needles through a pipe, from inside, so that they never pass through its memory outside
//! ([`child`]).
//!
//! x86-64 Linux only: a breakpoint instruction stops the child with all registers as they are.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests"
)]

mod child;
mod hazards;
mod programs;
mod scan;
mod tracer;

use std::alloc::System;

use oubliette::ScopedAlloc;
use scan::Found;
use tracer::trace;

#[global_allocator]
static ALLOC: ScopedAlloc<System> = ScopedAlloc::new(System);

/// Not a test: what the other tests start in a process of its own.
#[test]
#[ignore = "started by the other tests"]
fn child() {
    child::main();
}

/// In a scope nothing is left, though it was there inside; without one, the same scan finds it.
fn leaves_nothing(program: &str) {
    let [before, inside, after] = three(program, "scope");
    println!("{program}, scope: before {before}, inside {inside}, after {after}");
    assert!(inside.fragments() > 0, "the scan sees the secrets of {program} while they are in use");
    assert_eq!(before.fragments(), 0, "{program}: {before:?}");
    assert_eq!(after.fragments(), 0, "{program}: {after:?}");
    let [_, inside, after] = three(program, "control");
    println!("{program}, control: inside {inside}, after {after}");
    assert!(after.fragments() > 0, "without a scope {program} leaves something");
}

fn three(program: &str, mode: &str) -> [Found; 3] {
    trace(program, mode).try_into().unwrap_or_else(|found| panic!("three stops, not {found:?}"))
}

#[test]
fn rsa() {
    leaves_nothing("rsa");
}

#[test]
fn ed25519() {
    leaves_nothing("ed25519");
}

#[test]
fn aes_gcm() {
    leaves_nothing("aes_gcm");
}

#[test]
fn argon2() {
    leaves_nothing("argon2");
}

#[test]
fn x25519_chacha20poly1305() {
    leaves_nothing("x25519_chacha20poly1305");
}

#[test]
fn rustls() {
    leaves_nothing("rustls");
}

/// Stops: inside, after, after drop. Afterwards it may be in the secret heap, and nowhere once dropped.
fn stays_in_the_heap(hazard: &str) {
    let found = trace(hazard, "scope");
    println!("{hazard}: {found:?}");
    let [inside, after, dropped] =
        found.try_into().unwrap_or_else(|found| panic!("three stops, not {found:?}"));
    assert!(inside.fragments() > 0, "the scan sees the secrets of {hazard} while they are in use");
    assert_eq!(after.outside_the_heap(), 0, "{hazard}: {after:?}");
    assert_eq!(dropped.fragments(), 0, "{hazard}: {dropped:?}");
}

#[test]
fn an_outer_vec_that_grows_inside() {
    stays_in_the_heap("outer_vec");
}

#[test]
fn a_panic_with_a_secret_in_its_payload() {
    stays_in_the_heap("panic_payload");
}

#[test]
fn a_panic_with_a_secret_in_its_message() {
    stays_in_the_heap("panic_message");
}

#[test]
fn a_future_dropped_between_polls() {
    stays_in_the_heap("future");
}

#[test]
fn a_signal_on_the_alternate_stack() {
    leaves_nothing("signal_on_stack");
}

#[test]
fn a_signal_on_the_stack_of_the_scope() {
    leaves_nothing("signal");
}

#[test]
fn every_kind_of_register() {
    leaves_nothing("registers");
}

#[test]
fn a_nested_scope() {
    leaves_nothing("nested");
}

#[test]
fn an_early_return() {
    leaves_nothing("early_return");
}

#[test]
fn a_suspension() {
    leaves_nothing("suspension");
}

#[test]
fn a_thread_that_ends_in_a_scope() {
    leaves_nothing("thread");
}
