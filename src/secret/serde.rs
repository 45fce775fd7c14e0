//! `Deserialize`, never `Serialize`: a secret can be read from a format, and written to one only on
//! purpose.
//!
//! A format's own errors quote what they found in place of what was expected, which may be the secret
//! under another type. So they are replaced by ones that tell less. What the format keeps in buffers of
//! its own is not wiped by us; formats that lend text and bytes leave the fewest copies.

use core::fmt;
use core::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error as DeserializeError, SeqAccess, Visitor};

use super::inline::Inline;
use super::{SecretBox, SecretString, SecretVec};
use crate::Error;

/// The value is made on the stack by its own `Deserialize`, then moved in and wiped there.
impl<'de, T: Inline + Deserialize<'de>> Deserialize<'de> for SecretBox<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        unquoted(T::deserialize(deserializer).map(Self::new), "a value of the secret's type")
    }
}

/// From a sequence; every value goes straight into the secret heap.
impl<'de, T: Inline + Deserialize<'de>> Deserialize<'de> for SecretVec<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        unquoted(deserializer.deserialize_seq(Values(PhantomData)), "a sequence of the secret's values")
    }
}

/// From text, without a copy outside where the format lends it.
impl<'de> Deserialize<'de> for SecretString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        unquoted(deserializer.deserialize_string(Characters), "a string")
    }
}

/// The secret, or our own error, or one that says what was expected and not what was found.
fn unquoted<T, E: DeserializeError>(read: Result<Result<T, Error>, E>, expected: &str) -> Result<T, E> {
    match read {
        Ok(made) => made.map_err(E::custom),
        Err(_) => Err(E::custom(format_args!("a secret could not be read: expected {expected}"))),
    }
}

struct Values<T>(PhantomData<T>);

impl<'de, T: Inline + Deserialize<'de>> Visitor<'de> for Values<T> {
    type Value = Result<SecretVec<T>, Error>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut values = SecretVec::new();
        while let Some(value) = sequence.next_element()? {
            if let Err(error) = values.push(value) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(values))
    }
}

struct Characters;

impl Visitor<'_> for Characters {
    type Value = Result<SecretString, Error>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: DeserializeError>(self, text: &str) -> Result<Self::Value, E> {
        let mut secret = SecretString::new();
        Ok(secret.push_str(text).map(|()| secret))
    }

    fn visit_string<E: DeserializeError>(self, text: String) -> Result<Self::Value, E> {
        Ok(text.try_into())
    }
}
