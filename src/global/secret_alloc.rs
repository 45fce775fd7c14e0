//! The heap of the secret types as an allocator for collections.

// UNSAFETY: `Allocator` is an unsafe trait: it promises blocks that nobody else has, and takes them back on
// the caller's word. Both are the heap's contract too, so every call is handed on.
#![expect(unsafe_code, reason = "implements Allocator")]

use core::alloc::Layout;
use core::num::NonZeroUsize;
use core::ptr::NonNull;

use allocator_api2::alloc::{AllocError, Allocator};

use crate::secret::{allocate_unsealed, deallocate_unsealed, reallocate_unsealed};

/// The heap in which [`SecretBox`](crate::SecretBox) and its like live, for the collections of
/// `allocator-api2`, `hashbrown`, `bumpalo` and others, on stable Rust.
///
/// ```
/// use allocator_api2::vec::Vec;
/// use oubliette::SecretAlloc;
///
/// let mut keys: Vec<[u8; 32], SecretAlloc> = Vec::new_in(SecretAlloc);
/// keys.try_reserve(3).expect("within the limit of locked memory");
/// keys.push([7; 32]);
/// ```
///
/// Every block is as protected as a `SecretBox`: locked or not given at all, guarded, wiped and flushed
/// when it is given back or left behind. The collection is not: it prints, compares and clones what it
/// holds as any other does, and what its methods move goes through the stack. Where memory is lacking its
/// methods panic or abort as they do with any allocator, except those that `try_`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SecretAlloc;

// SAFETY: the blocks are the secret heap's, whichever copy of this type, which has no state, they came
// through: they stay valid until they are given back, and any copy can give them back.
unsafe impl Allocator for SecretAlloc {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let block = match layout.size() {
            0 => dangling(layout),
            _ => allocate_unsealed(layout).map_err(|_| AllocError)?,
        };
        Ok(NonNull::slice_from_raw_parts(block, layout.size()))
    }

    #[inline]
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // A free block is all zero.
        self.allocate(layout)
    }

    #[inline]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        if layout.size() != 0 {
            // SAFETY: "a block of memory currently allocated via this allocator" that the layout fits, and
            // the size that fits is the one that was asked for, as `allocate` says no other.
            unsafe { deallocate_unsealed(ptr, layout) }
        }
    }

    unsafe fn grow(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the same conditions.
        unsafe { self.resize(ptr, old, new) }
    }

    unsafe fn grow_zeroed(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // What is new in a larger block is zero.
        // SAFETY: the same conditions.
        unsafe { self.resize(ptr, old, new) }
    }

    unsafe fn shrink(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the same conditions.
        unsafe { self.resize(ptr, old, new) }
    }
}

impl SecretAlloc {
    /// Moves what is in a block to one of another layout, as far as it fits.
    ///
    /// # Safety
    ///
    /// * `ptr` is a block of this allocator, of the layout `old`, that nothing uses where this succeeds.
    unsafe fn resize(self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if old.size() == 0 {
            return self.allocate(new);
        }
        if new.size() != 0 && new.align() == old.align() {
            // SAFETY: a block of the secret heap with the layout `old`, says the caller.
            let block = unsafe { reallocate_unsealed(ptr, old, new.size()) }.map_err(|_| AllocError)?;
            return Ok(NonNull::slice_from_raw_parts(block, new.size()));
        }
        let block = self.allocate(new)?;
        // SAFETY: both are valid for the lesser of the two sizes, and a new block overlaps with no other.
        unsafe { ptr.copy_to_nonoverlapping(block.cast(), old.size().min(new.size())) };
        // SAFETY: a block of the secret heap with the layout `old`, which nothing uses, says the caller.
        unsafe { deallocate_unsealed(ptr, old) };
        Ok(block)
    }
}

/// An address for a block without size.
fn dangling(layout: Layout) -> NonNull<u8> {
    // An alignment is never 0; `Layout::dangling_ptr` is not stable in our oldest Rust.
    NonZeroUsize::new(layout.align()).map_or(NonNull::dangling(), NonNull::without_provenance)
}
