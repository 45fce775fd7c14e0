//! Memory for secrets that forgets.
//!
//! See the README for what it protects and what it does not.

mod error;
mod policy;
#[allow(dead_code, unused_imports, reason = "used by heap/")]
mod sync;

#[allow(dead_code, unused_imports, reason = "used by heap/")]
mod os;
mod wipe;

#[allow(dead_code, unused_imports, reason = "used by heap/")]
mod pages;

#[cfg(feature = "fault-injection")]
pub mod fault;

pub use error::{Error, Operation};
pub use policy::{Backing, Flush, Fork, Lock, Policy};
pub use wipe::{Instruction, Reach, wipe, wipe_value};
