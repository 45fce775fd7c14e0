//! Memory for secrets that forgets.
//!
//! See the README for what it protects and what it does not.

mod error;
mod policy;
mod wipe;

pub use error::{Error, Operation};
pub use policy::{Backing, Flush, Fork, Lock, Policy};
pub use wipe::{Instruction, Reach, wipe, wipe_value};
