//! What may leave a scope by value.

// UNSAFETY: overwrites the unused bytes of an enum's value.
#![expect(unsafe_code, reason = "wipes the bytes of a value in place, see UNSAFETY above")]

use core::ptr::{self, NonNull};
use core::task::Poll;

use crate::secret::{Inline, SecretBox, SecretString, SecretVec};
use crate::wipe;

/// A value that may leave a scope: small plain data, or a secret type.
///
/// What a closure returns is outside from then on. A `String` or a `Vec` would take memory of the scope
/// with it and be used, grown and copied outside, so they have no such trait; neither have references,
/// tuples (their padding may hold anything) or types that this crate does not know. Return
///
/// - numbers, `bool`, `char`, and arrays, [`Option`] and [`Result`] of what may leave;
/// - a secret in a [`SecretBox`], [`SecretVec`] or [`SecretString`]: its bytes stay where they are;
/// - anything longer by writing into a buffer that the closure captures by reference.
///
/// ```compile_fail,E0277
/// let secret = oubliette::scope(|| vec![0x5a_u8; 32]);
/// ```
///
/// A plain type of your own, without padding and without pointers, may opt in:
///
/// ```
/// struct Signature([u8; 64]);
/// impl oubliette::Outcome for Signature {}
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` may not leave a scope by value",
    label = "returned from a scope",
    note = "return small plain data (numbers, `[u8; N]`, `Option`, `Result`), a secret type, or write into a \
            buffer that the closure captures by reference"
)]
pub trait Outcome: Sized {
    /// Wipes the bytes that the value does not use: those of a variant that it is not. They were copied
    /// with it from the stack of the scope.
    #[doc(hidden)]
    fn wipe_unused(&mut self) {}
}

macro_rules! plain {
    ($($name:ty),*) => { $(impl Outcome for $name {})* };
}

plain!((), bool, char, u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, f32, f64);
plain!(crate::Error, core::convert::Infallible, core::cmp::Ordering);

impl<T: Outcome, const N: usize> Outcome for [T; N] {
    fn wipe_unused(&mut self) {
        self.iter_mut().for_each(T::wipe_unused);
    }
}

// A pointer to a block that stays where it is.
impl<T: Inline> Outcome for SecretBox<T> {}
impl<T: Inline> Outcome for SecretVec<T> {}
impl Outcome for SecretString {}

impl<T: Outcome> Outcome for Poll<T> {
    fn wipe_unused(&mut self) {
        match self {
            Self::Ready(value) => value.wipe_unused(),
            Self::Pending => refill(self, (), |()| Self::Pending),
        }
    }
}

impl<T: Outcome> Outcome for Option<T> {
    fn wipe_unused(&mut self) {
        match self {
            Some(value) => value.wipe_unused(),
            None => refill(self, (), |()| None),
        }
    }
}

impl<T: Outcome, E: Outcome> Outcome for Result<T, E> {
    fn wipe_unused(&mut self) {
        match self {
            Ok(value) => {
                value.wipe_unused();
                // SAFETY: a `&mut T` is valid for reads; `refill` overwrites its place without dropping it.
                let value = unsafe { ptr::read(value) };
                refill(self, value, Ok);
            }
            Err(error) => {
                error.wipe_unused();
                // SAFETY: as above.
                let error = unsafe { ptr::read(error) };
                refill(self, error, Err);
            }
        }
    }
}

/// Zeroes a place whose value was moved out, and writes it again from what it carried.
#[inline]
fn refill<T, V>(place: &mut T, carried: V, wrap: impl FnOnce(V) -> T) {
    let place = NonNull::from(place);
    // SAFETY: the bytes of a `&mut T`, not used as a `T` before they are written below; nothing panics in
    // between (`wrap` is a constructor).
    unsafe { wipe::zero(place.cast(), size_of::<T>()) };
    // SAFETY: as above; what was there was moved out and is not dropped twice.
    unsafe { place.write(wrap(carried)) };
}
