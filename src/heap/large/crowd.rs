//! Many large blocks: runs that share mappings.
//!
//! A block on pages of its own costs two mappings, and a process has 65,530 (`vm.max_map_count`). Once a heap has
//! many large blocks alive, it makes further runs *crowded*: usable as a whole and for good, with a marker in the
//! page table for a guard (`MADV_GUARD_INSTALL`), so that neighbours are one mapping for the kernel. What is lost:
//! a freed block of such a run stays accessible. It reads as zero then, and what is written to it is noticed when
//! the run is used again, as in a slab.
//!
//! Where the kernel has no such guards, or memory is to be pinned, runs are never crowded.

// UNSAFETY: makes a guard in, reads and gives back pages that no block uses.
#![expect(unsafe_code, reason = "acts on runs that the calling thread has taken")]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "offsets in a range of at most 2^38 bytes"
)]

use core::alloc::Layout;
use core::sync::atomic::Ordering;

use super::entry::MOVED;
use super::place::Place;
use super::{Corruption, Run};
use crate::heap::geometry::{GUARD_BYTES, UNIT_BYTES};
use crate::heap::shared::{Shared, pages};
use crate::os::{self, LockState, Support};
use crate::pages::GuardKind;
use crate::{Backing, Error, Lock, wipe};

/// Large blocks alive from which on further runs are crowded: they have taken a quarter of the mappings.
const MANY: u32 = 8192;

impl Shared {
    pub(super) fn is_crowded(&self, run: Run) -> bool {
        !matches!(self.entry(run.number).crowded_units.load(Ordering::Relaxed), 0 | MOVED)
    }

    /// Whether a block of this layout should go into a crowded run, or must since this is one.
    pub(super) fn is_to_be_crowded(&self, run: Run, layout: Layout) -> bool {
        self.is_crowded(run)
            || self.large.nr_live.load(Ordering::Relaxed) >= MANY
                && self.policy.backing() == Backing::Locked
                && layout.align() <= GUARD_BYTES
                && self.entry(run.number).crowded_units.load(Ordering::Relaxed) != MOVED
                && self.extent_bytes(run) == 0
                && os::features().guard_install == Support::Yes
    }

    /// Makes the data pages of a block in a crowded run usable: all zero. `false` if the run cannot be crowded; then it
    /// is as it was.
    pub(super) fn crowd(&self, run: Run, place: Place) -> Result<bool, Error> {
        let entry = self.entry(run.number);
        let units = (run.bytes / UNIT_BYTES) as u32;
        match entry.crowded_units.load(Ordering::Relaxed) {
            0 => {
                if !self.open_whole_run(run)? {
                    return Ok(false);
                }
                entry.crowded_units.store(units, Ordering::Relaxed);
            }
            made if made != units || place.data_end != run.data_end() => {
                // Its guard is elsewhere: a longer run, taken for want of others, or another alignment.
                return Err(Error::HeapFull { reserved_bytes: self.geometry.large_bytes });
            }
            _ => self.check_untouched(place),
        }
        if self.policy.lock() != Lock::Off && self.lock_state(run) == LockState::Unlocked {
            let is_locked = self.lock_large(self.geometry.slab_bytes + run.offset(), run.bytes)?;
            entry.is_locked.store(u8::from(is_locked), Ordering::Relaxed);
        }
        Ok(true)
    }

    /// Makes all of a run usable but its last page, a guard.
    fn open_whole_run(&self, run: Run) -> Result<bool, Error> {
        let start = self.geometry.slab_bytes + run.offset();
        let (offset, bytes, page) = (pages(start)?, pages(run.bytes)?, pages(GUARD_BYTES)?);
        self.memory.commit(offset, bytes)?;
        let guard = pages(start + run.bytes - GUARD_BYTES)?;
        // SAFETY: no block is in the run.
        if matches!(unsafe { self.memory.guard_each(guard, page, page, 1) }, Ok(GuardKind::Marker)) {
            return Ok(true);
        }
        // SAFETY: as above.
        unsafe { self.memory.decommit(offset, bytes) }?;
        Ok(false)
    }

    /// Ends the process if anybody wrote to the pages since the block before was freed and they were given back.
    fn check_untouched(&self, place: Place) {
        self.visit_resident(place.data_start, place.data_end, |start, bytes| {
            // SAFETY: usable pages of a run that this thread has taken.
            if !unsafe { wipe::is_zero(self.large_address(start), bytes) } {
                Corruption::WriteAfterFree.abort();
            }
        });
    }

    /// Gives the memory of a freed block's pages back. They stay usable, and locked if they were.
    ///
    /// # Safety
    /// - Nobody uses the block, and it is wiped.
    pub(super) unsafe fn discard_data(&self, run: Run, place: Place) {
        let start = self.geometry.slab_bytes + place.data_start;
        if let (Ok(offset), Ok(bytes)) = (pages(start), pages(place.data_bytes())) {
            // If the kernel refuses, the pages stay, all zero.
            // SAFETY: forwarded.
            let _ = unsafe { self.memory.discard(offset, bytes, self.lock_state(run)) };
            self.entry(run.number).forget_pages();
        }
    }
}
