//! The secret heap for what runs in a scope, another allocator for the rest.

// UNSAFETY: `GlobalAlloc` is an unsafe trait: it promises blocks that nobody else has, and takes them back on
// the caller's word. Each call is handed on to the one of the two allocators that the block is of.
#![expect(unsafe_code, reason = "implements GlobalAlloc")]

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::heap::{self, Heap, MOST_SECRET_BYTES};
use crate::scope::{self, FreeFlush, Place};
use crate::{Flush, Policy, wipe};

/// Where scopes allocate: the heap of the secret types.
static SECRET: &Heap = heap::of(Policy::SECRET);

/// The first address of that heap, or before there is any, one that no block is near: with it, the distance of
/// a block decides in one compare whether it takes the short way.
///
/// # Invariants
///
/// 1. It is written, once and for all, before a scope hands out the first block of the heap. Who frees such a
///    block got it by some way that orders that, so it sees it, and `Relaxed` suffices. Who frees another block
///    takes the short way or the long one, and both lead to the inner allocator.
static START: AtomicUsize = AtomicUsize::new(NOWHERE);

/// User addresses end far below it, and their distance to it, modulo 2^64, is above the largest heap.
const NOWHERE: usize = usize::MAX - (1 << 40);

const _: () = assert!(MOST_SECRET_BYTES < 1 << 40, "NOWHERE is far enough");

/// Whether a block may be one of the secret heap, or is freed in a scope.
#[inline(always)]
fn is_special(ptr: *mut u8) -> bool {
    scope::is_special(ptr.addr().wrapping_sub(START.load(Relaxed)))
}

/// A global allocator that routes: inside a [`scope`](crate::scope()) memory comes from the secret heap,
/// outside from `A`.
///
/// ```
/// use std::alloc::System;
/// use oubliette::ScopedAlloc;
///
/// #[global_allocator]
/// static ALLOC: ScopedAlloc<System> = ScopedAlloc::new(System);
///
/// # let key = [1_u8; 32];
/// let sum = oubliette::scope(|| {
///     let copy = key.to_vec();                    // in the secret heap: locked, pinned, guarded
///     copy.iter().map(|&byte| u32::from(byte)).sum::<u32>()
/// });                                             // wiped
/// # assert_eq!(sum, 32);
/// ```
///
/// - A block goes back to where it came from, decided by its address: from any thread, in a scope or not.
/// - A block of the secret heap that outlives its scope stays there, also when it grows outside. It is
///   wiped when it is freed, whenever that is. [`outliving_blocks`](Self::outliving_blocks) counts them.
/// - A block of `A` that is freed inside a scope is wiped first, and one that grows there moves to the
///   secret heap and is wiped where it was: code in the scope may have written secrets to it.
/// - The memory of a scope must be locked ([`Policy::SECRET`]): where `RLIMIT_MEMLOCK` is used up an
///   allocation in a scope fails, which ends a program that has no other plan for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScopedAlloc<A> {
    inner: A,
}

impl<A> ScopedAlloc<A> {
    /// Everything outside of scopes goes to `inner`.
    #[must_use]
    pub const fn new(inner: A) -> Self {
        Self { inner }
    }

    /// Blocks that were allocated in a scope and are still there after it. Exact while no thread is in a
    /// scope.
    #[must_use]
    pub fn outliving_blocks(&self) -> usize {
        scope::outliving_blocks()
    }
}

// SAFETY: every block comes from one of two allocators that keep the contract (`A` by its own promise, the
// secret heap by its), and goes back to the same one: `contains` is true exactly for the blocks of the secret
// heap, whose addresses `A` cannot have, since they are reserved; and `is_special` is true for all of these, by
// invariant 1 of `START` and since the heap is not larger than `MOST_SECRET_BYTES`. Nothing here unwinds.
unsafe impl<A: GlobalAlloc> GlobalAlloc for ScopedAlloc<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if scope::place().has_secret_heap() {
            return allocate(layout);
        }
        // SAFETY: forwarded.
        unsafe { self.inner.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if scope::place().has_secret_heap() {
            // A free block is all zero.
            return allocate(layout);
        }
        // SAFETY: forwarded.
        unsafe { self.inner.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        if is_special(ptr) {
            // SAFETY: forwarded.
            return unsafe { self.free_special(ptr, layout) };
        }
        // SAFETY: forwarded: not a block of the secret heap, so one of the inner allocator.
        unsafe { self.inner.dealloc(ptr, layout) };
    }

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if is_special(ptr) {
            // SAFETY: forwarded.
            return unsafe { self.resize_special(ptr, layout, new_size) };
        }
        // SAFETY: forwarded: not a block of the secret heap, so one of the inner allocator.
        unsafe { self.inner.realloc(ptr, layout, new_size) }
    }
}

impl<A: GlobalAlloc> ScopedAlloc<A> {
    /// `dealloc` for a block of the secret heap, and for any in a scope.
    ///
    /// # Safety
    /// - As for `GlobalAlloc::dealloc`.
    #[inline(never)]
    unsafe fn free_special(&self, ptr: *mut u8, layout: Layout) {
        if SECRET.contains(ptr) {
            // SAFETY: the caller gives back, once and with its layout, a block of this heap.
            return unsafe { free(ptr, layout) };
        }
        if scope::place() != Place::Outside {
            // SAFETY: a block that is given back: valid for writes of its size, and nobody uses it.
            unsafe { wipe_inner(ptr, layout.size()) };
        }
        // SAFETY: forwarded: not a block of the secret heap, so one of the inner allocator.
        unsafe { self.inner.dealloc(ptr, layout) };
    }

    /// `realloc` for a block of the secret heap, and for any in a scope.
    ///
    /// # Safety
    /// - As for `GlobalAlloc::realloc`.
    #[inline(never)]
    unsafe fn resize_special(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if SECRET.contains(ptr) {
            // SAFETY: the caller gives, with its layout, a block of this heap.
            return unsafe { resize(ptr, layout, new_size) };
        }
        if scope::place() != Place::Outside {
            // SAFETY: forwarded: a block of the inner allocator.
            return unsafe { self.move_out(ptr, layout, new_size) };
        }
        // SAFETY: forwarded.
        unsafe { self.inner.realloc(ptr, layout, new_size) }
    }

    /// `realloc` for a block of the inner allocator in a scope: never in place, so that what it leaves is
    /// ours to wipe.
    ///
    /// # Safety
    /// - As for `GlobalAlloc::realloc`, and the block is one of `inner`.
    #[cold]
    unsafe fn move_out(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the new size, rounded up to the alignment, fits an `isize`
        // (`GlobalAlloc::realloc`), and the alignment is that of a layout.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: the new size is not zero, by the contract of `realloc`.
        let moved = unsafe { self.alloc(new) };
        if !moved.is_null() {
            let len = layout.size().min(new_size);
            // SAFETY: both blocks are valid for `len` bytes, and the new one is new.
            unsafe { ptr::copy_nonoverlapping(ptr, moved, len) };
            // SAFETY: the caller gives the old block up; inside a scope that wipes it.
            unsafe { self.dealloc(ptr, layout) };
        }
        moved
    }
}

/// A block of the secret heap, counted.
#[inline(never)]
fn allocate(layout: Layout) -> *mut u8 {
    let Ok(block) = SECRET.allocate(layout) else { return ptr::null_mut() };
    if START.load(Relaxed) == NOWHERE {
        note_start();
    }
    scope::count_allocated();
    block.as_ptr()
}

/// Keeps invariant 1 of [`START`].
#[cold]
fn note_start() {
    if let Some(range) = SECRET.addresses() {
        START.store(range.start, Relaxed);
    }
}

/// Gives a block of the secret heap back, and flushes it as the scope wants: see [`FreeFlush`].
///
/// # Safety
/// - As for `GlobalAlloc::dealloc`, and the block is one of the secret heap.
#[inline]
unsafe fn free(ptr: *mut u8, layout: Layout) {
    // SAFETY: a block is not null ("ptr is a block of memory currently allocated via this allocator").
    let block = unsafe { NonNull::new_unchecked(ptr) };
    let (flush, written_back) = match scope::count_freed(layout.size()) {
        FreeFlush::Now => (Flush::Immediate, 0),
        FreeFlush::Remember => (Flush::Bounded, 0),
        FreeFlush::WriteBack => (Flush::Off, layout.size()),
    };
    // SAFETY: forwarded.
    unsafe { SECRET.deallocate(block, layout, flush) };
    // SAFETY: a block that is this small was in a slab.
    unsafe { SECRET.write_back_freed(block, written_back) };
}

/// Resizes a block of the secret heap.
///
/// # Safety
/// - As for `GlobalAlloc::realloc`, and the block is one of the secret heap.
#[inline]
unsafe fn resize(ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
    let flush = match scope::flush_for_free(usize::MAX) {
        FreeFlush::Now => Flush::Immediate,
        FreeFlush::Remember | FreeFlush::WriteBack => Flush::Bounded,
    };
    // SAFETY: as in `free`.
    let block = unsafe { NonNull::new_unchecked(ptr) };
    // SAFETY: forwarded.
    unsafe { SECRET.reallocate(block, layout, new_size, flush) }.map_or(ptr::null_mut(), NonNull::as_ptr)
}

/// Wipes a block of the inner allocator: zeros, on their way out of the caches. The fence at the end of the
/// scope waits for them.
///
/// # Safety
/// - `ptr` is valid for writes of `len` bytes, and nobody uses them.
#[cold]
#[inline(never)]
unsafe fn wipe_inner(ptr: *mut u8, len: usize) {
    // SAFETY: a block is not null.
    let block = unsafe { NonNull::new_unchecked(ptr) };
    // SAFETY: forwarded.
    unsafe { wipe::zero(block, len) };
    // SAFETY: as above: mapped memory.
    unsafe { wipe::write_back(block, len) };
    scope::owe_fence();
}
