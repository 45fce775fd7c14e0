//! Which pages of a run hold anything: what is wiped when its block is freed, and looked at when it is used again.
//!
//! A page that was never touched is not in memory, and both wiping and reading would put it there: a block of a
//! megabyte of which four kilobytes are used must not take a megabyte. Where the pages are locked the kernel knows which
//! are in memory (`mincore(2)`), but it takes a microsecond to say so, as long as wiping six pages. So a run has a note:
//! how many pages at its end are known to be in memory, all of them. They stay there as long as the run keeps its pages,
//! and need no asking. What else a block has is asked for, unless it is little ([`FEW_PAGES`]) and the run was used
//! before: then it is wiped as if it had been touched, and so is known from then on.
//!
//! Pages that are not locked may be elsewhere, in swap, when they are not in memory. So all of them are wiped and read.

// UNSAFETY: overwrites and reads the pages of a block that the calling thread has claimed, or of a run that it took.
#![expect(unsafe_code, reason = "acts on a claimed block, or on a run that the calling thread has taken")]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "offsets in a range of at most 2^38 bytes; pages of a window below WINDOW_PAGES"
)]

use core::sync::atomic::Ordering;

use super::place::Place;
use super::{Corruption, Run, WINDOW_PAGES};
use crate::heap::geometry::GUARD_BYTES;
use crate::heap::shared::{Shared, pages};
use crate::os::LockState;
use crate::{Flush, wipe};

/// So many pages are wiped rather than asked for. Asking takes 1.1 us on Linux 6.18, wiping and flushing a page 0.16 us.
const FEW_PAGES: usize = 8;

impl Shared {
    /// Wipes the data pages of a block.
    ///
    /// # Safety
    /// - The data pages of `place`, in `run`, are usable, and nobody uses the block.
    pub(super) unsafe fn wipe_large(&self, run: Run, place: Place, flush: Flush) {
        let entry = self.entry(run.number);
        let ends_at_guard = place.data_end == run.data_end();
        let nr_pages = place.data_bytes() / GUARD_BYTES;
        let known = match entry.resident_pages.load(Ordering::Relaxed) {
            known if ends_at_guard => nr_pages.min(known.into()),
            _ => 0,
        };
        let was_asked = entry.was_asked.swap(1, Ordering::Relaxed) != 0;
        let unknown = nr_pages - known;
        let known_start = place.data_end - known * GUARD_BYTES;
        let mut at_end = 0;
        let is_locked = self.lock_state(run) == LockState::Locked;
        if !is_locked || was_asked && unknown <= FEW_PAGES {
            // SAFETY: forwarded.
            unsafe { self.wipe_part(place.data_start, place.data_bytes(), flush) };
            at_end = unknown;
        } else {
            self.visit_resident(place.data_start, known_start, |start, bytes| {
                // SAFETY: forwarded.
                unsafe { self.wipe_part(start, bytes, flush) };
                at_end = if start + bytes == known_start { bytes / GUARD_BYTES } else { 0 };
            });
            if known > 0 {
                // SAFETY: forwarded.
                unsafe { self.wipe_part(known_start, place.data_end - known_start, flush) };
            }
        }
        entry.note_fullness(is_locked && known + at_end == nr_pages);
        if ends_at_guard && at_end > 0 {
            let known = u16::try_from(known + at_end).unwrap_or(u16::MAX);
            entry.resident_pages.fetch_max(known, Ordering::Relaxed);
        }
    }

    /// # Safety
    /// - The pages are usable pages of a block that nobody uses.
    unsafe fn wipe_part(&self, start: usize, bytes: usize, flush: Flush) {
        let ptr = self.large_address(start);
        match flush {
            // SAFETY: forwarded.
            Flush::Off => unsafe { wipe::zero(ptr, bytes) },
            // Past the caches at once: the pages may not be mapped when a later write-back came.
            // SAFETY: forwarded.
            Flush::Immediate | Flush::Bounded => unsafe { wipe::zero_and_flush(ptr, bytes) },
        }
    }

    /// Ends the process if anybody wrote to the pages of `place`, which are usable, since the last block there was freed.
    /// What else of the run may have been written to is looked at when a longer block comes.
    pub(super) fn check_unchecked(&self, run: Run, place: Place) {
        let entry = self.entry(run.number);
        let unchecked = usize::from(entry.unchecked_pages.load(Ordering::Relaxed)) * GUARD_BYTES;
        let resident = usize::from(entry.resident_pages.load(Ordering::Relaxed)) * GUARD_BYTES;
        let (bytes, known) = match unchecked.min(place.data_bytes()) {
            0 => return,
            bytes if place.data_end == run.data_end() => (bytes, resident.min(bytes)),
            // Elsewhere in the run: its end was given back, or could not be.
            _ => (place.data_bytes(), 0),
        };
        let start = place.data_end - bytes;
        let known_start = place.data_end - known;
        let check = |start: usize, bytes: usize| {
            // SAFETY: usable pages of a run that this thread has taken.
            if !unsafe { wipe::is_zero(self.large_address(start), bytes) } {
                Corruption::WriteAfterFree.abort();
            }
        };
        check(known_start, known);
        match self.lock_state(run) {
            LockState::Locked => self.visit_resident(start, known_start, check),
            LockState::Unlocked => check(start, known_start - start),
        }
        if place.data_end - place.data_bytes().min(unchecked) == run.data_end() - unchecked {
            entry.unchecked_pages.store(0, Ordering::Relaxed);
        }
    }

    /// Hands the pages from `from` to `to` that are in memory to `see`, neighbours together: where they start, and their
    /// bytes. If the kernel does not tell, all of them.
    pub(super) fn visit_resident(&self, mut from: usize, to: usize, mut see: impl FnMut(usize, usize)) {
        // Neighbours that may go on in the next window.
        let mut row = from..from;
        while from < to {
            let window = (to - from).min(WINDOW_PAGES * GUARD_BYTES);
            let mut map = [1; WINDOW_PAGES];
            if let (Ok(offset), Ok(bytes)) = (pages(self.geometry.slab_bytes + from), pages(window)) {
                let _ = self.memory.resident(offset, bytes, &mut map);
            }
            for part in map[..window / GUARD_BYTES].chunk_by(|a, b| a & 1 == b & 1) {
                let end = from + part.len() * GUARD_BYTES;
                if part[0] & 1 != 0 {
                    row.end = end;
                } else {
                    if !row.is_empty() {
                        see(row.start, row.len());
                    }
                    row = end..end;
                }
                from = end;
            }
        }
        if !row.is_empty() {
            see(row.start, row.len());
        }
    }
}
