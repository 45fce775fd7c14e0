//! Runs that stay open for a while after their block is freed, so that the next block costs no system call.
//!
//! To close a run and to open it again are two calls of `mprotect(2)`: 4.5 us for 64 KiB, where wiping them takes 2.6 us,
//! and programs free and allocate blocks of one size over and over (`git repack`: 17,770 times 32 or 64 KiB). Two ways
//! were weighed:
//!
//! 1. Close late and in bulk: a freed run stays accessible, and is checked for zeros before it is used again or has
//!    been closed. The few youngest never are closed in a program that uses them over and over.
//! 2. Close as before, but by a marker in the page table (`MADV_GUARD_INSTALL`), which does not split mappings. That
//!    is a call all the same, it is refused where memory is locked, and it gives the pages back, which then have to be
//!    faulted in: 16 faults for 64 KiB, more than is saved.
//!
//! The first wins, where a block is not too long: to read 64 KiB takes 0.6 us. What it costs is that a use after free of
//! these few blocks is no fault. A read sees zeros. A write ends the process when the run is used again, at the
//! latest, as in a slab; if it never is, its pages are given back. So it is for heaps of whole programs only: a heap of
//! secrets, and any that must lock its pages, closes a run before the call that frees its block returns.
//!
//! Open runs are few and short ([`parked`](crate::heap::parked), [`OPEN_EXTENT_BYTES`], [`OPEN_BYTES`]); the oldest is closed
//! when another takes its place, and kept as [`keep`](super::keep) says, or given back. What was
//! not looked at before it was closed is looked at when it is opened again: between a look and the closing another
//! thread could write. `trim`, and memory running out, give all of them back.
//!
//! A forked child gives its parent's open runs up like all that it inherits of free memory: they stay as they are, zero
//! and never used.

// UNSAFETY: changes access to pages that no block uses.
#![expect(unsafe_code, reason = "acts on runs that the calling thread has taken")]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "offsets in a range of at most 2^38 bytes; pages of an extent of at most OPEN_EXTENT_BYTES"
)]

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::place::Place;
use super::{Run, subtract};
use crate::heap::geometry::{GRANULE_BYTES, GUARD_BYTES};
use crate::heap::parked::Parked;
use crate::heap::shared::{Shared, pages};
use crate::{Backing, Error, Fork, Lock, Seal};

/// The longest extent that stays open: some 1 MiB. From there on wiping goes around the caches, and to read the zeros from
/// memory takes as long as the calls (at 480 KB they take 34 us of 71).
const OPEN_EXTENT_BYTES: usize = Parked::MOST_PAGES * GUARD_BYTES;
/// The most that a heap leaves open: extents, of which parts may be closed.
const OPEN_BYTES: usize = 4 << 20;

impl Shared {
    /// Whether the run of a freed block stays open.
    pub(super) fn stays_open(&self, run: Run, place: Place) -> bool {
        self.is_of_a_program()
            && place.data_end == run.data_end()
            && self.extent_bytes(run) <= OPEN_EXTENT_BYTES
    }

    /// Whether it is the heap of a whole program, and none that must keep every page locked, hidden or sealed.
    pub(super) fn is_of_a_program(&self) -> bool {
        self.policy.fork() == Fork::Inherit
            && self.policy.lock() != Lock::Required
            && self.policy.backing() != Backing::Hidden
            && self.policy.seal() == Seal::None
    }

    /// Leaves a run open whose block was wiped.
    pub(super) fn put_open(&self, run: Run, place: Place) {
        let entry = self.entry(run.number);
        let pages = place.data_bytes() / GUARD_BYTES;
        let unchecked = entry.unchecked_pages.load(Ordering::Relaxed).max(pages as u16);
        entry.unchecked_pages.store(unchecked, Ordering::Relaxed);
        entry.is_kept.store(run.class as u8 + 1, Ordering::Relaxed);
        self.large.open_bytes.fetch_add(self.extent_bytes(run), Ordering::Relaxed);
        if let Some(oldest) = self.large.open.put(Parked { number: run.number, class: run.class, pages }) {
            self.shut(oldest, AndThen::Keep);
        }
        while self.large.open_bytes.load(Ordering::Relaxed) > OPEN_BYTES
            && let Some(oldest) = self.large.open.take_oldest()
        {
            self.shut(oldest, AndThen::Keep);
        }
    }

    /// Allocates in an open run, if there is one of this class.
    pub(super) fn reuse_open(&self, class: usize, layout: Layout) -> Option<NonNull<u8>> {
        let padded = layout.size().max(1).checked_next_multiple_of(layout.align().max(GRANULE_BYTES))?;
        let parked = self.large.open.take(class, padded.div_ceil(GUARD_BYTES))?;
        let run = self.unpark(parked)?;
        let opened = self.open_block(run, layout, parked.pages * GUARD_BYTES);
        if opened.is_err() {
            self.close_run(run);
            self.give_run(run);
        }
        opened.ok()
    }

    /// Gives the pages of every open run back. Tells whether there were any.
    pub(super) fn drop_open(&self) -> bool {
        let mut any = false;
        while let Some(parked) = self.large.open.take_oldest() {
            self.shut(parked, AndThen::GiveBack);
            any = true;
        }
        any
    }

    /// Makes the data pages of a block the accessible ones of a run, where `open_bytes` at its end are. On an error
    /// none are any more.
    pub(super) fn grant(&self, place: Place, open_bytes: usize) -> Result<(), Error> {
        let open_start = place.data_end - open_bytes;
        let zone = self.geometry.slab_bytes;
        let granted = if place.data_start < open_start {
            self.memory.commit(pages(zone + place.data_start)?, pages(open_start - place.data_start)?)
        } else if place.data_start > open_start {
            // SAFETY: no block is in the run.
            unsafe { self.memory.decommit(pages(zone + open_start)?, pages(place.data_start - open_start)?) }
        } else {
            Ok(())
        };
        if granted.is_err() && open_bytes > 0 {
            // SAFETY: as above.
            let _ = unsafe { self.memory.decommit(pages(zone + open_start)?, pages(open_bytes)?) };
        }
        granted
    }

    /// The run that the caller took, not counted as open any more.
    fn unpark(&self, parked: Parked) -> Option<Run> {
        let run = Run::of(parked.number, parked.class)?;
        self.entry(run.number).is_kept.store(0, Ordering::Relaxed);
        subtract(&self.large.open_bytes, self.extent_bytes(run));
        Some(run)
    }

    /// Closes an open run that the caller took.
    fn shut(&self, parked: Parked, then: AndThen) {
        let Some(run) = self.unpark(parked) else { return };
        let bytes = parked.pages * GUARD_BYTES;
        let start = self.geometry.slab_bytes + run.data_end() - bytes;
        let is_closed = match (pages(start), pages(bytes)) {
            // SAFETY: no block is in the run.
            (Ok(offset), Ok(len)) => unsafe { self.memory.decommit(offset, len) }.is_ok(),
            _ => false,
        };
        if then == AndThen::Keep && is_closed && self.has_room_to_keep(run) {
            self.put_kept(run);
        } else {
            self.close_run(run);
            self.give_run(run);
        }
    }
}

/// What becomes of the pages of a run that is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AndThen {
    Keep,
    GiveBack,
}

#[cfg(all(test, target_os = "linux", not(any(miri, loom, oubliette_portable))))]
mod tests;
