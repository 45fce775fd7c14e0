//! Bytes on pages of their own for callers that say when they may be accessed: C's view of an isolated secret.

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;

use zeroize::ZeroizeOnDrop;

use super::flush::secret_flush;
use super::seal;
use crate::Error;
use crate::heap::Slot;
use crate::os::Access;

/// Owner of bytes on pages of their own, between two guard pages, whose access is changed by calls and not by
/// guards: what a C interface such as `sodium_malloc` needs. [`IsolatedBox`](crate::IsolatedBox) is the same for
/// Rust, and cannot be misused.
///
/// The bytes end at the guard page behind them, so that an overrun is a fault at its first byte; in front of them lies
/// a canary, which is checked when they are sealed and when they are dropped. They are locked, pinned where the
/// kernel offers it, kept out of core dumps, zeros in a forked child, and wiped when this is dropped, by
/// [`purge`](crate::purge) and at the end of the process, whatever the access.
///
/// ```
/// use oubliette::IsolatedBytes;
///
/// let mut key = IsolatedBytes::new(100)?;
/// let place = key.as_ptr();
/// // SAFETY: 100 bytes that may be written to, of which there is no reference.
/// unsafe { place.write_bytes(7, 100) };
/// key.seal(); // from now on no pointer reads or writes them
/// key.open()?;
/// # Ok::<(), oubliette::Error>(())
/// ```
///
/// With a [`Seal`](crate::Seal) other than `Pages` in force ([`set_secret_seal`](crate::set_secret_seal)) access is
/// what that seal makes of it: that of the calling thread only, or never taken away.
pub struct IsolatedBytes {
    /// Open as `standing` says. `Some` until the drop.
    slot: Option<Slot>,
    first: NonNull<u8>,
    /// What the slot was taken for.
    layout: Layout,
    standing: Standing,
}

/// Who may do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Sealed,
    Readable,
    Writable,
}

impl IsolatedBytes {
    /// Maps this many bytes, all zero, open for reading and writing.
    ///
    /// # Errors
    ///
    /// No memory could be had that is protected as promised.
    pub fn new(bytes: usize) -> Result<Self, Error> {
        let layout = Layout::from_size_align(bytes, 1).map_err(|_| Error::TooLarge)?;
        let mut slot = Slot::take(layout, seal::in_force())?;
        slot.begin_exclusive();
        Ok(Self { first: slot.block(), slot: Some(slot), layout, standing: Standing::Writable })
    }

    /// The first byte. It stays where it is until this is dropped. What may be done with it is up to the last call of
    /// [`seal`](Self::seal), [`open_to_read`](Self::open_to_read) or [`open`](Self::open): anything else is a fault.
    #[must_use]
    pub const fn as_ptr(&self) -> NonNull<u8> {
        self.first
    }

    /// The number of bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.layout.size()
    }

    /// Whether there is no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes all access away, for every pointer and thread. Ends the process if what is in front of the bytes was
    /// written to.
    pub fn seal(&mut self) {
        let Some(slot) = &mut self.slot else { return };
        match self.standing {
            Standing::Sealed => {}
            Standing::Readable => slot.close(Access::Read),
            Standing::Writable => slot.close_exclusive(self.layout),
        }
        self.standing = Standing::Sealed;
    }

    /// Lets them be read, and not written to.
    ///
    /// # Errors
    ///
    /// [`Error::LeftBehind`] in a child made by `fork(2)`; [`Error::MappingLimit`] if the process has too many
    /// mappings. Then they are sealed.
    pub fn open_to_read(&mut self) -> Result<(), Error> {
        if self.standing != Standing::Readable {
            self.seal();
            self.slot.as_ref().ok_or(Error::LeftBehind)?.open(Access::Read)?;
            self.standing = Standing::Readable;
        }
        Ok(())
    }

    /// Lets them be read and written to.
    ///
    /// # Errors
    ///
    /// As for [`open_to_read`](Self::open_to_read).
    pub fn open(&mut self) -> Result<(), Error> {
        if self.standing != Standing::Writable {
            self.seal();
            self.slot.as_mut().ok_or(Error::LeftBehind)?.open_exclusive()?;
            self.standing = Standing::Writable;
        }
        Ok(())
    }

    /// Whether this process is the one that made them; a child made by `fork(2)` has zeros in their place.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.slot.as_ref().is_some_and(Slot::is_here)
    }
}

impl Drop for IsolatedBytes {
    fn drop(&mut self) {
        // In a child of the process that made them there is nothing.
        let is_open = self.is_here() && self.open().is_ok();
        match self.slot.take() {
            Some(slot) if is_open => slot.give_back(self.layout, secret_flush()),
            Some(slot) => slot.abandon(),
            None => {}
        }
    }
}

impl ZeroizeOnDrop for IsolatedBytes {}

/// Prints no byte.
impl fmt::Debug for IsolatedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IsolatedBytes").field("len", &self.len()).finish_non_exhaustive()
    }
}
