//! What keeps a buffer in its frames, and how many buffers had to do without.

// UNSAFETY: asks the kernel to pin memory that the caller names by address.
#![expect(unsafe_code, reason = "forwards the address of a run to the table of pins")]

use core::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use crate::os::{self, Errno};
use crate::pages::{self, DeviceRun, PinId, pins};
use crate::{Error, Operation};

/// Whether the kernel may move a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pinning {
    /// It may not: its pages have a long-term pin.
    Pinned(Provider),
    /// It may: its pages are locked, so never swapped, but a copy can stay behind where they lay before.
    LockedOnly,
}

/// Who holds a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Provider {
    /// The table of pins of this process, an io_uring that runs no request.
    PinTable,
    /// The ring whose transfers the buffer is used for.
    Ring,
}

/// What a buffer's owner does about a refused pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// No pin, no buffer.
    Required,
    /// A locked buffer will do.
    BestEffort,
}

/// The most that one slot of a table holds (`io_uring_register(2)`).
pub(super) const MOST_BYTES: usize = 1 << 30;

/// What holds the pages of one buffer.
#[derive(Debug)]
pub(super) enum Pin {
    /// Nothing but the lock.
    Absent,
    /// A slot of the process's table.
    Table(PinId),
    /// A slot of a ring's table.
    #[cfg(all(feature = "io-uring", target_os = "linux", not(any(miri, loom, oubliette_portable))))]
    Ring(super::ring::Registration),
}

impl Pin {
    /// Pins a run in the process's table.
    ///
    /// # Safety
    ///
    /// - The pin is ended before the run is dropped.
    pub(super) unsafe fn new(run: &DeviceRun, wish: Wish) -> Result<Self, Error> {
        let (data, bytes) = run.data();
        if bytes > MOST_BYTES {
            return Err(Error::TooLarge);
        }
        // SAFETY: a run's data was reserved, and the caller ends the pin before the run is released.
        match unsafe { pins().pin(data, bytes) } {
            Ok(id) => Ok(Self::Table(id)),
            Err(errno) if wish == Wish::BestEffort => {
                NOT_PINNED.fetch_add(1, Ordering::Relaxed);
                NOT_PINNED_ERRNO.store(errno.0, Ordering::Relaxed);
                Ok(Self::Absent)
            }
            Err(errno) => Err(refused(errno, bytes)),
        }
    }

    /// What holds the pages at this moment: a pin ends when somebody closes the descriptor that it lives by.
    pub(super) fn state(&self) -> Pinning {
        match self {
            Self::Table(id) if pins().holds(id) => Pinning::Pinned(Provider::PinTable),
            #[cfg(all(feature = "io-uring", target_os = "linux", not(any(miri, loom, oubliette_portable))))]
            Self::Ring(registration) if registration.is_alive() => Pinning::Pinned(Provider::Ring),
            _ => Pinning::LockedOnly,
        }
    }

    /// Ends the pin. If the kernel refuses, the frames stay, wiped, until the process ends.
    pub(super) fn end(&mut self) {
        match core::mem::replace(self, Self::Absent) {
            Self::Table(id) => drop(pins().unpin(id)),
            #[cfg(all(feature = "io-uring", target_os = "linux", not(any(miri, loom, oubliette_portable))))]
            Self::Ring(registration) => drop(registration),
            Self::Absent => {}
        }
    }
}

/// The error for a refused pin, with the limit where it is one.
#[cold]
pub(super) fn refused(errno: Errno, needed_bytes: usize) -> Error {
    match (errno, os::memlock_limit().soft) {
        (Errno::NOMEM, Some(limit_bytes)) => Error::PinLimit { needed_bytes, limit_bytes },
        (Errno::PERM | Errno::NOSYS, _) => Error::NoPins { errno: errno.0 },
        _ => Error::Os { operation: Operation::Pin, errno: errno.0 },
    }
}

// Relaxed, all of these: figures for reports.
static NOT_PINNED: AtomicUsize = AtomicUsize::new(0);
static NOT_PINNED_ERRNO: AtomicI32 = AtomicI32::new(0);
static QUARANTINED: AtomicUsize = AtomicUsize::new(0);
static QUARANTINED_BYTES: AtomicUsize = AtomicUsize::new(0);

/// The figures of all buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stats {
    pub(crate) buffers: usize,
    pub(crate) bytes: usize,
    pub(crate) pinned_bytes: usize,
    pub(crate) not_pinned: usize,
    pub(crate) not_pinned_errno: i32,
    pub(crate) is_pin_lost: bool,
    pub(crate) quarantined: usize,
    pub(crate) quarantined_bytes: usize,
}

/// The figures of all buffers at about one moment.
pub(crate) fn stats() -> Stats {
    let runs = pages::run_stats();
    let is_pin_lost = runs.pinned_buffer_bytes > 0 && !pins().is_alive();
    let in_table = if is_pin_lost { 0 } else { runs.pinned_buffer_bytes };
    Stats {
        buffers: runs.buffers,
        bytes: runs.buffer_bytes,
        pinned_bytes: in_table.saturating_add(runs.ring_buffer_bytes),
        not_pinned: NOT_PINNED.load(Ordering::Relaxed),
        not_pinned_errno: NOT_PINNED_ERRNO.load(Ordering::Relaxed),
        is_pin_lost,
        quarantined: QUARANTINED.load(Ordering::Relaxed),
        quarantined_bytes: QUARANTINED_BYTES.load(Ordering::Relaxed),
    }
}

/// Counts a buffer that is given up, since a device may still write to it.
#[allow(dead_code, reason = "for owners of transfers, which are features")]
pub(super) fn count_quarantined(bytes: usize) {
    QUARANTINED.fetch_add(1, Ordering::Relaxed);
    QUARANTINED_BYTES.fetch_add(bytes, Ordering::Relaxed);
}
