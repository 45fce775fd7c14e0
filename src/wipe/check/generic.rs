//! The check in words that every target has; the compiler makes vectors of them where it can.

use core::ptr::NonNull;

/// Granules looked at between two early exits.
const STEP: usize = 8;

/// Whether `len` bytes at `ptr` are all zero.
///
/// # Safety
/// * (valid for reads) `ptr` is valid for reads of `len` initialised bytes, which nobody writes meanwhile.
#[inline]
pub(crate) unsafe fn is_zero(ptr: NonNull<u8>, len: usize) -> bool {
    // SAFETY: (valid for reads) is what a shared slice needs.
    let bytes = unsafe { core::slice::from_raw_parts(ptr.as_ptr(), len) };
    // SAFETY: sixteen bytes in any state are a valid `u128`.
    let (head, granules, tail) = unsafe { bytes.align_to::<u128>() };
    head.iter().all(|&byte| byte == 0) && granules_are_zero(granules) && tail.iter().all(|&byte| byte == 0)
}

/// Whether a slot of granules is all zero.
///
/// # Safety
/// * (valid for reads) as for [`is_zero`].
/// * (granules) `ptr` is aligned to 16 bytes, and `len` is a multiple of 16 and not zero.
#[inline(always)]
pub(crate) unsafe fn slot_is_zero(ptr: NonNull<u8>, len: usize) -> bool {
    // SAFETY: (valid for reads) and (granules) are what a shared slice of `u128` needs.
    granules_are_zero(unsafe { core::slice::from_raw_parts(ptr.cast::<u128>().as_ptr(), len / 16) })
}

#[inline]
fn granules_are_zero(granules: &[u128]) -> bool {
    granules.chunks(STEP).all(|step| step.iter().fold(0, |sum, &granule| sum | granule) == 0)
}

/// Whether a slot of 32 to 64 bytes is all zero.
///
/// # Safety
/// * (valid for reads) as for [`is_zero`].
/// * (granules) as for [`slot_is_zero`].
#[inline(always)]
pub(crate) unsafe fn small_slot_is_zero(ptr: NonNull<u8>, len: usize) -> bool {
    // SAFETY: forwarded.
    unsafe { slot_is_zero(ptr, len) }
}

/// Whether a slot of 80 to 144 bytes is all zero.
///
/// # Safety
/// * (valid for reads) as for [`is_zero`].
/// * (granules) as for [`slot_is_zero`].
#[inline(always)]
pub(crate) unsafe fn short_slot_is_zero(ptr: NonNull<u8>, len: usize) -> bool {
    // SAFETY: forwarded.
    unsafe { slot_is_zero(ptr, len) }
}

/// Whether a slot of 176 to 1,040 bytes is all zero.
///
/// # Safety
/// * (valid for reads) as for [`is_zero`].
/// * (granules) as for [`slot_is_zero`].
#[inline(always)]
pub(crate) unsafe fn mid_slot_is_zero(ptr: NonNull<u8>, len: usize) -> bool {
    // SAFETY: forwarded.
    unsafe { slot_is_zero(ptr, len) }
}
