//! The ways out of the hot paths, never inlined: the last thing that these do, so a jump.
//!
//! They take what is in registers there, in the same order, and what else they need behind it.

// UNSAFETY: forwards raw blocks from one hot path to the next.
#![expect(unsafe_code, reason = "the allocator interface works on raw blocks")]

use core::alloc::Layout;
use core::ptr::{self, NonNull};

use super::Heap;
use crate::Flush;
use crate::heap::class::{MID_MAX_BYTES, SHORT_MAX_BYTES};
use crate::heap::hot::common::Goes;
use crate::heap::hot::{ANY_SIZE, Freed, Mid, Short};
use crate::heap::slab::Local;
use crate::heap::thread::{BINS_BYTES, MID_BINS_BYTES, SHORT_BINS_BYTES, ThreadHeap, is_common};
use crate::heap::threads;
use crate::os::{self, Errno};

/// Allocates a block that is not small, aligned to a granule or less.
#[inline(never)]
pub(super) fn allocate_short(layout: Layout, heap: &Heap, local: &'static ThreadHeap) -> *mut u8 {
    if layout.size() > SHORT_MAX_BYTES {
        return allocate_mid(layout, heap, local);
    }
    // SAFETY: `local` is what this thread holds of `heap`; a size of that way.
    let at_hand = unsafe { local.allocate_by::<Short>(layout.size()) };
    if at_hand.is_null() { allocate_slow_or_null(layout, heap) } else { at_hand }
}

/// The same for one that is not short either.
#[inline(never)]
fn allocate_mid(layout: Layout, heap: &Heap, local: &'static ThreadHeap) -> *mut u8 {
    if layout.size() > MID_MAX_BYTES {
        return allocate_any(layout, heap);
    }
    // SAFETY: as above.
    let at_hand = unsafe { local.allocate_by::<Mid>(layout.size()) };
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

/// Frees a block in a slab that is not small, or by [`Flush::Immediate`].
///
/// # Safety
/// - As for [`Heap::free_hot`]; `local` is what this thread holds of `heap`, and it located the block at
///   `offset`.
#[inline(never)]
pub(super) unsafe fn free_short(
    ptr: NonNull<u8>,
    size: usize,
    heap: &Heap,
    flush: Flush,
    local: &'static ThreadHeap,
    offset: usize,
) {
    if offset >= BINS_BYTES {
        if is_common(offset) {
            // SAFETY: forwarded.
            return unsafe { free_common(ptr, size, heap, flush, local) };
        }
        // SAFETY: forwarded.
        return unsafe { free_remote(ptr, size, heap, flush, local) };
    }
    if offset >= SHORT_BINS_BYTES || flush == Flush::Immediate {
        // SAFETY: forwarded.
        return unsafe { free_mid(ptr, size, heap, flush, local, offset) };
    }
    // SAFETY: it is located.
    let granule = unsafe { local.granule_at(ptr) };
    // SAFETY: forwarded; it is not a small one.
    let freed = unsafe { local.free_by::<Short>(ptr, granule, offset, size, flush) };
    finish(freed, ptr, size, heap, flush);
}

/// The same for one that is not short either.
///
/// # Safety
/// - As for [`free_short`].
#[inline(never)]
unsafe fn free_mid(
    ptr: NonNull<u8>,
    size: usize,
    heap: &Heap,
    flush: Flush,
    local: &'static ThreadHeap,
    offset: usize,
) {
    if offset >= MID_BINS_BYTES || flush == Flush::Immediate {
        // SAFETY: forwarded.
        return unsafe { free_any(ptr, size, heap, flush, local, offset) };
    }
    // SAFETY: it is located.
    let granule = unsafe { local.granule_at(ptr) };
    // SAFETY: forwarded; it is neither a small nor a short one.
    let freed = unsafe { local.free_by::<Mid>(ptr, granule, offset, size, flush) };
    finish(freed, ptr, size, heap, flush);
}

/// Frees any other block in a slab of this thread.
///
/// # Safety
/// - As for [`free_short`].
#[inline(never)]
unsafe fn free_any(
    ptr: NonNull<u8>,
    size: usize,
    heap: &Heap,
    flush: Flush,
    local: &'static ThreadHeap,
    offset: usize,
) {
    // SAFETY: it is located.
    let granule = unsafe { local.granule_at(ptr) };
    let known = (size != ANY_SIZE).then_some(size);
    // SAFETY: forwarded.
    let freed = unsafe { local.free_any(ptr, granule, offset, known, flush) };
    finish(freed, ptr, size, heap, flush);
}

/// Frees a block that this thread heap may not just take, of a common slab.
///
/// # Safety
/// - As for [`free_short`].
#[inline(never)]
unsafe fn free_common(ptr: NonNull<u8>, size: usize, heap: &Heap, flush: Flush, local: &'static ThreadHeap) {
    // SAFETY: it is located.
    let granule = unsafe { local.granule_at(ptr) };
    // SAFETY: forwarded.
    match unsafe { local.free_common(ptr, granule, size, flush, Goes::ToHand, |_, _| ()) } {
        // SAFETY: forwarded.
        Freed::NotDone => unsafe { free_beyond(ptr, size, heap, flush, local) },
        freed => finish(freed, ptr, size, heap, flush),
    }
}

/// The same, of a class of which this thread has as many slots at hand as it may.
///
/// # Safety
/// - As for [`free_short`].
#[inline(never)]
unsafe fn free_beyond(ptr: NonNull<u8>, size: usize, heap: &Heap, flush: Flush, local: &'static ThreadHeap) {
    // SAFETY: it is located.
    let granule = unsafe { local.granule_at(ptr) };
    let send = |word, bits| send(heap, local, word, bits);
    // SAFETY: forwarded.
    match unsafe { local.free_common(ptr, granule, size, flush, Goes::Home, send) } {
        // SAFETY: forwarded.
        Freed::NotDone => unsafe { free_remote(ptr, size, heap, flush, local) },
        freed => finish(freed, ptr, size, heap, flush),
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
/// - As for [`free_short`].
#[inline(never)]
unsafe fn free_remote(ptr: NonNull<u8>, size: usize, heap: &Heap, flush: Flush, local: &'static ThreadHeap) {
    // SAFETY: it is located.
    let granule = unsafe { local.granule_at(ptr) };
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
pub(super) fn finish(freed: Freed, ptr: NonNull<u8>, size: usize, heap: &Heap, flush: Flush) {
    match freed {
        Freed::Done => {}
        Freed::DoneAndDue => heap.write_back_slow(),
        Freed::Unremembered => remember(ptr, heap),
        Freed::NotDone => free_slow(ptr, size, heap, flush),
    }
}

/// Remembers the lines of a block that this thread has just freed into a slab of its own.
#[inline(never)]
fn remember(ptr: NonNull<u8>, heap: &Heap) {
    if threads::held(heap.index()).remember_block(ptr) == Freed::DoneAndDue {
        heap.write_back_slow();
    }
}

#[cold]
#[inline(never)]
pub(super) fn free_slow(ptr: NonNull<u8>, size: usize, heap: &Heap, flush: Flush) {
    let size = (size != ANY_SIZE).then_some(size);
    os::preserve_errno(|| heap.free_with_system(ptr, size, flush));
}
