//! What the tests of large blocks have in common.

#![allow(clippy::unwrap_used, reason = "tests")]

use core::alloc::Layout;

use crate::heap::geometry::Constraints;
use crate::{Lock, Policy};

pub(super) const ROOMY: Constraints = Constraints { memory_bytes: 1 << 30, max_threads: 2 };
pub(super) const UNLOCKED: Policy = Policy::PROGRAM.with_lock(Lock::Off);

pub(super) fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 16).unwrap()
}
