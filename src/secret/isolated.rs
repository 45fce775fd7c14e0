//! One secret on pages of its own, without access at rest.

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::slice;

use zeroize::ZeroizeOnDrop;

use super::inline::{Inline, Plain};
use super::new_error::NewWithError;
use super::raw::{self, Isolated, Shared, Unique};
use crate::Error;

/// Owner of one secret `T` on pages of its own, between two guard pages, sealed at rest.
///
/// At rest nobody in this process can read or write the secret, not by any pointer: its pages have no
/// access (`mprotect(2)`). [`open`](Self::open) gives a guard that derefs to it; when the last guard ends
/// the pages are sealed again. The secret ends at the guard page behind it, so an overrun is a fault at its first
/// byte; in front of it lies a canary. Its pages are locked, pinned where the kernel offers it, kept out of core
/// dumps, and zeros in a forked child.
///
/// Where [`Seal::ProtectionKey`](crate::Seal::ProtectionKey) is in force a key does that instead, for each thread by
/// itself, at the price of a few instructions ([`set_secret_seal`](crate::set_secret_seal)).
///
/// A page or more of locked memory for each, and a system call to open and one to seal: for the few
/// secrets that deserve it, or for a million of them. [`SecretBox`](crate::SecretBox) is the dense one.
///
/// ```
/// use oubliette::IsolatedBox;
///
/// # fn read_key(bytes: &mut [u8; 32]) { bytes.fill(7) }
/// # fn use_it(key: &[u8; 32]) { assert_eq!(key, &[7; 32]) }
/// let root = IsolatedBox::<[u8; 32]>::new_with(|bytes| read_key(bytes))?;
/// {
///     let open = root.open()?;
///     use_it(&*open);
/// } // sealed again
/// # Ok::<(), oubliette::Error>(())
/// ```
///
/// # Guards
///
/// * Any number of [`Open`] guards may live at once, on many threads, and end in any order. Each stays with the
///   thread that made it.
/// * A guard borrows the box, so the box can neither be dropped nor moved under it; without guards it moves
///   freely, the secret staying where it is.
/// * A guard that is leaked ([`core::mem::forget`]) leaves the secret open until the next [`open_mut`](Self::open_mut)
///   ends, or the box.
/// * Not in signal handlers, unless a key seals: opening and sealing wait for another thread that is in the middle of
///   either. [`purge`](crate::purge) does not.
///
/// # What it does not do
///
/// * The kernel still reads sealed pages for who may ask it to: a debugger (`ptrace(2)`), `/proc/PID/mem`.
/// * While a guard lives the secret is open to every thread of the process; where a key seals, to its own thread
///   only, and all other isolated secrets with it.
/// * What your code copies out through a guard is not protected, nor is memory that `T` points to, so `T`
///   must be [`Inline`].
/// * After [`purge`](crate::purge) it reads as zeros. In a forked child it cannot be opened at all
///   ([`Error::LeftBehind`]); dropping it there does nothing.
pub struct IsolatedBox<T: Inline> {
    value: Isolated<T>,
}

impl<T: Inline> IsolatedBox<T> {
    /// Makes a secret in place: `fill` gets zeros and turns them into the secret, which is then sealed.
    ///
    /// If `fill` panics, what it wrote is wiped and the panic goes on.
    ///
    /// # Errors
    ///
    /// No memory could be had that is protected as promised; `fill` did not run.
    pub fn new_with(fill: impl FnOnce(&mut T)) -> Result<Self, Error> {
        Self::new_or(|value| {
            fill(value);
            Ok(())
        })
    }

    /// Makes a secret in place by a closure that may refuse.
    ///
    /// # Errors
    ///
    /// [`NewWithError::Memory`] if no protected memory could be had, [`NewWithError::Refused`] with the
    /// closure's own error if it refused; then what it had written is wiped.
    pub fn try_new_with<E>(fill: impl FnOnce(&mut T) -> Result<(), E>) -> Result<Self, NewWithError<E>> {
        Ok(Self { value: Isolated::new_with(fill)? })
    }

    /// Moves a value to pages of its own from where it is, and leaves zeros there.
    ///
    /// ```
    /// let mut bytes = *b"correct horse battery staple....";
    /// let key = oubliette::IsolatedBox::take(&mut bytes)?;
    /// assert_eq!(bytes, [0; 32]);
    /// assert!(*key.open()? == *b"correct horse battery staple....");
    /// # Ok::<(), oubliette::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// No protected memory could be had; the source is as it was.
    pub fn take(source: &mut T) -> Result<Self, Error> {
        Self::new_with(|value| raw::relocate(source, value))
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
        Self::new_or(|value| raw::randomize(slice::from_mut(value)))
    }

    /// Gets places for `count` more secrets ready: locked, pinned where possible, in memory. Making, opening
    /// and changing as many from now on causes no page fault, and no system call but `mprotect(2)`.
    ///
    /// Places that are given back are kept ready for the next secret, up to all that was ever asked for here.
    /// Each costs two mappings while it is free.
    ///
    /// ```
    /// use oubliette::IsolatedBox;
    ///
    /// IsolatedBox::<[u8; 32]>::reserve(10)?;
    /// assert!(oubliette::report().isolated().ready >= 10);
    /// # Ok::<(), oubliette::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`new_with`](Self::new_with). What was ready before the error stays ready.
    pub fn reserve(count: usize) -> Result<(), Error> {
        Isolated::<T>::reserve(count)
    }

    /// Opens the secret to be read. It is sealed when the last guard ends.
    ///
    /// The pages are given read access only, unless a shared reference to `T` may write
    /// ([`Inline::WRITES_BEHIND_SHARED`]).
    ///
    /// # Errors
    ///
    /// [`Error::LeftBehind`] in a child made by `fork(2)`; [`Error::MappingLimit`] if the process has too many
    /// mappings.
    #[inline]
    pub fn open(&self) -> Result<Open<'_, T>, Error> {
        Ok(Open { value: self.value.open()? })
    }

    /// Opens the secret to be changed in place. It is sealed when the guard ends.
    ///
    /// When it ends the canary in front of the secret is checked; if it changed the process ends.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    #[inline]
    pub fn open_mut(&mut self) -> Result<OpenMut<'_, T>, Error> {
        Ok(OpenMut { value: self.value.open_mut()? })
    }

    fn new_or(fill: impl FnOnce(&mut T) -> Result<(), Error>) -> Result<Self, Error> {
        Self::try_new_with(fill).map_err(|error| match error {
            NewWithError::Memory(error) | NewWithError::Refused(error) => error,
        })
    }
}

impl<T: Inline> ZeroizeOnDrop for IsolatedBox<T> {}

/// Holds an [`IsolatedBox`] open to be read; derefs to the secret.
///
/// `==` with a value takes the same time wherever the two differ, if `T` is [`Plain`].
#[must_use = "the secret is sealed again when this ends"]
pub struct Open<'a, T: Inline> {
    value: Shared<'a, T>,
}

/// Holds an [`IsolatedBox`] open to be changed; derefs to the secret.
#[must_use = "the secret is sealed again when this ends"]
pub struct OpenMut<'a, T: Inline> {
    value: Unique<'a, T>,
}

impl<T: Inline> Deref for Open<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Inline> Deref for OpenMut<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Inline> DerefMut for OpenMut<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: Plain> PartialEq<T> for Open<'_, T> {
    fn eq(&self, other: &T) -> bool {
        raw::equal(slice::from_ref(&**self), slice::from_ref(other))
    }
}

impl<T: Plain> PartialEq for Open<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        *self == **other
    }
}

impl<T: Plain> Eq for Open<'_, T> {}

impl<T: Inline> fmt::Debug for IsolatedBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IsolatedBox(..)")
    }
}

impl<T: Inline> fmt::Debug for Open<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Open(..)")
    }
}

impl<T: Inline> fmt::Debug for OpenMut<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenMut(..)")
    }
}

const _: () = assert!(size_of::<Option<IsolatedBox<u8>>>() == 3 * size_of::<usize>());
