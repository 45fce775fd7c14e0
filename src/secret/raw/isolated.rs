//! One value in a slot of its own, sealed unless a guard holds it open.

use core::alloc::Layout;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::ptr::{self, NonNull};

use super::{Origin, forget};
use crate::Error;
use crate::heap::Slot;
use crate::os::Access;
use crate::secret::flush::secret_flush;
use crate::secret::inline::Inline;
use crate::secret::new_error::NewWithError;
use crate::secret::seal;

/// Owner of one `T` in a slot of its own; dropped and wiped with it.
pub(in crate::secret) struct Isolated<T: Inline> {
    /// # Invariants
    ///
    /// 1. Taken with the layout of `T`; its block holds a valid `T`. Whoever turns it to zeros (see the module
    ///    `secret`) keeps this true, by [`Inline`].
    /// 2. The block is touched only under a guard, [`Shared`] or [`Unique`], or in `new_with` and `drop`, each
    ///    of which has opened the slot before.
    slot: ManuallyDrop<Slot>,
    _owns: PhantomData<T>,
}

impl<T: Inline> Isolated<T> {
    const LAYOUT: Layout = Layout::new::<T>();
    /// What a shared reference to `T` needs.
    const SHARED: Access = if T::WRITES_BEHIND_SHARED { Access::ReadWrite } else { Access::Read };

    /// Makes a value out of zeros, in place, and seals it.
    pub(in crate::secret) fn new_with<E>(
        fill: impl FnOnce(&mut T) -> Result<(), E>,
    ) -> Result<Self, NewWithError<E>> {
        // Invariant 1: a slot is all zero, and zeros are a `T`, by `Inline`.
        let slot = ManuallyDrop::new(Slot::take(Self::LAYOUT, seal::in_force())?);
        let mut new = Self { slot, _owns: PhantomData };
        // Open for reading and writing since it was taken.
        new.slot.begin_exclusive();
        let mut value = Unique { owner: &mut new, _of_this_thread: PhantomData };
        // If it panics or refuses, the slot is sealed, and `new` dropped: wiped and given back.
        fill(&mut value).map_err(NewWithError::Refused)?;
        drop(value);
        Ok(new)
    }

    /// Gets room for `count` more values ready.
    pub(in crate::secret) fn reserve(count: usize) -> Result<(), Error> {
        Slot::reserve(Self::LAYOUT, count, seal::in_force())
    }

    /// Makes sure that room for `count` values is ready.
    pub(in crate::secret) fn reserve_least(count: usize) -> Result<(), Error> {
        Slot::reserve_least(Self::LAYOUT, count, seal::in_force())
    }

    /// Opens it for reading, or for what a shared reference to `T` needs.
    #[inline]
    pub(in crate::secret) fn open(&self) -> Result<Shared<'_, T>, Error> {
        self.slot.open(Self::SHARED)?;
        Ok(Shared { owner: self, _of_this_thread: PhantomData })
    }

    /// Opens it for reading and writing.
    #[inline]
    pub(in crate::secret) fn open_mut(&mut self) -> Result<Unique<'_, T>, Error> {
        self.slot.open_exclusive()?;
        Ok(Unique { owner: self, _of_this_thread: PhantomData })
    }

    #[inline]
    fn place(&self) -> NonNull<T> {
        self.slot.block().cast()
    }
}

impl<T: Inline> Drop for Isolated<T> {
    fn drop(&mut self) {
        /// Gives the slot back even if dropping what is in it panics.
        struct GiveBack<T>(Option<Slot>, PhantomData<T>);
        impl<T> Drop for GiveBack<T> {
            fn drop(&mut self) {
                if let Some(slot) = self.0.take() {
                    slot.give_back(Layout::new::<T>(), secret_flush());
                }
            }
        }
        // SAFETY: a value is dropped once, and nothing below uses the field.
        let mut slot = unsafe { ManuallyDrop::take(&mut self.slot) };
        if !slot.is_here() {
            // A child of the process that owns it: nothing is there but zeros, and they may not be mapped.
            return;
        }
        if slot.open_exclusive().is_err() {
            return slot.abandon();
        }
        let value = slot.block().cast::<T>();
        let _slot = GiveBack::<T>(Some(slot), PhantomData);
        // SAFETY: a valid `T` (invariant 1), opened above, which nobody uses any more since its owner is dropped.
        unsafe { value.drop_in_place() }
    }
}

/// Moves a value to where another one of zeros is, and leaves zeros in its place.
pub(in crate::secret) fn relocate<T: Inline>(source: &mut T, to: &mut T) {
    // SAFETY: two references, so valid and apart. The zero value that is overwritten is forgotten, not dropped,
    // which is always sound.
    unsafe { ptr::copy_nonoverlapping(source, to, 1) };
    // The value has moved; what stays behind must not be used as one, and is not: it becomes zeros.
    forget(source, Origin::Memory);
}

/// Holds a value open to be shared.
///
/// # Invariants
///
/// 1. Counts as one opening of the owner's slot, which ends with it.
/// 2. Stays with the thread that made it: where a key seals, the opening is that thread's.
pub(in crate::secret) struct Shared<'a, T: Inline> {
    owner: &'a Isolated<T>,
    _of_this_thread: PhantomData<*const ()>,
}

impl<T: Inline> Deref for Shared<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: aligned and valid (`Isolated` 1), readable while this guard lives (`Shared` 1), and not written
        // to but by shared references, since the owner is borrowed.
        unsafe { self.owner.place().as_ref() }
    }
}

impl<T: Inline> Drop for Shared<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.owner.slot.close(Isolated::<T>::SHARED);
    }
}

/// Holds a value open to be changed.
///
/// # Invariants
///
/// 1. The owner's slot is open for reading and writing until this ends.
/// 2. Stays with the thread that made it, as [`Shared`] does.
pub(in crate::secret) struct Unique<'a, T: Inline> {
    owner: &'a mut Isolated<T>,
    _of_this_thread: PhantomData<*const ()>,
}

impl<T: Inline> Deref for Unique<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: aligned and valid (`Isolated` 1), readable (`Unique` 1), not written to while `self` is borrowed.
        unsafe { self.owner.place().as_ref() }
    }
}

impl<T: Inline> DerefMut for Unique<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, writable too, and this is the only reference, since `self` is borrowed mutably.
        unsafe { self.owner.place().as_mut() }
    }
}

impl<T: Inline> Drop for Unique<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.owner.slot.close_exclusive(Isolated::<T>::LAYOUT);
    }
}
