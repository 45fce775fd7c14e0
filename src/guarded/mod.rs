//! Guarded memory as a tool of its own, and a safe dialogue with the kernel about it.
//!
//! [`pages`] is the owner, [`advice`] what may be said about it: each kind of memory has its own hints, so that
//! what would betray a secret is refused by the compiler.

mod advice;
mod pages;

#[cfg(all(test, target_os = "linux", not(oubliette_portable)))]
mod tests;

pub use advice::{Advice, Contents, Ordinary, Secret};
pub use pages::GuardedPages;
