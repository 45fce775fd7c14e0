//! Owners of secrets in the secret heap: [`SecretBox`], [`SecretVec`], [`SecretString`].
//!
//! Each owns one block of the heap of [`Policy::SECRET`](crate::Policy::SECRET): locked, pinned where the
//! kernel offers it, guarded, and wiped when it is given back. Many share a page, so a secret costs its
//! own size and not a page. None of them copies, prints or serialises what it holds; `==` takes the same
//! time wherever the two differ.
//!
//! # What may live in a secret block: two designs, and why one won
//!
//! A `SecretBox<String>` would protect three words and leave the text in ordinary memory, so a type says
//! by a trait that all of it is inline. What else should that trait promise?
//!
//! 1. *A safe marker and a constant to begin with* (`trait Inline { const BLANK: Self }`). No `unsafe`
//!    for the user; `new_with` starts from the constant. But `new_with` then writes the constant over
//!    memory that is zero already, by way of the stack where the optimiser is off, and foreign types
//!    without a `const` constructor can never be held.
//! 2. *An unsafe marker that promises that all-zero bytes are a valid value* ([`Inline`]). A user's struct
//!    gets it without `unsafe` from [`impl_inline!`](crate::impl_inline), which checks every field.
//!
//! The second won, and not for the sake of `new_with`. A secret turns to zeros under its owner in three
//! cases that no owner can prevent: a forked child sees fresh zero pages
//! ([`Fork::Wipe`](crate::Fork::Wipe)), `purge()` wipes what is alive, and
//! [`zeroize`](zeroize::Zeroize::zeroize) wipes in place. Reading the secret afterwards, or dropping it,
//! is sound only if zeros are a value of the type. With the first design safe code could make a
//! `NonZeroU64` of zero; with the second such a type is refused by the compiler.
//!
//! # Where the `unsafe` is
//!
//! In [`inline`] (the promises of types) and [`raw`] (three owning blocks with numbered invariants). The
//! rest of this folder is safe code.

mod boxed;
mod compare;
mod flush;
mod inline;
mod isolated;
mod isolated_bytes;
mod new_error;
mod opened;
mod raw;
mod redact;
mod seal;
#[cfg(feature = "serde")]
mod serde;
mod string;
mod vec;

#[cfg(test)]
mod tests;

pub use boxed::SecretBox;

/// Sets up what secrets share: the heap, the calling thread's part of it, and a slot of a page.
pub(crate) fn warm_up() -> Result<(), crate::Error> {
    raw::warm_up()?;
    raw::Isolated::<[u64; 4]>::reserve_least(1)
}

pub use flush::{secret_flush, set_secret_flush};
pub use inline::{Inline, Plain};
pub use isolated::{IsolatedBox, Open, OpenMut};
pub use isolated_bytes::IsolatedBytes;
pub use new_error::NewWithError;
pub use opened::{Opened, OpenedMut};
pub use seal::{seal_thread, secret_seal, set_secret_seal, unsealed};
pub use string::SecretString;
pub use vec::SecretVec;

#[cfg(feature = "allocator-api2")]
pub(crate) use raw::{allocate_unsealed, deallocate_unsealed, reallocate_unsealed};

#[doc(hidden)]
pub use inline::writes_behind_shared;
