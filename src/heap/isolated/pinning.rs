//! Pins for a million slots.
//!
//! The kernel pins no range that has a guard or a page without access in it, so each secret takes a pin of
//! its own, made while its pages are open. The pin then outlasts the sealing: `mprotect(2)` changes the page
//! table, and the pin holds the frame (measured: `MADV_COLLAPSE` of a sealed slot's page fails, see
//! `tests/isolated`). One set of tables holds 103,424 pins, so there are several, used one after the other.

// UNSAFETY: asks the kernel to pin memory that the caller names by address.
#![expect(unsafe_code, reason = "forwards raw addresses to the table of pins")]

use core::num::NonZeroU64;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::os::Errno;
use crate::pages::{PinId, Pins};

/// Sets of tables: room for 1,034,240 pins, and at most 80 descriptors.
const NR_SETS: usize = 10;

static SETS: [Pins; NR_SETS] = [const { Pins::new() }; NR_SETS];
/// The first set that may have room.
static FIRST: AtomicUsize = AtomicUsize::new(0);

/// A pinned range.
#[derive(Debug)]
#[must_use = "without it the range stays pinned"]
pub(super) struct Pinned {
    set: u8,
    id: PinId,
}

impl Pinned {
    /// Pins a range that is readable and writable, and faults it in.
    ///
    /// # Safety
    ///
    /// - As for [`Pins::pin`].
    pub(super) unsafe fn new(ptr: NonNull<u8>, len: usize) -> Result<Self, Errno> {
        // Relaxed: a guess that saves time.
        let first = FIRST.load(Ordering::Relaxed);
        for (set, pins) in (0_u8..).zip(&SETS).skip(first) {
            // SAFETY: forwarded.
            match unsafe { pins.pin(ptr, len) } {
                Ok(id) => return Ok(Self { set, id }),
                Err(Errno::NOSPC) => {
                    FIRST.fetch_max(usize::from(set).wrapping_add(1), Ordering::Relaxed);
                }
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::NOSPC)
    }

    /// Ends the pin. After an error the frames stay pinned until the process ends.
    pub(super) fn end(self) -> Result<(), Errno> {
        let Some(pins) = SETS.get(usize::from(self.set)) else { return Ok(()) };
        pins.unpin(self.id)?;
        FIRST.fetch_min(usize::from(self.set), Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn into_bits(self) -> (u8, u64) {
        (self.set, self.id.into_bits().get())
    }

    pub(super) fn from_bits(set: u8, bits: u64) -> Option<Self> {
        NonZeroU64::new(bits).map(|bits| Self { set, id: PinId::from_bits(bits) })
    }
}

/// Whether every pin of a slot holds: `false` once somebody closed a ring's descriptor.
pub(super) fn are_alive() -> bool {
    SETS.iter().all(Pins::is_alive)
}

/// A child made by fork starts with empty tables, whatever its parent had used up.
pub(super) fn forget_after_fork() {
    FIRST.store(0, Ordering::Relaxed);
}
