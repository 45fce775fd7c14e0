//! The whole-program heap for callers of C habits, who know no more of a block than its address.

// UNSAFETY: takes blocks back on the caller's word, and hands them on to the heap, whose contract is the same.
#![expect(unsafe_code, reason = "the functions behind a C `malloc`")]

use core::ptr::{self, NonNull};

use super::Oubliette;

/// What a `malloc` for C programs is made of, together with [`GlobalAlloc`](core::alloc::GlobalAlloc): the heap
/// knows the size of each of its blocks, and may be asked whether an address is its own.
impl Oubliette {
    /// Whether `ptr` points into memory that this heap has reserved, whatever is there. One load, one
    /// subtraction and one compare; from any thread, at any time, also in a signal handler.
    #[inline]
    #[must_use]
    pub fn owns(&self, ptr: *const u8) -> bool {
        self.heap.contains(ptr)
    }

    /// The size of the block that starts at `ptr`: what was asked for, to the byte, since a canary follows it.
    /// `None` if the address is not this heap's ([`owns`](Self::owns)).
    ///
    /// Ends the process with "invalid free" if the address is this heap's, and no live block starts there.
    #[inline(always)]
    #[must_use]
    pub fn usable_size(&self, ptr: *const u8) -> Option<usize> {
        self.heap.size_at_hand(ptr).or_else(|| self.heap.size_elsewhere(ptr))
    }

    /// Frees a block of whatever size and alignment: what `dealloc` does, without a check of the layout. Does
    /// nothing for null. Leaves `errno` as it is.
    ///
    /// # Safety
    /// - `ptr` is null, or a live block of this heap, which nobody uses any more. (A second free of a block, and
    ///   an address that no block starts at, end the process.)
    #[inline]
    pub unsafe fn free(&self, ptr: *mut u8) {
        if let Some(block) = NonNull::new(ptr) {
            // SAFETY: forwarded.
            unsafe { self.heap.free(block, self.flush) }
        }
    }

    /// Frees a block that this thread has at hand, as most are, and hands everything else to `otherwise`: null, addresses
    /// of other heaps or of none, and those blocks of this heap that take more work, so that they have to be freed
    /// there ([`free`](Self::free)). What would otherwise be asked at every free, whose block it is
    /// ([`owns`](Self::owns)), is asked there only. Leaves `errno` as it is.
    ///
    /// # Safety
    /// - If `ptr` is a live block of this heap, nobody uses it any more. (An address in this heap that no block starts at
    ///   may end the process.)
    #[inline(always)]
    pub unsafe fn free_or_else(&self, ptr: *mut u8, otherwise: impl FnOnce()) {
        // SAFETY: forwarded.
        unsafe { self.heap.free_or_else(ptr, self.flush, otherwise) }
    }

    /// Changes the size of a block of whatever size and alignment, in place or by moving it to one aligned to
    /// `align`, a power of two. What the block grows by is zero; what it leaves behind is wiped. Null, and the
    /// block as it was, where there is no memory for it or `align` is none.
    ///
    /// # Safety
    /// - `ptr` is a live block of this heap. Where this succeeds, nobody uses its old address, or what it was
    ///   shortened by, any more.
    #[inline]
    pub unsafe fn resize(&self, ptr: *mut u8, new_size: usize, align: usize) -> *mut u8 {
        let Some(block) = NonNull::new(ptr) else { return ptr::null_mut() };
        // SAFETY: forwarded.
        let moved = unsafe { self.heap.resize(block, new_size, align, self.flush) };
        moved.map_or(ptr::null_mut(), NonNull::as_ptr)
    }
}
