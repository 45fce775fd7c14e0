//! The contract of pins: a table whose slots keep ranges of memory in their frames.

use core::ptr::NonNull;

use super::{Call, Result, backend, fake};

/// Names a table of pinned ranges. It owns nothing, so it can be copied and kept in any form: each use checks
/// that this process made the table and that the descriptor still is that table. A stale name, or one of
/// mixed parts, is an error and does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ring {
    /// The descriptor, close-on-exec and out of the low numbers.
    pub(crate) descriptor: i32,
    /// The process that made it. A child made by fork shares the descriptor, but its own pages are not
    /// pinned, and emptying a slot there would unpin the parent's.
    pub(crate) owner: u32,
    /// The device of the file behind the descriptor.
    pub(crate) device: u64,
    /// The number of the file behind the descriptor.
    pub(crate) inode: u64,
}

impl Ring {
    /// Makes a table of `slots` empty slots, at most 16,384.
    ///
    /// - Result: `PERM` where the administrator or a sandbox forbids it, `NOSYS` or `INVAL` where the system
    ///   has none, `EMFILE` without a free descriptor, `NOMEM` at the limit of locked memory.
    pub(crate) fn new(slots: u32) -> Result<Self> {
        fake::gate(Call::RingSetup)?;
        backend::ring_new(slots)
    }

    /// Pins a range of at most 1 GiB into an empty slot: its pages are faulted in and stay in their frames,
    /// locked or not, until the slot is emptied or the table is closed.
    ///
    /// - Before: every page of the range is readable and writable; no guard is in it.
    /// - Result: `FAULT` where a page may not be pinned, `NOMEM` at the limit of locked memory (charged apart
    ///   from [`lock`](super::lock)), `BADF` if the table is no longer there or is another process's.
    /// - Contents: kept.
    ///
    /// # Safety
    ///
    /// - The whole range came from [`reserve`](super::reserve) and was not released.
    pub(crate) unsafe fn register(self, slot: u32, ptr: NonNull<u8>, len: usize) -> Result<()> {
        fake::gate(Call::RingRegister)?;
        // SAFETY: forwarded: the caller promises the same.
        unsafe { backend::ring_register(self, slot, ptr, len) }
    }

    /// Empties a slot: its range is no longer pinned. Does nothing in a process that did not make the table,
    /// whose pages were never pinned.
    ///
    /// - Result: `BADF` if the table is no longer there: then nothing is pinned.
    /// - Contents: kept.
    pub(crate) fn unregister(self, slot: u32) -> Result<()> {
        fake::gate(Call::RingUnregister)?;
        backend::ring_unregister(self, slot)
    }

    /// Whether the pins hold: a program that closes all descriptors ends them without a word.
    pub(crate) fn is_alive(self) -> bool {
        backend::ring_is_alive(self)
    }

    /// Closes this process's descriptor of the table, whoever made it. The pins end when no process has one.
    pub(crate) fn close(self) {
        backend::ring_close(self);
    }
}
