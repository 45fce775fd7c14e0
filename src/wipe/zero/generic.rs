//! Zeroing by the compiler's own `memset`, with the barrier behind it.

use core::ptr::NonNull;

use crate::wipe::barrier::barrier;

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

/// Zeroes a slot of granules.
///
/// # Safety
/// * (valid for writes) as for [`zero`].
/// * (granules) `ptr` is aligned to 16 bytes, and `len` is a multiple of 16 and not zero.
#[inline(always)]
pub(crate) unsafe fn zero_slot(ptr: NonNull<u8>, len: usize) {
    // SAFETY: (granules) makes it exact.
    let granules = unsafe { core::slice::from_raw_parts_mut(ptr.cast::<u128>().as_ptr(), len / 16) };
    granules.fill(0);
    barrier(ptr);
}
