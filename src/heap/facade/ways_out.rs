//! The ways out of the hot paths, never inlined: the last thing that these do, so a jump.
//!
//! They take what is in registers there, in the same order, and what else they need behind it.

// UNSAFETY: forwards raw blocks from one hot path to the next.
#![expect(unsafe_code, reason = "the allocator interface works on raw blocks")]

use core::alloc::Layout;
use core::ptr::{self, NonNull};

use super::Heap;
use crate::heap::class::MID_MAX_BYTES;
use crate::heap::hot::common::Goes;
use crate::heap::hot::{ANY_SIZE, Freed};
use crate::heap::slab::Local;
use crate::heap::tables::Granule;
use crate::heap::thread::{BINS_BYTES, ThreadHeap, is_common};
use crate::os::{self, Errno};

/// Allocates a block that is not small, aligned to a granule or less.
#[inline(never)]
pub(super) fn allocate_mid(layout: Layout, heap: &Heap, local: &'static ThreadHeap) -> *mut u8 {
    if layout.size() > MID_MAX_BYTES {
        return allocate_any(layout, heap);
    }
    // SAFETY: `local` is what this thread holds of `heap`; a size in bounds.
    let at_hand = unsafe { local.allocate_mid(layout.size()) };
    if at_hand.is_null() { allocate_slow_or_null(layout, heap) } else { at_hand }
}

/// Allocates any other block.
#[inline(never)]
pub(super) fn allocate_any(layout: Layout, heap: &Heap) -> *mut u8 {
    let at_hand = heap.take_bigger(layout);
    if at_hand.is_null() { allocate_slow_or_null(layout, heap) } else { at_hand }
}

/// Allocates what was not at hand. Sets `errno` where it cannot, so that a caller who has to do so in C does not have to
/// look at what it got.
#[cold]
#[inline(never)]
pub(super) fn allocate_slow_or_null(layout: Layout, heap: &Heap) -> *mut u8 {
    match heap.allocate_slow(layout) {
        Ok(block) => block.as_ptr(),
        Err(_) => {
            os::set_errno(Errno::NOMEM);
            ptr::null_mut()
        }
    }
}

/// Frees a block in a slab that is not small.
///
/// # Safety
/// - As for [`Heap::free_hot`]; `local` is what this thread holds of `heap`, and `granule` and `offset` are where it
///   located the block.
#[inline(never)]
pub(super) unsafe fn free_mid(
    ptr: NonNull<u8>,
    size: usize,
    heap: &Heap,
    flush: Flush,
    local: &'static ThreadHeap,
    granule: Granule,
) {
    let offset = local.offset_at(granule);
    // SAFETY: forwarded.
    match unsafe { local.free_mid(ptr, granule, offset, size, flush) } {
        Freed::Done => {}
        Freed::DoneAndDue => heap.write_back_slow(),
        // SAFETY: forwarded.
        Freed::NotDone if offset < BINS_BYTES => unsafe { free_any(ptr, size, heap, flush, local, granule) },
        // SAFETY: forwarded.
        Freed::NotDone if is_common(offset) => unsafe { free_common(ptr, size, heap, flush, local, granule) },
        // SAFETY: forwarded.
        Freed::NotDone => unsafe { free_remote(ptr, size, heap, flush, local, granule) },
    }
}

/// Frees any other block.
///
/// # Safety
/// - As for [`free_mid`].
#[inline(never)]
pub(super) unsafe fn free_any(
    ptr: NonNull<u8>,
    size: usize,
    heap: &Heap,
    flush: Flush,
    local: &'static ThreadHeap,
    granule: Granule,
) {
    let offset = local.offset_at(granule);
    let known = (size != ANY_SIZE).then_some(size);
    // SAFETY: forwarded.
    let freed = unsafe { local.free_any(ptr, granule, offset, known, flush) };
    finish(freed, ptr, size, heap, flush);
}

/// Frees a block that this thread heap may not just take, of a common slab.
///
/// # Safety
/// - As for [`free_mid`].
#[inline(never)]
unsafe fn free_common(
    ptr: NonNull<u8>,
    size: usize,
    heap: &Heap,
    flush: Flush,
    local: &'static ThreadHeap,
    granule: Granule,
) {
    // SAFETY: forwarded.
    match unsafe { local.free_common(ptr, granule, size, flush, Goes::ToHand, |_, _| ()) } {
        Freed::Done => {}
        Freed::DoneAndDue => heap.write_back_slow(),
        // SAFETY: forwarded.
        Freed::NotDone => unsafe { free_beyond(ptr, size, heap, flush, local, granule) },
    }
}

/// The same, of a class of which this thread has as many slots at hand as it may.
///
/// # Safety
/// - As for [`free_mid`].
#[inline(never)]
unsafe fn free_beyond(
    ptr: NonNull<u8>,
    size: usize,
    heap: &Heap,
    flush: Flush,
    local: &'static ThreadHeap,
    granule: Granule,
) {
    let send = |word, bits| send(heap, local, word, bits);
    // SAFETY: forwarded.
    match unsafe { local.free_common(ptr, granule, size, flush, Goes::Home, send) } {
        Freed::Done => {}
        Freed::DoneAndDue => heap.write_back_slow(),
        // SAFETY: forwarded.
        Freed::NotDone => unsafe { free_remote(ptr, size, heap, flush, local, granule) },
    }
}

/// Sends slots of other thread heaps home.
#[cold]
#[inline(never)]
fn send(heap: &Heap, local: &'static ThreadHeap, word: u32, bits: u64) {
    if let Some(shared) = heap.shared() {
        // SAFETY: it freed a block, so it is set up; `local` is what this thread holds of `heap`.
        unsafe { Local::new(shared, local) }.send_some(word, bits);
    }
}

/// Frees a block that this thread heap may not just take.
///
/// # Safety
/// - As for [`free_mid`].
#[inline(never)]
unsafe fn free_remote(
    ptr: NonNull<u8>,
    size: usize,
    heap: &Heap,
    flush: Flush,
    local: &'static ThreadHeap,
    granule: Granule,
) {
    let freed = match heap.shared() {
        Some(shared) => {
            // SAFETY: it located the block, so it is set up; `local` is what this thread holds of `heap`.
            let local = unsafe { Local::new(shared, local) };
            // SAFETY: forwarded.
            unsafe { local.free_remote(ptr, granule, size, flush) }
        }
        None => Freed::NotDone,
    };
    finish(freed, ptr, size, heap, flush);
}

/// Does what a free left to do.
#[inline(always)]
fn finish(freed: Freed, ptr: NonNull<u8>, size: usize, heap: &Heap, flush: Flush) {
    match freed {
        Freed::Done => {}
        Freed::DoneAndDue => heap.write_back_slow(),
        Freed::NotDone => free_slow(ptr, size, heap, flush),
    }
}

#[cold]
#[inline(never)]
pub(super) fn free_slow(ptr: NonNull<u8>, size: usize, heap: &Heap, flush: Flush) {
    let size = (size != ANY_SIZE).then_some(size);
    os::preserve_errno(|| heap.free_with_system(ptr, size, flush));
}
