//! Where no instruction for it is known: zero and order, and say that it went no further than the cache.

use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence as atomic_fence};

use crate::wipe::{Reach, zero};

/// How far a flush gets.
#[allow(dead_code, reason = "waits for `report()`")]
pub(crate) fn reach() -> Reach {
    Reach::CacheOnly
}

/// Zeroes `len` bytes at `ptr`.
///
/// # Safety
/// * (valid for writes) `ptr` is valid for writes of `len` bytes, and nobody else accesses them meanwhile.
pub(crate) unsafe fn zero_and_flush(ptr: NonNull<u8>, len: usize) {
    // SAFETY: (valid for writes) is forwarded.
    unsafe { zero(ptr, len) };
    fence();
}

/// Nothing to do here.
///
/// # Safety
/// * (mapped) the line that holds `ptr` is mapped and readable.
#[inline(always)]
pub(crate) unsafe fn write_back_line(_ptr: NonNull<u8>) {}

/// Nothing to do here.
///
/// # Safety
/// * (mapped) `ptr` is valid for reads of `len` bytes.
#[inline(always)]
pub(crate) unsafe fn write_back(_ptr: NonNull<u8>, _len: usize) {}

/// Orders all that came before it before all that follows.
#[inline(always)]
pub(crate) fn fence() {
    atomic_fence(Ordering::SeqCst);
}
