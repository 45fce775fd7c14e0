//! What the ways of short and mid slots differ in.

// UNSAFETY: forwards slots by address to the functions that check and wipe them.
#![expect(unsafe_code, reason = "slots are raw memory; the conditions are those of the functions called")]

use core::ptr::NonNull;

use super::Freed;
use crate::heap::tables::Granule;
use crate::heap::thread::ThreadHeap;
use crate::wipe;

/// How slots of some classes are checked, wiped and remembered.
pub(crate) trait Way {
    /// Whether a slot is all zero.
    ///
    /// # Safety
    /// - `ptr` starts a slot of `len` bytes that takes this way: readable, aligned to a granule, and nobody writes
    ///   to it meanwhile.
    unsafe fn is_zero(ptr: NonNull<u8>, len: usize) -> bool;

    /// Zeroes a slot.
    ///
    /// # Safety
    /// - As for `is_zero`; it is writable, and nobody uses it.
    unsafe fn zero(ptr: NonNull<u8>, len: usize);

    /// Remembers the lines of a slot that was freed, if that is soon done.
    fn remember(heap: &ThreadHeap, granule: Granule, len: usize) -> Freed;
}

/// Slots of 80 to 144 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Short;

/// Slots of 176 to 1,040 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mid;

impl Way for Short {
    #[inline(always)]
    unsafe fn is_zero(ptr: NonNull<u8>, len: usize) -> bool {
        // SAFETY: forwarded.
        unsafe { wipe::short_slot_is_zero(ptr, len) }
    }

    #[inline(always)]
    unsafe fn zero(ptr: NonNull<u8>, len: usize) {
        // SAFETY: forwarded.
        unsafe { wipe::zero_short_slot(ptr, len) };
    }

    #[inline(always)]
    fn remember(heap: &ThreadHeap, granule: Granule, len: usize) -> Freed {
        heap.remember_short_lines(granule, len)
    }
}

impl Way for Mid {
    #[inline(always)]
    unsafe fn is_zero(ptr: NonNull<u8>, len: usize) -> bool {
        // SAFETY: forwarded.
        unsafe { wipe::mid_slot_is_zero(ptr, len) }
    }

    #[inline(always)]
    unsafe fn zero(ptr: NonNull<u8>, len: usize) {
        // SAFETY: forwarded.
        unsafe { wipe::zero_mid_slot(ptr, len) };
    }

    #[inline(always)]
    fn remember(heap: &ThreadHeap, granule: Granule, len: usize) -> Freed {
        heap.remember_mid_lines(granule.offset(), len)
    }
}
