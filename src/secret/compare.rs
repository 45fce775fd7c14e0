//! `==` in constant time, for types that are plain bytes.
//!
//! The time depends on the two lengths only; lengths are not secret. Types that are not
//! [`Plain`] have no `==` here: compare what [`expose`](super::SecretBox::expose) gives, in the time that
//! their own `==` takes.

use core::slice;

use super::inline::Plain;
use super::raw::equal;
use super::{SecretBox, SecretString, SecretVec};

impl<T: Plain> PartialEq for SecretBox<T> {
    fn eq(&self, other: &Self) -> bool {
        *self == *other.expose()
    }
}

impl<T: Plain> Eq for SecretBox<T> {}

impl<T: Plain> PartialEq<T> for SecretBox<T> {
    fn eq(&self, other: &T) -> bool {
        equal(slice::from_ref(self.expose()), slice::from_ref(other))
    }
}

impl<T: Plain, const N: usize> PartialEq<[T]> for SecretBox<[T; N]> {
    fn eq(&self, other: &[T]) -> bool {
        equal(self.expose(), other)
    }
}

impl<T: Plain> PartialEq for SecretVec<T> {
    fn eq(&self, other: &Self) -> bool {
        equal(self.expose(), other.expose())
    }
}

impl<T: Plain> Eq for SecretVec<T> {}

impl<T: Plain> PartialEq<[T]> for SecretVec<T> {
    fn eq(&self, other: &[T]) -> bool {
        equal(self.expose(), other)
    }
}

impl<T: Plain, const N: usize> PartialEq<[T; N]> for SecretVec<T> {
    fn eq(&self, other: &[T; N]) -> bool {
        equal(self.expose(), other)
    }
}

impl PartialEq for SecretString {
    fn eq(&self, other: &Self) -> bool {
        *self == *other.expose()
    }
}

impl Eq for SecretString {}

impl PartialEq<str> for SecretString {
    fn eq(&self, other: &str) -> bool {
        equal(self.expose().as_bytes(), other.as_bytes())
    }
}
