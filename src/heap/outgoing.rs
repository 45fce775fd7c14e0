//! Blocks of other threads that this thread freed, before they are sent home.
//!
//! Such a block is wiped and marked at once, but its bit in the slab's remote bitmap lies on a cache line that the
//! owner and other threads write to as well. So a thread keeps the bits of the last few words that it freed blocks of,
//! and sends a word when another takes its place, or all of them when [`MOST_BLOCKS`] wait, when it runs out of free
//! slots of its own, writes its pending lines back, trims, or ends.
//!
//! ```text
//! place in the table: number of the word modulo 16
//! entry             | word: granule / 64 | bits: the blocks of it |
//! ```
//! **Bound.** At most [`MOST_BLOCKS`] blocks of up to [`ALWAYS_CHECKED_BYTES`] wait in each thread: 66,560 bytes that
//! are zero and not yet free for their owner, in at most 16 slabs, which cannot be given back meanwhile: 1 MiB of
//! locked memory where every page must be locked. Larger blocks are sent at once.
//!
//! The other design was a message queue a pair of threads, as in snmalloc, whose messages are the freed blocks
//! themselves. Here nothing may be written to a freed block.

// UNSAFETY: forwards the addresses of blocks that nobody uses to the functions that check and wipe them.
#![expect(unsafe_code, reason = "blocks are raw memory, see the proofs")]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    reason = "words are numbered below 2^26; places are masked by the length of the table; counts below 2^16"
)]

use core::cell::Cell;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::class::CLASSES;
use super::hot::{ALWAYS_CHECKED_BYTES, ANY_SIZE, Freed};
use super::inbox::Mail;
use super::shadow;
use super::slab::Local;
use super::tables::{Granule, Unit};
use crate::Flush;

/// Most blocks that wait.
pub(crate) const MOST_BLOCKS: u32 = 64;
/// Words whose bits are kept.
const ENTRIES: usize = 16;

/// The blocks that wait. All zero for none.
pub(crate) struct Outgoing {
    nr_blocks: Cell<u32>,
    words: [Cell<u32>; ENTRIES],
    bits: [Cell<u64>; ENTRIES],
}

impl Outgoing {
    /// Adds a block. Gives a word that lost its place to it, and its bits; 0 for none.
    #[inline]
    fn add(&self, granule: Granule) -> (u32, u64) {
        let word = granule.number() / 64;
        let mask = 1_u64 << (granule.number() % 64);
        let place = word as usize % ENTRIES;
        self.nr_blocks.set(self.nr_blocks.get() + 1);
        if self.words[place].get() == word {
            self.bits[place].set(self.bits[place].get() | mask);
            return (0, 0);
        }
        (self.words[place].replace(word), self.bits[place].replace(mask))
    }

    /// Hands out every word and its bits.
    fn empty(&self, mut give: impl FnMut(u32, u64)) {
        self.nr_blocks.set(0);
        for (word, bits) in self.words.iter().zip(&self.bits) {
            let word = word.replace(0);
            if word != 0 {
                give(word, bits.replace(0));
            }
        }
    }
}

impl Local<'_> {
    /// Frees a block of up to [`ALWAYS_CHECKED_BYTES`] of another thread heap, if it is in order: checked, wiped,
    /// flushed as `flush` says, and put with those that wait. [`Freed::NotDone`] for any other, with nothing done.
    ///
    /// # Safety
    /// - `granule` is at `ptr`. If a live block starts there, nobody uses it any more.
    pub(crate) unsafe fn free_remote(
        self,
        ptr: NonNull<u8>,
        granule: Granule,
        size: usize,
        flush: Flush,
    ) -> Freed {
        let (shared, heap) = (self.shared(), self.heap());
        let Some(shape) = shared.home_of(granule).and_then(|(_, class)| CLASSES.get(class)) else {
            return Freed::NotDone;
        };
        let slot_bytes = shape.slot_bytes as usize;
        if slot_bytes > ALWAYS_CHECKED_BYTES || shared.is_inherited(granule.unit()) {
            return Freed::NotDone;
        }
        let state = shared.tables.shadow(granule);
        let live = state.load(Ordering::Relaxed);
        let usable = shape.usable_bytes();
        let found = match shadow::size_of(usable, live) {
            Some(found) => found,
            // The slow path knows the long form.
            None => return Freed::NotDone,
        };
        if found > usable || (size != found && size != ANY_SIZE) {
            return Freed::NotDone;
        }
        // SAFETY: a live block of another thread heap starts here, so a slot of its class does.
        if !unsafe { heap.is_intact(ptr, slot_bytes, found) } {
            return Freed::NotDone;
        }
        // Of two threads that free the block at once, one finds it gone. AcqRel: nobody sees it wiped before.
        if state.swap(shadow::REMOTE, Ordering::AcqRel) != live {
            return Freed::NotDone;
        }
        // SAFETY: nobody uses the block any more, as the caller promises; not more than `ALWAYS_CHECKED_BYTES`.
        let freed = unsafe { heap.wipe_short_slot(granule, slot_bytes, flush) };
        if flush == Flush::Bounded {
            self.note_lines(granule.unit());
        }
        let (word, bits) = heap.outgoing.add(granule);
        if word != 0 {
            self.send(word, bits);
        }
        if heap.outgoing.nr_blocks.get() >= MOST_BLOCKS {
            self.send_all();
        }
        freed
    }

    /// Notes that the lines of a block in this unit, which another thread heap owns, are remembered here and not
    /// where the slab is given back. Before the block is sent home.
    pub(crate) fn note_lines(self, unit: Unit) {
        let note = &self.shared().tables.remote(unit).lines_elsewhere;
        // Looked at first: it is set nearly always.
        if note.load(Ordering::Relaxed) == 0 {
            note.store(1, Ordering::Relaxed);
        }
    }

    /// Sends all blocks home that wait.
    pub(crate) fn send_all(self) {
        if self.heap().outgoing.nr_blocks.get() != 0 {
            self.heap().outgoing.empty(|word, bits| self.send(word, bits));
        }
    }

    #[inline(never)]
    fn send(self, word: u32, bits: u64) {
        // SAFETY: the number of a granule in a slab of this heap, whose block this thread has freed.
        let granule = unsafe { Granule::new(word * 64) };
        let (word, _) = granule.bit();
        self.shared().send_home(granule.unit().number(), word, bits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_block_is_given_once() {
        let outgoing = Outgoing {
            nr_blocks: Cell::new(0),
            words: [const { Cell::new(0) }; ENTRIES],
            bits: [const { Cell::new(0) }; ENTRIES],
        };
        let mut rng = crate::heap::rng::Rng::new(3);
        let mut waiting = BTreeSet::new();
        let given = |waiting: &mut BTreeSet<u32>, word: u32, bits: u64| {
            for bit in (0..64).filter(|bit| bits & 1 << bit != 0) {
                assert!(waiting.remove(&(word * 64 + bit)), "given without waiting");
            }
        };
        for _ in 0..10_000 {
            let number = 64 + rng.below(64 * 100);
            if !waiting.insert(number) {
                continue;
            }
            // SAFETY: it indexes no table here.
            let (word, bits) = outgoing.add(unsafe { Granule::new(number) });
            given(&mut waiting, word, bits);
            if outgoing.nr_blocks.get() >= MOST_BLOCKS {
                outgoing.empty(|word, bits| given(&mut waiting, word, bits));
                assert!(waiting.is_empty(), "forgotten: {waiting:?}");
            }
            assert!(waiting.len() < MOST_BLOCKS as usize, "the bound does not hold");
        }
    }
}
