//! A dense secret that this thread may touch for a while.

use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::keys::Rights;
use crate::os::Access;
use crate::secret::seal::dense_rights;

/// The right to read a value in the secret heap.
///
/// # Invariants
///
/// 1. `value` is borrowed for `'a`. A pointer, since a reference might be read by the compiler wherever it is
///    known to be valid: also after the right has ended.
/// 2. Belongs to the thread that made it, by `_of_this_thread`, as the right does.
pub(in crate::secret) struct OpenDense<'a, T: ?Sized> {
    value: NonNull<T>,
    _rights: Option<Rights>,
    _borrows: PhantomData<&'a T>,
    _of_this_thread: PhantomData<*const ()>,
}

/// The right to read and write a value in the secret heap.
///
/// # Invariants
///
/// - As for [`OpenDense`], and the value is borrowed mutably.
pub(in crate::secret) struct OpenDenseMut<'a, T: ?Sized> {
    value: NonNull<T>,
    _rights: Option<Rights>,
    _borrows: PhantomData<&'a mut T>,
    _of_this_thread: PhantomData<*const ()>,
}

impl<'a, T: ?Sized> OpenDense<'a, T> {
    #[inline]
    pub(in crate::secret) fn new(value: &'a T, writes_behind_shared: bool) -> Self {
        let access = if writes_behind_shared { Access::ReadWrite } else { Access::Read };
        Self {
            value: NonNull::from(value),
            _rights: dense_rights(access),
            _borrows: PhantomData,
            _of_this_thread: PhantomData,
        }
    }

    #[inline]
    pub(in crate::secret) const fn get(&self) -> &T {
        // SAFETY: borrowed for longer than `self` (1), accessible since the right lives.
        unsafe { self.value.as_ref() }
    }
}

impl<'a, T: ?Sized> OpenDenseMut<'a, T> {
    #[inline]
    pub(in crate::secret) fn new(value: &'a mut T) -> Self {
        Self {
            value: NonNull::from(value),
            _rights: dense_rights(Access::ReadWrite),
            _borrows: PhantomData,
            _of_this_thread: PhantomData,
        }
    }

    #[inline]
    pub(in crate::secret) const fn get(&self) -> &T {
        // SAFETY: borrowed for longer than `self` (1), accessible since the right lives.
        unsafe { self.value.as_ref() }
    }

    #[inline]
    pub(in crate::secret) const fn get_mut(&mut self) -> &mut T {
        // SAFETY: as in `get`, borrowed mutably, and so is `self`.
        unsafe { self.value.as_mut() }
    }
}
