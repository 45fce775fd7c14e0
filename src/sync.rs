//! The atomics of this crate: std's, or loom's in tests under `--cfg loom`. The only file that
//! knows loom, but for the models themselves.
//!
//! Only leaf structures (bitmaps, free lists, state words) are modelled; they take their atomics from here.
//! Statics that are never part of a model use `core::sync::atomic` directly, since loom's constructors are
//! not `const`.

#[cfg(not(all(test, loom)))]
pub(crate) use core::{
    hint::spin_loop,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};
#[cfg(not(all(test, loom)))]
pub(crate) use std::thread::yield_now;

#[cfg(all(test, loom))]
pub(crate) use loom::{
    hint::spin_loop,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    thread::yield_now,
};
