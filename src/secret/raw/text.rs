//! A buffer of bytes that is UTF-8.

use core::str::{self, Utf8Error};

use super::Buffer;
use crate::Error;
use crate::keys::AllRights;

/// Owner of text in the secret heap.
pub(in crate::secret) struct Text {
    /// # Invariants
    ///
    /// 1. The bytes are valid UTF-8. Whoever turns them to zeros keeps this true: zeros are U+0000.
    bytes: Buffer<u8>,
}

impl Text {
    pub(in crate::secret) const fn new() -> Self {
        Self { bytes: Buffer::new() }
    }

    pub(in crate::secret) fn with_capacity(bytes: usize) -> Result<Self, Error> {
        Ok(Self { bytes: Buffer::with_capacity(bytes)? })
    }

    /// The bytes as text, if they are.
    pub(in crate::secret) fn from_utf8(bytes: Buffer<u8>) -> Result<Self, Utf8Error> {
        let rights = AllRights::new();
        str::from_utf8(bytes.get())?;
        drop(rights);
        Ok(Self { bytes })
    }

    #[inline]
    pub(in crate::secret) const fn get(&self) -> &str {
        // SAFETY: UTF-8, by invariant 1.
        unsafe { str::from_utf8_unchecked(self.bytes.get()) }
    }

    #[inline]
    pub(in crate::secret) const fn get_mut(&mut self) -> &mut str {
        // SAFETY: UTF-8, by invariant 1, and a `&mut str` keeps it.
        unsafe { str::from_utf8_unchecked_mut(self.bytes.get_mut()) }
    }

    pub(in crate::secret) const fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(in crate::secret) fn reserve(&mut self, additional: usize) -> Result<(), Error> {
        self.bytes.reserve(additional)
    }

    pub(in crate::secret) fn push_str(&mut self, text: &str) -> Result<(), Error> {
        self.bytes.extend_from_slice(text.as_bytes())
    }

    /// Moves all of a string to the end; its whole memory is zero afterwards, and it is empty.
    pub(in crate::secret) fn append(&mut self, source: &mut String) -> Result<(), Error> {
        // SAFETY: `append` leaves the vector empty or as it was, and either is UTF-8. What it moves here is
        // UTF-8 and comes behind whole characters, which keeps invariant 1.
        self.bytes.append(unsafe { source.as_mut_vec() })
    }

    /// Wipes what is behind `len` bytes, or behind the last character boundary before that.
    pub(in crate::secret) fn truncate(&mut self, len: usize) {
        // At a character boundary, so invariant 1 holds.
        let rights = AllRights::new();
        let len = self.get().floor_char_boundary(len);
        drop(rights);
        self.bytes.truncate(len);
    }

    pub(in crate::secret) fn wipe(&mut self) {
        self.bytes.wipe();
    }

    pub(in crate::secret) fn try_clone(&self) -> Result<Self, Error> {
        Ok(Self { bytes: self.bytes.try_clone()? })
    }

    pub(in crate::secret) fn into_bytes(self) -> Buffer<u8> {
        self.bytes
    }

    pub(in crate::secret) fn leak(self) -> &'static mut str {
        // SAFETY: UTF-8, by invariant 1, and a `&mut str` keeps it.
        unsafe { str::from_utf8_unchecked_mut(self.bytes.leak()) }
    }
}
