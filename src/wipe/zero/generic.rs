//! Zeroing in words that every target has: the compiler's own `memset` with the barrier behind it, and
//! volatile stores for small slots.

use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

use crate::wipe::barrier::barrier;

/// The longest slot that is zeroed without a call.
const INLINE_BYTES: usize = 256;

/// Zeroes `len` bytes at `ptr`. No flush.
///
/// # Safety
/// * (valid for writes) `ptr` is valid for writes of `len` bytes, and nobody else accesses them meanwhile.
#[inline]
pub(crate) unsafe fn zero(ptr: NonNull<u8>, len: usize) {
    // SAFETY: (valid for writes) is forwarded; `u8` needs no alignment.
    unsafe { ptr.write_bytes(0, len) };
    barrier(ptr);
}

/// Zeroes a slot of granules: store by store up to 256 bytes, which is less than a call of `memset` costs.
///
/// # Safety
/// * (valid for writes) as for [`zero`].
/// * (granules) `ptr` is aligned to 16 bytes, and `len` is a multiple of 16 and not zero.
#[inline(always)]
pub(crate) unsafe fn zero_slot(ptr: NonNull<u8>, len: usize) {
    if len > INLINE_BYTES {
        // SAFETY: (valid for writes) is forwarded.
        unsafe { zero(ptr, len) };
        return;
    }
    let first = ptr.cast::<u128>();
    for granule in 0..len / 16 {
        // SAFETY: `granule` is one of the slot's.
        let at = unsafe { first.add(granule) };
        // SAFETY: (valid for writes), and aligned by (granules). Volatile, so the compiler may neither drop
        // it nor make a call of all of them.
        unsafe { at.write_volatile(0) };
    }
}

/// Zeroes a slot of 32 to 64 bytes.
///
/// # Safety
/// * (valid for writes) as for [`zero`].
/// * (granules) as for [`zero_slot`].
#[inline(always)]
pub(crate) unsafe fn zero_small_slot(ptr: NonNull<u8>, len: usize) {
    // SAFETY: forwarded.
    unsafe { zero_slot(ptr, len) };
}

/// Zeroes a slot of 80 to 144 bytes.
///
/// # Safety
/// * (valid for writes) as for [`zero`].
/// * (granules) as for [`zero_slot`].
#[inline(always)]
pub(crate) unsafe fn zero_short_slot(ptr: NonNull<u8>, len: usize) {
    // SAFETY: forwarded.
    unsafe { zero_slot(ptr, len) };
}

/// Zeroes a slot of 176 to 1,040 bytes.
///
/// # Safety
/// * (valid for writes) as for [`zero`].
/// * (granules) as for [`zero_slot`].
#[inline(always)]
pub(crate) unsafe fn zero_mid_slot(ptr: NonNull<u8>, len: usize) {
    // SAFETY: forwarded.
    unsafe { zero_slot(ptr, len) };
}

/// Stores four bytes at any alignment, not before anything that was stored earlier. Where they overlap bytes that
/// another thread reads, they are what these bytes are already.
///
/// # Safety
/// * (valid for writes) as for [`zero`], of four bytes from `offset` on, but for such readers.
#[inline(always)]
pub(crate) unsafe fn store_marker(ptr: NonNull<u8>, offset: usize, marker: u32) {
    fence(Ordering::Release);
    // SAFETY: inside what is (valid for writes).
    let at = unsafe { ptr.add(offset) };
    // SAFETY: (valid for writes) is forwarded.
    unsafe { at.cast::<u32>().write_unaligned(marker) };
}
