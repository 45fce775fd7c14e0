//! One value in a block of its own.

use core::alloc::Layout;
use core::marker::PhantomData;
use core::mem::{ManuallyDrop, needs_drop};
use core::ptr::{self, NonNull};

use super::{allocate, count_leaked, deallocate, forget_bytes, reserve};
use crate::keys::AllRights;
use crate::os::Access;
use crate::secret::inline::Inline;
use crate::secret::seal::dense_rights;
use crate::{Error, wipe};

/// Owner of one `T` in the secret heap; dropped and wiped with it.
pub(in crate::secret) struct Value<T: Inline> {
    /// # Invariants
    ///
    /// 1. A block from [`allocate`] with the layout of `T`, not given back; or dangling but aligned, if
    ///    `T` has no size.
    /// 2. It holds a valid `T`. Whoever turns it to zeros (see the module `secret`) keeps this true, by
    ///    [`Inline`].
    /// 3. Nobody else uses it: references to it are handed out only through this `Value`.
    ptr: NonNull<T>,
    _owns: PhantomData<T>,
}

// SAFETY: by invariant 3 a `Value` is the only way to its `T`, as a `Box` is.
unsafe impl<T: Inline + Send> Send for Value<T> {}
// SAFETY: as above: a shared `Value` gives shared references only.
unsafe impl<T: Inline + Sync> Sync for Value<T> {}

impl<T: Inline> Value<T> {
    const LAYOUT: Layout = Layout::new::<T>();

    /// A value of zeros.
    #[inline]
    pub(in crate::secret) fn zeroed() -> Result<Self, Error> {
        let ptr = if size_of::<T>() == 0 { NonNull::dangling() } else { allocate(Self::LAYOUT)?.cast() };
        // Invariant 1 by either branch; 2 because the heap gives zeros and zeros are a `T`, by `Inline`; 3
        // because the block is new.
        Ok(Self { ptr, _owns: PhantomData })
    }

    /// Gets memory ready for `count` more values on the calling thread.
    pub(in crate::secret) fn reserve(count: usize) -> Result<(), Error> {
        if size_of::<T>() == 0 { Ok(()) } else { reserve(Self::LAYOUT, count) }
    }

    /// Moves a value here and leaves zeros in its place.
    pub(in crate::secret) fn take(source: &mut T, origin: Origin) -> Result<Self, Error> {
        let value = Self::zeroed()?;
        let _rights = AllRights::new();
        // SAFETY: one `T` is read from a reference and written to a block for a `T` (invariant 1) that no
        // reference leads to (3). The zero value there is forgotten, not dropped, which is always sound.
        unsafe { ptr::copy_nonoverlapping(source, value.ptr.as_ptr(), 1) };
        // The value has moved; what stays behind must not be used as one, and is not: it becomes zeros.
        forget(source, origin);
        Ok(value)
    }

    /// A second owner of an equal value, copied from block to block.
    pub(in crate::secret) fn try_clone(&self) -> Result<Self, Error>
    where
        T: Copy,
    {
        let copy = Self::zeroed()?;
        let _rights = AllRights::new();
        // SAFETY: one `T` is read from a block that holds one (invariants 1 and 2) and written to another
        // one, which is new (3); a `Copy` type may be duplicated by its bytes.
        unsafe { ptr::copy_nonoverlapping(self.ptr.as_ptr(), copy.ptr.as_ptr(), 1) };
        Ok(copy)
    }

    /// Runs `fill` on the value, with the right to touch it.
    #[inline]
    pub(in crate::secret) fn fill<R>(&mut self, fill: impl FnOnce(&mut T) -> R) -> R {
        let _rights = dense_rights(Access::ReadWrite);
        fill(self.get_mut())
    }

    #[inline]
    pub(in crate::secret) const fn get(&self) -> &T {
        // SAFETY: aligned, in a block for a `T`, and valid (invariants 1 and 2), not mutated while `self` is
        // borrowed (3).
        unsafe { self.ptr.as_ref() }
    }

    #[inline]
    pub(in crate::secret) const fn get_mut(&mut self) -> &mut T {
        // SAFETY: as in `get`; `self` is borrowed mutably, so this is the only reference (3).
        unsafe { self.ptr.as_mut() }
    }

    /// Turns the value to zeros. It is not dropped first: it still is a value.
    pub(in crate::secret) fn wipe(&mut self) {
        forget(self.get_mut(), Origin::Memory);
    }

    /// Gives up owning it. It stays in the secret heap for as long as the process lives.
    pub(in crate::secret) fn leak(self) -> &'static mut T {
        let mut ptr = ManuallyDrop::new(self).ptr;
        count_leaked(Self::LAYOUT);
        // SAFETY: as in `get_mut`; the owner is gone without giving the block back, so it lives on.
        unsafe { ptr.as_mut() }
    }
}

/// Where a value lies that is to be forgotten.
#[derive(Clone, Copy)]
pub(in crate::secret) enum Origin {
    /// In memory of the caller's: zeroed, and flushed if the setting asks for that.
    Memory,
    /// In an argument, on the stack or in registers: zeroed. Not flushed, for the line of the stack is in use
    /// and the next call writes to it.
    Argument,
}

/// Turns a value to zeros where it lies.
pub(in crate::secret) fn forget<T: Inline>(value: &mut T, origin: Origin) {
    let bytes = NonNull::from(value).cast();
    match origin {
        // SAFETY: a reference is valid for writes of the whole value, and zeros are one, by `Inline`.
        Origin::Memory => unsafe { forget_bytes(bytes, size_of::<T>()) },
        // SAFETY: as above.
        Origin::Argument => unsafe { wipe::zero(bytes, size_of::<T>()) },
    }
}

impl<T: Inline> Drop for Value<T> {
    #[inline]
    fn drop(&mut self) {
        /// Gives the block back even if dropping what is in it panics.
        struct GiveBack<T>(NonNull<T>);
        impl<T> Drop for GiveBack<T> {
            #[inline]
            fn drop(&mut self) {
                if size_of::<T>() != 0 {
                    // SAFETY: allocated with this layout (invariant 1), and the owner is being dropped, so
                    // this is the one time that it is given back and nothing uses it afterwards (3).
                    unsafe { deallocate(self.0.cast(), Layout::new::<T>()) }
                }
            }
        }
        let block = GiveBack(self.ptr);
        // Ends before the block is given back.
        let _rights = if needs_drop::<T>() { dense_rights(Access::ReadWrite) } else { None };
        // SAFETY: a valid `T` (invariant 2) that nobody else uses (3) and that is not used after this.
        unsafe { block.0.drop_in_place() }
    }
}
