//! The atomics of this crate: std's, or loom's under `--cfg loom`. The only file that knows loom.
//!
//! Only leaf structures (bitmaps, free lists, state words) are modelled; they take their atomics from here.
//! Statics that are never part of a model use `core::sync::atomic` directly, since loom's constructors are
//! not `const`.

#[cfg(not(all(test, loom)))]
pub(crate) use core::{
    hint::spin_loop,
    sync::atomic::{AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};

#[cfg(all(test, loom))]
pub(crate) use loom::{
    hint::spin_loop,
    sync::atomic::{AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};
