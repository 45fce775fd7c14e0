//! Guards that hold a dense secret open to the thread that made them.

use core::fmt;
use core::ops::{Deref, DerefMut};

use super::inline::{Inline, Plain};
use super::raw::{self, OpenDense, OpenDenseMut};
use super::{SecretBox, SecretString, SecretVec};

/// Holds a [`SecretBox`], [`SecretVec`] or [`SecretString`] open to be read; derefs to the secret.
///
/// Where [`Seal::ProtectionKey`](crate::Seal::ProtectionKey) is in force this is what makes the secret
/// accessible, to this thread only, and every other dense secret with it; elsewhere it is a reference that costs
/// nothing. `==` with a value takes the same time wherever the two differ, if the values are [`Plain`].
#[must_use = "the secret is sealed again when this ends"]
pub struct Opened<'a, T: ?Sized> {
    value: OpenDense<'a, T>,
}

/// Holds a [`SecretBox`], [`SecretVec`] or [`SecretString`] open to be changed; derefs to the secret.
#[must_use = "the secret is sealed again when this ends"]
pub struct OpenedMut<'a, T: ?Sized> {
    value: OpenDenseMut<'a, T>,
}

impl<T: Inline> SecretBox<T> {
    /// Opens the secret to be read, until the guard ends. Needed where
    /// [`Seal::ProtectionKey`](crate::Seal::ProtectionKey) is in force, harmless elsewhere.
    ///
    /// ```
    /// let key = oubliette::SecretBox::<[u8; 32]>::new_with(|bytes| bytes.fill(7))?;
    /// let open = key.open();
    /// assert_eq!(open.len(), 32);
    /// # Ok::<(), oubliette::Error>(())
    /// ```
    #[inline]
    pub fn open(&self) -> Opened<'_, T> {
        Opened { value: OpenDense::new(self.expose(), T::WRITES_BEHIND_SHARED) }
    }

    /// Opens the secret to be changed in place, until the guard ends.
    #[inline]
    pub fn open_mut(&mut self) -> OpenedMut<'_, T> {
        OpenedMut { value: OpenDenseMut::new(self.expose_mut()) }
    }
}

impl<T: Inline> SecretVec<T> {
    /// Opens the values to be read, until the guard ends, as [`SecretBox::open`] does.
    #[inline]
    pub fn open(&self) -> Opened<'_, [T]> {
        Opened { value: OpenDense::new(self.expose(), T::WRITES_BEHIND_SHARED) }
    }

    /// Opens the values to be changed in place, until the guard ends.
    #[inline]
    pub fn open_mut(&mut self) -> OpenedMut<'_, [T]> {
        OpenedMut { value: OpenDenseMut::new(self.expose_mut()) }
    }
}

impl SecretString {
    /// Opens the text to be read, until the guard ends, as [`SecretBox::open`] does.
    #[inline]
    pub fn open(&self) -> Opened<'_, str> {
        Opened { value: OpenDense::new(self.expose(), false) }
    }

    /// Opens the text to be changed in place, until the guard ends.
    #[inline]
    pub fn open_mut(&mut self) -> OpenedMut<'_, str> {
        OpenedMut { value: OpenDenseMut::new(self.expose_mut()) }
    }
}

impl<T: ?Sized> Deref for Opened<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.value.get()
    }
}

impl<T: ?Sized> Deref for OpenedMut<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.value.get()
    }
}

impl<T: ?Sized> DerefMut for OpenedMut<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T: Plain> PartialEq<T> for Opened<'_, T> {
    fn eq(&self, other: &T) -> bool {
        raw::equal(core::slice::from_ref(&**self), core::slice::from_ref(other))
    }
}

impl<T: Plain> PartialEq<[T]> for Opened<'_, [T]> {
    fn eq(&self, other: &[T]) -> bool {
        raw::equal(self, other)
    }
}

impl PartialEq<str> for Opened<'_, str> {
    fn eq(&self, other: &str) -> bool {
        raw::equal(self.as_bytes(), other.as_bytes())
    }
}

impl<T: ?Sized> fmt::Debug for Opened<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opened(..)")
    }
}

impl<T: ?Sized> fmt::Debug for OpenedMut<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenedMut(..)")
    }
}
