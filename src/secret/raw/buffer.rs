//! Many values in one block that can grow.

use core::alloc::Layout;
use core::marker::PhantomData;
use core::mem::{ManuallyDrop, needs_drop};
use core::ptr::{self, NonNull};
use core::slice;

use super::{Origin, allocate, count_leaked, deallocate, forget, forget_bytes, reallocate};
use crate::Error;
use crate::keys::AllRights;
use crate::os::Access;
use crate::secret::inline::Inline;
use crate::secret::seal::dense_rights;

/// Owner of a run of `T` in the secret heap; dropped and wiped with it.
pub(in crate::secret) struct Buffer<T: Inline> {
    /// # Invariants
    ///
    /// 1. A block from [`allocate`] or [`reallocate`] with the layout of `[T; capacity]`, not given back; or
    ///    dangling but aligned, if that layout has no size.
    /// 2. The first `len` places hold valid values. Whoever turns them to zeros (see the module `secret`)
    ///    keeps this true, by [`Inline`].
    /// 3. The places from `len` to `capacity` are all zero bytes: nothing that was removed is still there,
    ///    and making the run longer is a matter of `len` alone, by [`Inline`].
    /// 4. Nobody else uses the block: references into it are handed out only through this `Buffer`.
    ptr: NonNull<T>,
    /// 5. Values that fit. `[T; capacity]` has a layout, so no offset up to it overflows.
    capacity: usize,
    /// 6. At most `capacity`, except where `T` has no size.
    len: usize,
    _owns: PhantomData<T>,
}

// SAFETY: by invariant 4 a `Buffer` is the only way to its values, as a `Vec` is.
unsafe impl<T: Inline + Send> Send for Buffer<T> {}
// SAFETY: as above: a shared `Buffer` gives shared references only.
unsafe impl<T: Inline + Sync> Sync for Buffer<T> {}

impl<T: Inline> Buffer<T> {
    const HAS_NO_SIZE: bool = size_of::<T>() == 0;
    /// The least room that the first growth makes: blocks of the heap start at 32 bytes.
    const LEAST: usize = if Self::HAS_NO_SIZE || size_of::<T>() > 16 { 1 } else { 16 / size_of::<T>() };

    /// An empty run, without a block.
    pub(in crate::secret) const fn new() -> Self {
        Self { ptr: NonNull::dangling(), capacity: 0, len: 0, _owns: PhantomData }
    }

    /// An empty run with room for `capacity` values.
    pub(in crate::secret) fn with_capacity(capacity: usize) -> Result<Self, Error> {
        let mut buffer = Self::new();
        buffer.grow_to(capacity)?;
        Ok(buffer)
    }

    #[inline]
    pub(in crate::secret) const fn len(&self) -> usize {
        self.len
    }

    pub(in crate::secret) const fn capacity(&self) -> usize {
        if Self::HAS_NO_SIZE { usize::MAX } else { self.capacity }
    }

    #[inline]
    pub(in crate::secret) const fn get(&self) -> &[T] {
        // SAFETY: aligned, `len` valid values in one block of at most `isize::MAX` bytes (invariants 1, 2, 5
        // and 6), not mutated while `self` is borrowed (4).
        unsafe { slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    #[inline]
    pub(in crate::secret) const fn get_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `get`; `self` is borrowed mutably, so this is the only reference (4).
        unsafe { slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }

    /// Runs `fill` on the values, with the right to touch them.
    #[inline]
    pub(in crate::secret) fn fill<R>(&mut self, fill: impl FnOnce(&mut [T]) -> R) -> R {
        let _rights = dense_rights(Access::ReadWrite);
        fill(self.get_mut())
    }

    /// Makes room for `additional` more values, at least doubling what there is.
    pub(in crate::secret) fn reserve(&mut self, additional: usize) -> Result<(), Error> {
        let needed = self.len.checked_add(additional).ok_or(Error::TooLarge)?;
        if needed <= self.capacity() {
            return Ok(());
        }
        self.grow_to(needed.max(self.capacity.saturating_mul(2)).max(Self::LEAST))
    }

    /// Makes the run longer by `additional` values of zeros.
    pub(in crate::secret) fn extend_zeroed(&mut self, additional: usize) -> Result<(), Error> {
        self.reserve(additional)?;
        // Does not wrap, and keeps 6, by `reserve`; keeps 2, by 3.
        self.len = self.len.wrapping_add(additional);
        Ok(())
    }

    /// Moves an argument to the end and leaves zeros in its place.
    pub(in crate::secret) fn push(&mut self, source: &mut T) -> Result<(), Error> {
        self.reserve(1)?;
        let _rights = AllRights::new();
        // SAFETY: one `T` is read from a reference and written behind the last one, within the block (1, 5,
        // and `reserve`) and in nobody's use (4).
        unsafe { ptr::copy_nonoverlapping(source, self.end().as_ptr(), 1) };
        self.len = self.len.wrapping_add(1);
        forget(source, Origin::Argument);
        Ok(())
    }

    /// Copies values to the end.
    pub(in crate::secret) fn extend_from_slice(&mut self, source: &[T]) -> Result<(), Error>
    where
        T: Copy,
    {
        self.reserve(source.len())?;
        let _rights = AllRights::new();
        // SAFETY: `source.len()` values are read from a slice and written behind the last one, within the
        // block (1, 5, and `reserve`); no slice reaches there (4), so the two do not overlap; a `Copy` type
        // may be duplicated by its bytes.
        unsafe { ptr::copy_nonoverlapping(source.as_ptr(), self.end().as_ptr(), source.len()) };
        self.len = self.len.wrapping_add(source.len());
        Ok(())
    }

    /// Moves all values of a vector to the end; its whole memory is zero afterwards, and it is empty.
    /// On `Err` nothing has moved.
    pub(in crate::secret) fn append(&mut self, source: &mut Vec<T>) -> Result<(), Error> {
        let moved = source.len();
        self.reserve(moved)?;
        let _rights = AllRights::new();
        // SAFETY: `moved` values are read from the vector and written behind the last one, within the
        // block (1, 5, and `reserve`) and in nobody's use (4).
        unsafe { ptr::copy_nonoverlapping(source.as_ptr(), self.end().as_ptr(), moved) };
        // SAFETY: nothing is at most any capacity, and the values moved, so none is left in the vector.
        unsafe { source.set_len(0) };
        self.len = self.len.wrapping_add(moved);
        forget_spare(source);
        Ok(())
    }

    /// Drops and wipes all values from `len` on.
    pub(in crate::secret) fn truncate(&mut self, len: usize) {
        /// Restores invariant 3 even if dropping the values panics.
        struct Forget<T>(NonNull<[T]>);
        impl<T> Drop for Forget<T> {
            fn drop(&mut self) {
                let bytes = self.0.len().wrapping_mul(size_of::<T>());
                // SAFETY: these places are within the block (invariants 1, 5 and 6) and hold no value any
                // more.
                unsafe { forget_bytes(self.0.cast(), bytes) }
            }
        }
        let removed = self.len.saturating_sub(len);
        if removed == 0 {
            return;
        }
        self.len = len;
        let tail = Forget(NonNull::slice_from_raw_parts(self.end(), removed));
        let _rights = if needs_drop::<T>() { dense_rights(Access::ReadWrite) } else { None };
        // SAFETY: valid values (2) that nobody else uses (4), and which the new length leaves out.
        unsafe { tail.0.drop_in_place() }
    }

    /// Turns all values to zeros. They are not dropped first: they still are values.
    pub(in crate::secret) fn wipe(&mut self) {
        // SAFETY: valid for writes of all its values, of which zeros are some, by `Inline`.
        unsafe { forget_bytes(self.ptr.cast(), size_of_val(self.get())) }
    }

    /// A second owner of equal values, copied from block to block.
    pub(in crate::secret) fn try_clone(&self) -> Result<Self, Error>
    where
        T: Copy,
    {
        let mut copy = Self::with_capacity(self.len)?;
        copy.extend_from_slice(self.get())?;
        Ok(copy)
    }

    /// Gives up owning them. They stay in the secret heap for as long as the process lives.
    pub(in crate::secret) fn leak(self) -> &'static mut [T] {
        let buffer = ManuallyDrop::new(self);
        if let Some((_, layout)) = buffer.block() {
            count_leaked(layout);
        }
        // SAFETY: as in `get_mut`; the owner is gone without giving the block back, so it lives on.
        unsafe { slice::from_raw_parts_mut(buffer.ptr.as_ptr(), buffer.len) }
    }

    /// The place behind the last value.
    const fn end(&self) -> NonNull<T> {
        // SAFETY: `len` places from the start of the block is within it or just behind it (invariants 1, 5 and
        // 6), and its size is at most `isize::MAX`.
        unsafe { self.ptr.add(self.len) }
    }

    /// Makes the capacity at least `capacity`. Never less: what is there stays there.
    fn grow_to(&mut self, capacity: usize) -> Result<(), Error> {
        if Self::HAS_NO_SIZE || capacity <= self.capacity {
            return Ok(());
        }
        let layout = Layout::array::<T>(capacity).map_err(|_| Error::TooLarge)?;
        let block = match self.block() {
            None => allocate(layout)?,
            // SAFETY: the block is from the heap with this layout, by `block`; its old address is
            // forgotten on the next line. The bytes behind the old ones are zero, which keeps 3.
            Some((ptr, old)) => unsafe { reallocate(ptr, old, layout.size())? },
        };
        self.ptr = block.cast();
        self.capacity = capacity;
        Ok(())
    }

    /// The block and the layout that it has in the heap, if there is one.
    const fn block(&self) -> Option<(NonNull<u8>, Layout)> {
        if Self::HAS_NO_SIZE || self.capacity == 0 {
            return None;
        }
        // By invariants 1 and 5.
        match Layout::array::<T>(self.capacity) {
            Ok(layout) => Some((self.ptr.cast(), layout)),
            Err(_) => None,
        }
    }
}

/// Drops the values of a vector and wipes all of its memory.
pub(in crate::secret) fn forget_vec<T: Inline>(vec: &mut Vec<T>) {
    vec.clear();
    forget_spare(vec);
}

/// Wipes the memory of a vector that holds no value.
fn forget_spare<T>(vec: &mut Vec<T>) {
    let spare = vec.spare_capacity_mut();
    // SAFETY: the room behind the values is valid for writes, and `MaybeUninit` takes any bytes.
    unsafe { forget_bytes(NonNull::from(&mut *spare).cast(), size_of_val(spare)) }
}

impl<T: Inline> Drop for Buffer<T> {
    fn drop(&mut self) {
        /// Gives the block back even if dropping what is in it panics.
        struct GiveBack(Option<(NonNull<u8>, Layout)>);
        impl Drop for GiveBack {
            fn drop(&mut self) {
                if let Some((ptr, layout)) = self.0 {
                    // SAFETY: from the heap with this layout, by `block`; the owner is being dropped, so
                    // this is the one time that it is given back and nothing uses it afterwards (4).
                    unsafe { deallocate(ptr, layout) }
                }
            }
        }
        let _block = GiveBack(self.block());
        // Ends before the block is given back.
        let _rights = if needs_drop::<T>() { dense_rights(Access::ReadWrite) } else { None };
        // SAFETY: valid values (2) that nobody else uses (4) and that are not used after this.
        unsafe { ptr::drop_in_place(self.get_mut()) }
    }
}
