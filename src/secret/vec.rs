//! A run of secret values that can grow inside the secret heap.

use std::io;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::inline::{Inline, Plain};
use super::new_error::NewWithError;
use super::raw::{self, Buffer, Origin};
use crate::Error;

/// Owner of a run of secret values in the secret heap.
///
/// When it grows, the block that it leaves is wiped before anything else can have it; what is removed
/// from it is wiped at once. Nothing here panics: what may lack memory gives a `Result`.
///
/// ```
/// use oubliette::SecretVec;
///
/// let mut password = SecretVec::new();
/// for byte in b"hunter2" {
///     password.push(*byte)?;
/// }
/// assert_eq!(password.expose(), b"hunter2");
/// password.truncate(6);
/// assert!(password == *b"hunter");
/// assert_eq!(format!("{password:?}"), "SecretVec(..)");
/// # Ok::<(), oubliette::Error>(())
/// ```
///
/// Its length and capacity are not secret: they lie with the owner, not in the secret heap.
pub struct SecretVec<T: Inline> {
    values: Buffer<T>,
}

impl<T: Inline> SecretVec<T> {
    /// An empty one, which has no memory yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { values: Buffer::new() }
    }

    /// An empty one with room for `capacity` values.
    ///
    /// # Errors
    ///
    /// No memory could be had that is protected as promised.
    pub fn with_capacity(capacity: usize) -> Result<Self, Error> {
        Ok(Self { values: Buffer::with_capacity(capacity)? })
    }

    /// Makes `len` values in place: `fill` gets zeros and turns them into the secret.
    ///
    /// If `fill` panics, what it wrote is wiped and the panic goes on.
    ///
    /// # Errors
    ///
    /// No protected memory could be had; `fill` did not run.
    pub fn new_with(len: usize, fill: impl FnOnce(&mut [T])) -> Result<Self, Error> {
        let mut values = Buffer::new();
        values.extend_zeroed(len)?;
        values.fill(fill);
        Ok(Self { values })
    }

    /// Makes `len` values in place by a closure that may refuse.
    ///
    /// # Errors
    ///
    /// [`NewWithError::Memory`] if no protected memory could be had, [`NewWithError::Refused`] with the
    /// closure's own error if it refused; then what it had written is wiped.
    pub fn try_new_with<E>(
        len: usize,
        fill: impl FnOnce(&mut [T]) -> Result<(), E>,
    ) -> Result<Self, NewWithError<E>> {
        let mut values = Buffer::new();
        values.extend_zeroed(len)?;
        values.fill(fill).map_err(NewWithError::Refused)?;
        Ok(Self { values })
    }

    /// Makes `len` values of random bytes; the kernel writes them in place.
    ///
    /// # Errors
    ///
    /// No protected memory could be had, or the kernel gave no random bytes.
    pub fn random(len: usize) -> Result<Self, Error>
    where
        T: Plain,
    {
        let mut values = Buffer::new();
        values.extend_zeroed(len)?;
        raw::randomize(values.get_mut())?;
        Ok(Self { values })
    }

    /// Moves the values of a vector into the secret heap and wipes all of its memory, spare room included.
    ///
    /// Blocks that the vector left behind while it grew were wiped by nobody: fill a `SecretVec` from the
    /// start where you can.
    ///
    /// ```
    /// let mut bytes = b"hunter2".to_vec();
    /// let secret = oubliette::SecretVec::take(&mut bytes)?;
    /// assert!(bytes.is_empty());
    /// assert_eq!(secret.expose(), b"hunter2");
    /// # Ok::<(), oubliette::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// No protected memory could be had; the vector is as it was. (The `TryFrom<Vec<T>>` of this type
    /// takes the vector by value and wipes it in either case.)
    pub fn take(source: &mut Vec<T>) -> Result<Self, Error> {
        let mut values = Buffer::new();
        values.append(source)?;
        Ok(Self { values })
    }

    /// The values, to look at.
    ///
    /// Where [`Seal::ProtectionKey`](crate::Seal::ProtectionKey) is in force only under [`open`](Self::open) or in
    /// [`unsealed`](crate::unsealed): elsewhere to touch it is a fault that ends the process.
    #[inline]
    #[must_use]
    pub const fn expose(&self) -> &[T] {
        self.values.get()
    }

    /// The values, to change in place.
    #[inline]
    #[must_use]
    pub const fn expose_mut(&mut self) -> &mut [T] {
        self.values.get_mut()
    }

    /// How many values there are.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many values fit without another block.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.values.capacity()
    }

    /// Makes room for `additional` more values.
    ///
    /// # Errors
    ///
    /// No protected memory could be had; the values are as they were.
    pub fn try_reserve(&mut self, additional: usize) -> Result<(), Error> {
        self.values.reserve(additional)
    }

    /// Puts a value behind the last one and wipes the argument.
    ///
    /// # Errors
    ///
    /// No protected memory could be had; the values are as they were, and the argument is wiped.
    pub fn push(&mut self, mut value: T) -> Result<(), Error> {
        let pushed = self.values.push(&mut value);
        if pushed.is_err() {
            raw::forget(&mut value, Origin::Argument);
        }
        pushed
    }

    /// Copies values behind the last one. The source stays as it is.
    ///
    /// # Errors
    ///
    /// No protected memory could be had; the values are as they were.
    pub fn extend_from_slice(&mut self, source: &[T]) -> Result<(), Error>
    where
        T: Copy,
    {
        self.values.extend_from_slice(source)
    }

    /// Makes it `len` values long: drops and wipes those behind that, or adds zeros.
    ///
    /// # Errors
    ///
    /// No protected memory could be had; the values are as they were.
    pub fn resize(&mut self, len: usize) -> Result<(), Error> {
        match len.checked_sub(self.len()) {
            Some(additional) => self.values.extend_zeroed(additional),
            None => {
                self.values.truncate(len);
                Ok(())
            }
        }
    }

    /// Drops and wipes the values from `len` on. The room for them is kept.
    pub fn truncate(&mut self, len: usize) {
        self.values.truncate(len);
    }

    /// Drops and wipes all values. The room for them is kept.
    pub fn clear(&mut self) {
        self.values.truncate(0);
    }

    /// A second secret of equal values, copied within the secret heap.
    ///
    /// # Errors
    ///
    /// No protected memory could be had.
    pub fn try_clone(&self) -> Result<Self, Error>
    where
        T: Copy,
    {
        Ok(Self { values: self.values.try_clone()? })
    }

    /// Keeps the values in the secret heap for as long as the process lives.
    ///
    /// They are wiped when the process ends (see [`WipeAtEnd`](crate::WipeAtEnd)) and by `purge()`.
    #[must_use = "the secret can be reached through the reference only"]
    pub fn leak(self) -> &'static mut [T] {
        self.values.leak()
    }

    pub(super) const fn from_buffer(values: Buffer<T>) -> Self {
        Self { values }
    }

    pub(super) fn into_buffer(self) -> Buffer<T> {
        self.values
    }
}

impl<T: Inline> Default for SecretVec<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Moves the values in and wipes the vector, also if no protected memory could be had.
impl<T: Inline> TryFrom<Vec<T>> for SecretVec<T> {
    type Error = Error;

    fn try_from(mut source: Vec<T>) -> Result<Self, Error> {
        let moved = Self::take(&mut source);
        if moved.is_err() {
            raw::forget_vec(&mut source);
        }
        moved
    }
}

/// Appends what is written. A reader's bytes get here through a buffer of [`io::copy`] that is not wiped:
/// read into [`new_with`](SecretVec::new_with) instead where the length is known.
impl io::Write for SecretVec<u8> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.extend_from_slice(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Turns all values to zeros, then removes them, as zeroize does for a `Vec`.
impl<T: Inline> Zeroize for SecretVec<T> {
    fn zeroize(&mut self) {
        self.values.wipe();
        self.values.truncate(0);
    }
}

impl<T: Inline> ZeroizeOnDrop for SecretVec<T> {}
