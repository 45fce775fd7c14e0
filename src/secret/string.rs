//! Secret text that can grow inside the secret heap.

use core::fmt;
use core::str::Utf8Error;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::new_error::NewWithError;
use super::raw::Text;
use super::vec::SecretVec;
use crate::Error;

/// Owner of secret text in the secret heap: a [`SecretVec<u8>`](SecretVec) that is UTF-8.
///
/// ```
/// use oubliette::SecretString;
///
/// let mut token = SecretString::new();
/// token.push_str("Bearer ")?;
/// token.push_str("s3cr3t")?;
/// assert_eq!(token.expose(), "Bearer s3cr3t");
/// assert_eq!(format!("{token:?}"), "SecretString(..)");
/// assert!(token == *"Bearer s3cr3t"); // in constant time
/// # Ok::<(), oubliette::Error>(())
/// ```
pub struct SecretString {
    text: Text,
}

impl SecretString {
    /// An empty one, which has no memory yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { text: Text::new() }
    }

    /// An empty one with room for `bytes` bytes.
    ///
    /// # Errors
    ///
    /// No memory could be had that is protected as promised.
    pub fn with_capacity(bytes: usize) -> Result<Self, Error> {
        Ok(Self { text: Text::with_capacity(bytes)? })
    }

    /// Makes text of `len` bytes in place: `fill` gets zeros and turns them into the secret.
    ///
    /// If `fill` panics, what it wrote is wiped and the panic goes on.
    ///
    /// # Errors
    ///
    /// [`NewWithError::Memory`] if no protected memory could be had; [`NewWithError::Refused`] if the bytes
    /// are not UTF-8, and then they are wiped.
    pub fn new_with(len: usize, fill: impl FnOnce(&mut [u8])) -> Result<Self, NewWithError<Utf8Error>> {
        Self::from_utf8(SecretVec::new_with(len, fill)?).map_err(NewWithError::Refused)
    }

    /// The bytes as text, without a copy.
    ///
    /// # Errors
    ///
    /// The bytes are not UTF-8; they are wiped.
    pub fn from_utf8(bytes: SecretVec<u8>) -> Result<Self, Utf8Error> {
        Ok(Self { text: Text::from_utf8(bytes.into_buffer())? })
    }

    /// Moves a string into the secret heap and wipes all of its memory, spare room included.
    ///
    /// # Errors
    ///
    /// No protected memory could be had; the string is as it was. (The `TryFrom<String>` of this type
    /// takes the string by value and wipes it in either case.)
    pub fn take(source: &mut String) -> Result<Self, Error> {
        let mut text = Text::new();
        text.append(source)?;
        Ok(Self { text })
    }

    /// The text, to look at.
    ///
    /// Where [`Seal::ProtectionKey`](crate::Seal::ProtectionKey) is in force only under [`open`](Self::open) or in
    /// [`unsealed`](crate::unsealed): elsewhere to touch it is a fault that ends the process.
    #[inline]
    #[must_use]
    pub const fn expose(&self) -> &str {
        self.text.get()
    }

    /// The text, to change in place.
    #[inline]
    #[must_use]
    pub const fn expose_mut(&mut self) -> &mut str {
        self.text.get_mut()
    }

    /// How many bytes the text has.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.text.get().len()
    }

    /// Whether it has none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes fit without another block.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.text.capacity()
    }

    /// Makes room for `additional` more bytes.
    ///
    /// # Errors
    ///
    /// No protected memory could be had; the text is as it was.
    pub fn try_reserve(&mut self, additional: usize) -> Result<(), Error> {
        self.text.reserve(additional)
    }

    /// Copies text behind the last character. The source stays as it is.
    ///
    /// # Errors
    ///
    /// No protected memory could be had; the text is as it was.
    pub fn push_str(&mut self, text: &str) -> Result<(), Error> {
        self.text.push_str(text)
    }

    /// Puts a character behind the last one.
    ///
    /// # Errors
    ///
    /// No protected memory could be had; the text is as it was.
    pub fn push(&mut self, character: char) -> Result<(), Error> {
        let mut bytes = [0; 4];
        let pushed = self.text.push_str(character.encode_utf8(&mut bytes));
        bytes.zeroize();
        pushed
    }

    /// Wipes what is behind the first `len` bytes. Where that is within a character, it goes too.
    pub fn truncate(&mut self, len: usize) {
        self.text.truncate(len);
    }

    /// Wipes all text. The room for it is kept.
    pub fn clear(&mut self) {
        self.text.truncate(0);
    }

    /// A second secret of equal text, copied within the secret heap.
    ///
    /// # Errors
    ///
    /// No protected memory could be had.
    pub fn try_clone(&self) -> Result<Self, Error> {
        Ok(Self { text: self.text.try_clone()? })
    }

    /// The bytes of the text, without a copy.
    #[must_use]
    pub fn into_bytes(self) -> SecretVec<u8> {
        SecretVec::from_buffer(self.text.into_bytes())
    }

    /// Keeps the text in the secret heap for as long as the process lives.
    ///
    /// It is wiped when the process ends (see [`WipeAtEnd`](crate::WipeAtEnd)) and by `purge()`.
    #[must_use = "the secret can be reached through the reference only"]
    pub fn leak(self) -> &'static mut str {
        self.text.leak()
    }
}

impl Default for SecretString {
    fn default() -> Self {
        Self::new()
    }
}

/// Moves the text in and wipes the string, also if no protected memory could be had.
impl TryFrom<String> for SecretString {
    type Error = Error;

    fn try_from(mut source: String) -> Result<Self, Error> {
        let moved = Self::take(&mut source);
        if moved.is_err() {
            source.zeroize();
        }
        moved
    }
}

/// Appends what is formatted, so that `write!` can compose a secret in place.
impl fmt::Write for SecretString {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push_str(text).map_err(|_| fmt::Error)
    }
}

/// Turns all text to zeros, then removes it, as zeroize does for a `String`.
impl Zeroize for SecretString {
    fn zeroize(&mut self) {
        self.text.wipe();
        self.text.truncate(0);
    }
}

impl ZeroizeOnDrop for SecretString {}
