//! How many mappings slots may cost: speed while there are few, room while there are many.
//!
//! To open a slot is to change the access of its window, and the kernel keeps one access for each mapping.
//! If the window is a mapping of its own, that is all it does (measured: as fast as `memsec::mprotect`).
//! If it is the middle of a larger one, opening splits that in three and sealing merges them again (about
//! half as much again), but at rest there is no end to the slots that fit in one mapping.
//!
//! * **Split** (even regimes): only windows are locked, not the guards between them. Mappings differ in
//!   that, so they are never merged, sealed or not. Two mappings a slot. It is also the thriftier one:
//!   locked guards count against `RLIMIT_MEMLOCK`.
//! * **Merged** (odd regimes): everything is locked, guards included. So all that is sealed is one mapping.
//!
//!   Where it is not the page table that seals (`Seal::ProtectionKey`, `Seal::None`), everything is accessible
//!   instead, but for the markers of the guards; so without markers such an arena is never merged.
//!
//! An arena is split until it holds [`SPLIT_MOST`] secrets, or the kernel refuses a mapping; one call of
//! `mlock2` over all of it then merges every mapping that is sealed (43 ms for 5,000). When it holds less
//! than [`SPLIT_LEAST`] again, each slot gets mappings of its own the next time that it is opened. Where a
//! limit of locked memory is in force arenas stay split: the guards would be charged. Windows of hidden memory
//! ([`Backing::Hidden`]) are files of their own, which the kernel never merges: such an arena stays split, too, and
//! ends at half as many secrets as the process may have mappings.

// UNSAFETY: locks and unlocks pages by address.
#![expect(unsafe_code, reason = "calls the os contract on pages of the arena")]
#![expect(clippy::arithmetic_side_effects, reason = "offsets within the arena's memory")]

use core::sync::atomic::Ordering;

use super::arena::Arena;
use super::record::Record;
use crate::pages::PageBytes;
use crate::{Backing, Seal, os};

/// Slots above which an arena is merged: 16,384 mappings of 65,530.
const SPLIT_MOST: usize = 8192;
/// Slots below which it is split again.
const SPLIT_LEAST: usize = 4096;

/// What is odd in a merged regime.
const MERGED: u32 = 1;

impl Arena {
    /// Whether everything sealed is to be one mapping.
    #[inline]
    pub(super) fn is_merged(&self) -> bool {
        // Relaxed: whoever sees an old regime does what cost less then; no protection depends on it.
        self.regime.load(Ordering::Relaxed) & MERGED != 0
    }

    /// After a slot was taken: merges once there are too many to give each its own mappings.
    #[inline]
    pub(super) fn note_more(&self, live: usize) {
        if live > SPLIT_MOST && !self.is_merged() && is_unlimited() && self.backing != Backing::Hidden {
            self.merge();
        }
    }

    /// After a slot was given back: splits once there are few enough.
    #[inline]
    pub(super) fn note_less(&self, live: usize) {
        if live < SPLIT_LEAST && self.is_merged() {
            let regime = self.regime.load(Ordering::Relaxed);
            if regime & MERGED != 0 {
                // Relaxed: as in `is_merged`. Another thread may have been faster.
                let (order, next) = (Ordering::Relaxed, regime.wrapping_add(1));
                let _ = self.regime.compare_exchange(regime, next, order, order);
            }
        }
    }

    /// Gives all that is sealed one mapping. Tells whether this may have made room.
    #[cold]
    pub(super) fn merge(&self) -> bool {
        let regime = self.regime.load(Ordering::Relaxed);
        let order = Ordering::Relaxed;
        let stays_open = self.seal != Seal::Pages;
        if regime & MERGED != 0
            || self.backing == Backing::Hidden
            || (stays_open && self.counters.guards_without_marker.load(Ordering::Relaxed) != 0)
            || self.regime.compare_exchange(regime, regime.wrapping_add(1), order, order).is_err()
        {
            return false;
        }
        if stays_open && self.memory.commit(PageBytes::ZERO, self.prepared_bytes()).is_err() {
            return false;
        }
        // Not by `Reservation::lock`, which takes every lock off after a failure: here live secrets are locked
        // already, whatever comes of this.
        // SAFETY: reserved, and never unmapped (`Arena` 1).
        unsafe { os::lock(self.memory.base(), self.prepared_bytes().get()) }.is_ok()
    }

    /// Gives a slot mappings of its own, if that is due: takes the lock off the pages around its window, which
    /// nobody can open.
    #[inline]
    pub(super) fn split(&self, number: u32, record: &Record) {
        let regime = self.regime.load(Ordering::Relaxed);
        if regime & MERGED == 0
            && record.regime.load(Ordering::Relaxed) != regime
            && self.backing != Backing::Hidden
        {
            self.split_slow(number, record, regime);
        }
    }

    #[cold]
    fn split_slow(&self, number: u32, record: &Record, regime: u32) {
        let (first, pages) = record.window_pages();
        let data = self.data_offset(number);
        let window = data + first * self.page_bytes;
        let window_end = window + pages * self.page_bytes;
        // From the guard in front to the window, and from the window to the end of the guard behind.
        let before = data - self.page_bytes..window;
        let behind = window_end..data + self.data_bytes + self.page_bytes;
        for range in [before, behind] {
            // SAFETY: within the memory of the arena, since guards lie on both sides of every slot.
            let start = unsafe { self.memory.base().add(range.start) };
            // After a failure opening costs what it costs while merged.
            // SAFETY: reserved, never unmapped, and no part of a window.
            let _ = unsafe { os::unlock(start, range.len()) };
        }
        record.regime.store(regime, Ordering::Relaxed);
    }
}

/// Whether guards may be locked without being charged.
fn is_unlimited() -> bool {
    os::memlock_limit().soft.is_none() || os::may_exceed_memlock_limit()
}
