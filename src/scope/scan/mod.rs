//! How much of an all-zero range was written? Everything below the answer is zero.

// UNSAFETY: reads memory by address, in assembly where that keeps its bytes out of the registers.
#![expect(unsafe_code, reason = "reads raw memory, see UNSAFETY above")]

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
use x86_64 as machine;

#[cfg(not(target_arch = "x86_64"))]
mod whole;
#[cfg(not(target_arch = "x86_64"))]
use whole as machine;

#[cfg(test)]
mod tests;

use core::ptr::NonNull;

/// The range must be a multiple of this, and the answer is.
pub(super) const BLOCK_BYTES: usize = 256;

/// The offset of the first block that is not all zero, or `len`.
///
/// # Safety
///
/// - `start` is a multiple of 64 and valid for reads of `len` bytes, a multiple of [`BLOCK_BYTES`].
#[inline(always)]
pub(super) unsafe fn first_used(start: NonNull<u8>, len: usize) -> usize {
    debug_assert!(len.is_multiple_of(BLOCK_BYTES), "whole blocks");
    // SAFETY: forwarded.
    unsafe { machine::first_used(start, len) }
}
