//! `examples/preload.rs`: programs that know nothing of us, on our heap by `LD_PRELOAD`.
//!
//! The programs are this test binary, started anew with the library in front of the C library, whose functions it
//! calls by their C names. What must hold on both runs on both, so each row of the semantics has a control: the C
//! library itself. `ci/preload` runs real programs.
#![expect(unsafe_code, reason = "calls malloc and its kind, lawfully and not, in child processes")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test may panic"
)]
// glibc: the control is its malloc, and its names are those that are tested.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

#[path = "../support/mod.rs"]
mod support;

mod c;
mod choices;
mod crimes;
mod forks;
mod library;
mod memory;
mod opened;
mod semantics;
mod sodium;

use support::child;

/// Not a test of its own: the part of the programs. See `support::child`.
#[test]
#[ignore = "plays the children of the other tests"]
fn role() {
    child::play(&[
        ("semantics", semantics::check_all),
        ("crime", crimes::commit),
        ("nothing", crimes::touch_nothing),
        ("foreign", crimes::hand_in_foreign_pointers),
        ("forks", forks::fork_while_threads_allocate),
        ("signals", forks::fork_in_signal_handlers),
        ("late", forks::allocate_after_the_end_of_thread_locals),
        ("freed", memory::count_what_is_left),
        ("limit", memory::meet_the_limit),
        ("choice", choices::allocate_a_little),
        ("opened", opened::open_and_use),
        ("sodium", sodium::use_it),
        ("sodium_crime", sodium::commit),
    ]);
}
