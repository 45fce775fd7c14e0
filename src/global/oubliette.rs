//! The whole program in the secret heap.

// UNSAFETY: `GlobalAlloc` is an unsafe trait: it promises blocks that nobody else has, and takes them back on
// the caller's word. Both are the heap's contract too, so every call is handed on as it is.
#![expect(unsafe_code, reason = "implements GlobalAlloc")]

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use crate::heap::{self, Heap};
use crate::policy::{Flush, Policy, Seal};

/// The secret heap as the global allocator: every block of the program is wiped when it is freed.
///
/// ```
/// #[global_allocator]
/// static ALLOC: oubliette::Oubliette = oubliette::Oubliette::new();
///
/// let text = String::from("in the secret heap"); // zeros as soon as it is dropped
/// ```
///
/// What it does for every block: guard pages around its slab, a canary behind it, zeros when it is freed
/// or left behind by `realloc`, a check that it is still zeros when it is used again, no metadata beside
/// it, nothing of it in core dumps. By default ([`Policy::PROGRAM`]) pages are locked as far as
/// `RLIMIT_MEMLOCK` goes; what could not be locked is counted in `report()`, and wiped all the same. A
/// program cannot do with an allocator that fails for lack of locked memory; secrets that must not be
/// unlocked belong in a [`SecretBox`](crate::SecretBox), which lives in a heap of its own.
///
/// Choose another promise with [`with_policy`](Self::with_policy):
///
/// ```
/// use oubliette::{Backing, Oubliette, Policy};
///
/// #[global_allocator]
/// static ALLOC: Oubliette = Oubliette::with_policy(Policy::PROGRAM.with_backing(Backing::Auto)); // pinned
/// ```
///
/// Memory errors end the process with a message on standard error: a block that was overrun, freed twice,
/// never allocated, or written after it was freed.
#[derive(Clone, Copy)]
pub struct Oubliette {
    pub(super) heap: &'static Heap,
    pub(super) flush: Flush,
    policy: Policy,
}

impl Oubliette {
    /// The heap of [`Policy::PROGRAM`].
    #[must_use]
    pub const fn new() -> Self {
        Self::with_policy(Policy::PROGRAM)
    }

    /// The heap of this policy. Two values with equal policies share a heap.
    ///
    /// As the global allocator of a program only with [`Fork::Inherit`](crate::Fork::Inherit), and not with
    /// [`Backing::Hidden`](crate::Backing::Hidden): a heap that children do not inherit is one of secrets, so its blocks
    /// are gone in a child, and wiped at the end of the process, under functions at exit and threads that still
    /// run. (Such a value is good for collections of its own, and cannot be told from a global allocator here.)
    ///
    /// # Panics
    ///
    /// At compile time, in a `static`, if the policy asks for a seal: code that knows of none cannot run on
    /// memory that must be opened first.
    #[must_use]
    pub const fn with_policy(policy: Policy) -> Self {
        assert!(matches!(policy.seal(), Seal::None), "a program cannot run on sealed memory");
        Self { heap: heap::of(policy), flush: policy.flush(), policy }
    }

    /// What this heap promises.
    #[must_use]
    pub const fn policy(&self) -> Policy {
        self.policy
    }
}

impl Default for Oubliette {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for Oubliette {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Oubliette").field("policy", &self.policy).finish()
    }
}

// SAFETY: the heap gives blocks that are aligned and large enough, that nobody else has until they are given
// back, and that stay where they are; it never unwinds.
unsafe impl GlobalAlloc for Oubliette {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.heap.allocate_or_null(layout)
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // A free block is all zero.
        self.heap.allocate_or_null(layout)
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: a block that `alloc` or `realloc` gave is not null ("ptr is a block of memory currently
        // allocated via this allocator", `GlobalAlloc::dealloc`).
        let block = unsafe { NonNull::new_unchecked(ptr) };
        // SAFETY: the caller gives back, once and with the layout that it has, a block of this heap.
        unsafe { self.heap.deallocate(block, layout, self.flush) }
    }

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as in `dealloc`.
        let block = unsafe { NonNull::new_unchecked(ptr) };
        // SAFETY: the caller gives, with the layout that it has, a block of this heap, and no longer uses
        // its old address where this succeeds.
        let moved = unsafe { self.heap.reallocate(block, layout, new_size, self.flush) };
        moved.map_or(ptr::null_mut(), NonNull::as_ptr)
    }
}
