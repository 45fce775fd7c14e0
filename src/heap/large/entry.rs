//! The record of a large block, and of the run that it lies in.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "counts of threads; u64 to usize"
)]

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::place::Place;
use crate::heap::geometry::LARGE_ENTRY_BYTES;

/// In use.
pub(super) const LIVE: u32 = 1;
/// In the hands of who frees or resizes it.
pub(super) const BUSY: u32 = 2;
/// Freed.
pub(super) const FREE: u32 = 3;
/// Wiped by its owner: its pages are about to go.
pub(super) const CLOSING: u32 = 4;
/// The bits of a state that hold one of these; the others count who wipes the block for a purge.
pub(super) const KIND: u32 = 0xff;
const PURGER: u32 = KIND + 1;

/// In place of the units of a crowded run: pages were moved to this run, so its mappings are not like those around them.
pub(super) const MOVED: u32 = u32::MAX;

/// What is known about a block, at the unit that it starts in; and a link, at the first unit of a run.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Entry {
    /// `LIVE`, `BUSY`, `CLOSING` or `FREE`; 0 where no block ever started. Above that, the number of threads
    /// and signal handlers that wipe the block for a purge: only while it is `LIVE` or `BUSY`, and as long as
    /// there are any its pages stay.
    pub(super) state: AtomicU32,
    /// Link of the run that starts at this unit.
    pub(super) link: AtomicU32,
    /// First unit of the run, and its length class in the low 8 bits.
    pub(super) run: AtomicU64,
    /// Offset of the block in the large zone.
    pub(super) place: AtomicU64,
    /// Size of the block.
    pub(super) size: AtomicU64,
    /// At the first unit of a run, about the pages at its end that were made for blocks and not given back: the
    /// pin that holds them, as number; 0 for none.
    pub(super) pin: AtomicU64,
    /// The same: how many.
    pub(super) extent_pages: AtomicU32,
    /// The same: where they end, in pages from the start of the run.
    pub(super) extent_end: AtomicU32,
    /// The same: how many at the end are known to be in memory, all of them (`touched`).
    pub(super) resident_pages: AtomicU16,
    /// The same: how many at the end may have been written to since they were wiped (`open`).
    pub(super) unchecked_pages: AtomicU16,
    /// The same: whether they are locked.
    pub(super) is_locked: AtomicU8,
    /// The same: the length class of the run, plus one, while it is open or kept for reuse; else 0.
    pub(super) is_kept: AtomicU8,
    /// The same: whether a block was wiped there before (`touched`).
    pub(super) was_asked: AtomicU8,
    /// The same: whether, and how often, its pages are made at once (`huge`).
    pub(super) huge: AtomicU8,
    /// The generation of the heap that made the block.
    pub(super) generation: AtomicU32,
    /// The same: the units of the run, if it is crowded (`crowd`); [`MOVED`] if pages were moved to it (`grow`); else 0.
    pub(super) crowded_units: AtomicU32,
}

const _: () = assert!(size_of::<Entry>() == LARGE_ENTRY_BYTES);

impl Entry {
    /// Forgets what is known about the pages of a run that has none any more, or in a child.
    pub(super) fn forget_pages(&self) {
        self.resident_pages.store(0, Ordering::Relaxed);
        self.unchecked_pages.store(0, Ordering::Relaxed);
        self.was_asked.store(0, Ordering::Relaxed);
    }

    /// Takes a live block out of use: it is `BUSY`, and the caller's, afterwards.
    pub(super) fn claim(&self) -> Result<(), u32> {
        let mut seen = self.state.load(Ordering::Relaxed);
        while seen & KIND == LIVE {
            // Acquire pairs with Release in `open_block`; of two threads that free the same block one fails.
            let busy = seen & !KIND | BUSY;
            match self.state.compare_exchange_weak(seen, busy, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => seen = now,
            }
        }
        Err(seen & KIND)
    }

    /// Puts a block that the caller claimed back into use.
    pub(super) fn unclaim(&self) {
        self.state.fetch_xor(BUSY ^ LIVE, Ordering::Release);
    }

    /// Makes sure that nobody touches the pages of a block that the caller claimed and wiped. Waits for a
    /// purge that is at it; a purge never waits.
    pub(super) fn close(&self) {
        // Acquire pairs with Release in `leave`.
        while self.state.compare_exchange_weak(BUSY, CLOSING, Ordering::Acquire, Ordering::Relaxed).is_err() {
            core::hint::spin_loop();
        }
    }

    /// Keeps the pages of a block usable until [`Entry::leave`]. Tells whether there are any.
    pub(super) fn enter(&self) -> bool {
        let mut seen = self.state.load(Ordering::Relaxed);
        while matches!(seen & KIND, LIVE | BUSY) {
            let entered = seen + PURGER;
            // Acquire pairs with Release in `open_block`: the place of the block is seen with it.
            match self.state.compare_exchange_weak(seen, entered, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    pub(super) fn leave(&self) {
        self.state.fetch_sub(PURGER, Ordering::Release);
    }

    /// Offset of the block in the large zone.
    pub(super) fn offset(&self) -> usize {
        self.place.load(Ordering::Relaxed) as usize
    }

    /// Where the block lies. Its data pages are the same at any time of its life.
    pub(super) fn place(&self) -> Place {
        Place::of(self.offset(), self.size.load(Ordering::Relaxed) as usize)
    }
}
