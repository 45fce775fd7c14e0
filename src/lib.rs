//! Memory for secrets that forgets.
//!
//! See the README for what it protects and what it does not.

#![cfg_attr(
    test,
    allow(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing,
        clippy::unwrap_used,
        reason = "unit tests may panic: that is how they fail"
    )
)]
#![cfg_attr(loom, allow(dead_code, unused_imports, reason = "only leaf structures are modelled"))]

mod error;
mod policy;
mod sync;

#[cfg_attr(
    not(all(target_os = "linux", not(oubliette_portable))),
    allow(dead_code, reason = "the same contract everywhere, of which some systems need less")
)]
mod os;
mod wipe;

#[cfg_attr(
    not(all(target_os = "linux", not(oubliette_portable))),
    allow(dead_code, reason = "the same contract everywhere, of which some systems need less")
)]
mod pages;

#[allow(dead_code, reason = "used by report()")]
mod heap;

// Loom knows the leaf structures of the heap only, not the heap.
#[cfg(not(loom))]
mod report;

#[cfg(not(loom))]
mod exit;
#[cfg(not(loom))]
mod secret;

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(miri, loom, oubliette_portable))
))]
mod scope;

#[cfg(not(loom))]
mod global;

#[cfg(feature = "fault-injection")]
pub mod fault;
#[cfg(test)]
mod testing;

pub use error::{Error, Operation};
#[cfg(not(loom))]
pub use exit::{WipeAtEnd, set_wipe_at_end};
#[cfg(not(loom))]
pub use global::Oubliette;
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(miri, loom, oubliette_portable))
))]
pub use global::ScopedAlloc;
#[cfg(all(feature = "allocator-api2", not(loom)))]
pub use global::SecretAlloc;
pub use policy::{Backing, Flush, Fork, Lock, Policy};
#[cfg(not(loom))]
pub use report::{HeapReport, LockLimit, Report, StepsDown, report};
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(miri, loom, oubliette_portable))
))]
pub use scope::{
    Cover, Outcome, Scope, ScopeBuilder, is_in_scope, scope, spawn_scoped, suspended, try_scope,
};
#[cfg(not(loom))]
pub use secret::{
    Inline, NewWithError, Plain, SecretBox, SecretString, SecretVec, secret_flush, set_secret_flush,
};
pub use wipe::{Instruction, Reach, wipe, wipe_value};

#[cfg(not(loom))]
#[doc(hidden)]
pub use secret::require_inline;

/// Writes every freed cache line that any thread still remembers ([`Flush::Bounded`]) back to memory and
/// waits until that is done.
///
/// Takes no lock and allocates nothing. Costs a few nanoseconds for each line, of which a thread remembers
/// 2,048 at most.
#[cfg(not(loom))]
pub fn flush() {
    heap::flush_all();
}

/// Wipes every secret of the process now: each block of each heap that is not inherited by children, in use
/// or leaked, whoever holds it. What is read from a secret afterwards is zero; freeing one is in order.
///
/// The heap of a whole program ([`Policy::PROGRAM`]) is not wiped: the program could not go on, not even to
/// its end. What it frees is wiped at once anyway.
///
/// Takes no lock, allocates nothing, and may be called from any thread at any time, also in a signal handler
/// (it is async-signal-safe in the sense of `signal-safety(7)`). Secrets in registers, on stacks, and copies
/// that were made elsewhere are not reached.
#[cfg(not(loom))]
pub fn purge() {
    heap::purge_all();
}
