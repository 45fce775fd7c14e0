//! One secret value in the secret heap.

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::inline::{Inline, Plain};
use super::new_error::NewWithError;
use super::raw::{self, Origin, Value};
use crate::Error;

/// Owner of one secret `T` in the secret heap.
///
/// The value lies in locked, guarded memory (see the module documentation), and is dropped and wiped
/// with its owner. The owner itself is one pointer and may be moved, sent and stored at will.
///
/// Make the secret where it is to stay, with [`new_with`](Self::new_with) or [`random`](Self::random):
/// then no copy of it was ever on the stack. Look at it with [`expose`](Self::expose).
///
/// ```
/// use oubliette::SecretBox;
///
/// # fn read_key(bytes: &mut [u8; 32]) { bytes.fill(7) }
/// let key = SecretBox::<[u8; 32]>::new_with(|bytes| read_key(bytes))?;
/// assert_eq!(key.expose().len(), 32);
/// assert_eq!(format!("{key:?}"), "SecretBox(..)");
/// assert!(key == [7; 32]); // in constant time
/// # Ok::<(), oubliette::Error>(())
/// ```
///
/// # What it does not do
///
/// * It is not `Clone`, `Copy`, `Display` or `Serialize`: a second copy is made by
///   [`try_clone`](Self::try_clone), a look at the value by [`expose`](Self::expose), both on purpose.
/// * What your code copies out of it through `expose` is on the stack, in registers, or where you put it.
/// * Memory that `T` points to is not protected, so `T` must be [`Inline`].
/// * In a forked child, after `purge()` and after [`zeroize`](Zeroize::zeroize) the value reads as zeros.
pub struct SecretBox<T: Inline> {
    value: Value<T>,
}

impl<T: Inline> SecretBox<T> {
    /// Makes a secret in place: `fill` gets zeros and turns them into the secret.
    ///
    /// If `fill` panics, what it wrote is wiped and the panic goes on.
    ///
    /// # Errors
    ///
    /// No memory could be had that is protected as promised; `fill` did not run.
    #[inline]
    pub fn new_with(fill: impl FnOnce(&mut T)) -> Result<Self, Error> {
        let mut value = Value::zeroed()?;
        value.fill(fill);
        Ok(Self { value })
    }

    /// Makes a secret in place by a closure that may refuse.
    ///
    /// ```
    /// use std::io::Read as _;
    /// use oubliette::{NewWithError, SecretBox};
    ///
    /// # let mut file: &[u8] = &[1; 8];
    /// // Eight bytes are too few for a key: the reader refuses, and what was read is wiped.
    /// let key = SecretBox::<[u8; 32]>::try_new_with(|bytes| file.read_exact(bytes));
    /// assert!(matches!(key, Err(NewWithError::Refused(e)) if e.kind() == std::io::ErrorKind::UnexpectedEof));
    /// ```
    ///
    /// # Errors
    ///
    /// [`NewWithError::Memory`] if no protected memory could be had, [`NewWithError::Refused`] with the
    /// closure's own error if it refused; then what it had written is wiped.
    #[inline]
    pub fn try_new_with<E>(fill: impl FnOnce(&mut T) -> Result<(), E>) -> Result<Self, NewWithError<E>> {
        let mut value = Value::zeroed()?;
        value.fill(fill).map_err(NewWithError::Refused)?;
        Ok(Self { value })
    }

    /// Moves a value into the secret heap and wipes the argument.
    ///
    /// Copies that the caller, or the compiler on the way here, made of the value before are not wiped.
    /// Prefer [`new_with`](Self::new_with), or [`take`](Self::take) for a value that is somewhere already.
    ///
    /// # Errors
    ///
    /// No protected memory could be had; the argument is wiped all the same.
    pub fn new(mut value: T) -> Result<Self, Error> {
        let moved = Value::take(&mut value, Origin::Argument);
        if moved.is_err() {
            raw::forget(&mut value, Origin::Argument);
        }
        Ok(Self { value: moved? })
    }

    /// Moves a value into the secret heap from where it is, and leaves zeros there.
    ///
    /// ```
    /// let mut bytes = *b"correct horse battery staple....";
    /// let key = oubliette::SecretBox::take(&mut bytes)?;
    /// assert_eq!(bytes, [0; 32]);
    /// # Ok::<(), oubliette::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// No protected memory could be had; the source is as it was.
    pub fn take(source: &mut T) -> Result<Self, Error> {
        Ok(Self { value: Value::take(source, Origin::Memory)? })
    }

    /// Fills a secret with random bytes; the kernel writes them in place.
    ///
    /// # Errors
    ///
    /// No protected memory could be had, or the kernel gave no random bytes.
    pub fn random() -> Result<Self, Error>
    where
        T: Plain,
    {
        let mut value = Value::zeroed()?;
        raw::randomize(core::slice::from_mut(value.get_mut()))?;
        Ok(Self { value })
    }

    /// Gets memory ready for `count` more secrets on the calling thread: guarded, locked, pinned where possible, in
    /// memory. As many from now on need no system call and cause no page fault, made, used and dropped.
    ///
    /// Costs whole slabs of 64 KiB of locked memory. They are kept, whether they are used or not, until the
    /// thread ends or [`trim`](crate::trim). Of secrets over 30,680 bytes no more is kept than without this: 1 MiB in all.
    ///
    /// ```
    /// use oubliette::SecretBox;
    ///
    /// SecretBox::<[u8; 32]>::reserve(5000)?;
    /// let before = oubliette::report().secrets().map(|heap| heap.locked_bytes);
    /// let keys: Result<Vec<_>, _> = (0..5000).map(|_| SecretBox::<[u8; 32]>::random()).collect();
    /// assert_eq!(oubliette::report().secrets().map(|heap| heap.locked_bytes), before);
    /// # keys?;
    /// # Ok::<(), oubliette::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`new_with`](Self::new_with). What was got ready before the error is given back in time.
    pub fn reserve(count: usize) -> Result<(), Error> {
        Value::<T>::reserve(count)
    }

    /// The secret, to look at.
    ///
    /// Where [`Seal::ProtectionKey`](crate::Seal::ProtectionKey) is in force only under [`open`](Self::open) or in
    /// [`unsealed`](crate::unsealed): elsewhere to touch it is a fault that ends the process.
    #[inline]
    #[must_use]
    pub const fn expose(&self) -> &T {
        self.value.get()
    }

    /// The secret, to change in place.
    #[inline]
    #[must_use]
    pub const fn expose_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// A second secret of equal value, copied within the secret heap.
    ///
    /// # Errors
    ///
    /// No protected memory could be had.
    pub fn try_clone(&self) -> Result<Self, Error>
    where
        T: Copy,
    {
        Ok(Self { value: self.value.try_clone()? })
    }

    /// Keeps the secret in the secret heap for as long as the process lives.
    ///
    /// It is wiped when the process ends (see [`WipeAtEnd`](crate::WipeAtEnd)) and by `purge()`.
    #[must_use = "the secret can be reached through the reference only"]
    pub fn leak(self) -> &'static mut T {
        self.value.leak()
    }
}

/// Turns the secret to zeros where it is; the owner stays usable.
impl<T: Inline> Zeroize for SecretBox<T> {
    fn zeroize(&mut self) {
        self.value.wipe();
    }
}

impl<T: Inline> ZeroizeOnDrop for SecretBox<T> {}

const _: () = assert!(size_of::<Option<SecretBox<u8>>>() == size_of::<usize>());
