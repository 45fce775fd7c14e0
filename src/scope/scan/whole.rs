//! Where a load always goes through a register (aarch64), nothing is read: the whole range counts as used.

use core::ptr::NonNull;

/// See [`scan::first_used`](super::first_used).
///
/// # Safety
///
/// None: it is unsafe for the sake of its twin.
#[inline(always)]
pub(super) const unsafe fn first_used(_start: NonNull<u8>, _len: usize) -> usize {
    0
}
