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

mod error;
mod policy;
#[allow(dead_code, unused_imports, reason = "used by heap/")]
mod sync;

#[allow(dead_code, unused_imports, reason = "used by heap/")]
mod os;
mod wipe;

#[allow(dead_code, unused_imports, reason = "used by heap/")]
mod pages;

#[allow(dead_code, reason = "used by secret/ and global/")]
mod heap;

#[cfg(feature = "fault-injection")]
pub mod fault;
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(miri, oubliette_portable))
))]
mod scope;

#[cfg(test)]
mod testing;

pub use error::{Error, Operation};
pub use policy::{Backing, Flush, Fork, Lock, Policy};
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(miri, oubliette_portable))
))]
pub use scope::{
    Cover, Outcome, Scope, ScopeBuilder, is_in_scope, scope, spawn_scoped, suspended, try_scope,
};
pub use wipe::{Instruction, Reach, wipe, wipe_value};
