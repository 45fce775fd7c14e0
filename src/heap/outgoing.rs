//! Blocks of other threads that this thread frees: kept at hand, or sent home.
//!
//! Such a block is checked, wiped and marked at once. What becomes of its slot:
//!
//! | slab | the slot |
//! |---|---|
//! | of a heap of secrets; or any whose owner alone has freed its blocks so far | goes home |
//! | *common*: the owner found that many of its blocks are freed elsewhere | goes into the stash of this thread, which allocates from it; home, if that is full |
//!
//! (`hot::common` is the short way of the last.) A slot goes home in a batch, since its bit in the slab's remote bitmap
//! lies on a cache line that the owner and other threads write to as well. So a thread keeps the bits of the last few
//! words that it freed blocks of, and sends a word when another takes its place, or all of them when [`MOST_BLOCKS`] or
//! [`MOST_BYTES`] wait, when it runs out of free slots of its own, writes its pending lines back, trims, or ends.
//!
//! ```text
//! place in the table: number of the word modulo 16
//! entry             | word: granule / 64 | bits: the blocks of it |
//! ```
//! **Bound.** Fewer than [`MOST_BLOCKS`] blocks and [`MOST_BYTES`] wait in each thread when a free returns: zero, and not
//! yet free for their owner, in at most 16 slabs, which cannot be given back meanwhile: 1 MiB of locked memory where every
//! page must be locked. Slots at hand keep slabs as well, as many as a stash has places (`bin`), whosever they are.
//!
//! **Of two threads that free a block at once one is told.** The block of a common slab is freed by one exchange of its
//! state, by its owner too, whose fast paths do not take it for their own ([`Place`]). Other blocks their owner frees
//! without one, so it tells when they come home ([`Local::collect_mail`]). A slab becomes common between two frees of its
//! owner, and who finds it common sees what the owner freed of it before. It stays common until it is given back: the price
//! is that exchange at each free of its owner's.
//!
//! The other design, which this one had at first, sends every slot home. In a ring of threads, each of which frees what
//! the one before it allocated (`benches/peers`, "hand over"), it took 1.86 times the time of the C library's malloc, flush
//! off, this one 1.24: there every slot made two trips between the caches of two processors, one to be wiped and one to be
//! checked, and most of all in batches that the owner had to wait for. A message queue a pair of threads, as in snmalloc,
//! whose messages are the freed blocks themselves, is out of the question: nothing may be written to a freed block.

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

use super::bin::Bin;
use super::hot::{ALWAYS_CHECKED_BYTES, ANY_SIZE, Freed};
use super::inbox::Mail;
use super::shadow;
use super::slab::Local;
use super::tables::{Granule, Unit};
use super::thread::{Keeper, Place, ThreadHeap};
use crate::Flush;

/// Most blocks that wait.
pub(crate) const MOST_BLOCKS: u32 = 64;
/// Most bytes of their slots.
const MOST_BYTES: usize = 64 << 10;
/// Words whose bits are kept.
const ENTRIES: usize = 16;

/// The blocks that wait. All zero for none.
pub(crate) struct Outgoing {
    nr_blocks: Cell<u32>,
    nr_bytes: Cell<usize>,
    words: [Cell<u32>; ENTRIES],
    bits: [Cell<u64>; ENTRIES],
}

impl Outgoing {
    /// Adds a block. Gives a word that lost its place to it, and its bits; 0 for none.
    #[inline]
    fn add(&self, granule: Granule, slot_bytes: usize) -> (u32, u64) {
        let word = granule.number() / 64;
        let mask = 1_u64 << (granule.number() % 64);
        let place = word as usize % ENTRIES;
        self.nr_blocks.set(self.nr_blocks.get() + 1);
        self.nr_bytes.set(self.nr_bytes.get() + slot_bytes);
        if self.words[place].get() == word {
            self.bits[place].set(self.bits[place].get() | mask);
            return (0, 0);
        }
        (self.words[place].replace(word), self.bits[place].replace(mask))
    }

    /// Adds a block. If any must be sent home now: a word that lost its place to it, and its bits, or 0, or all if it is
    /// full.
    #[inline(always)]
    pub(crate) fn post(&self, granule: Granule, slot_bytes: usize) -> Option<(u32, u64)> {
        let (word, bits) = self.add(granule, slot_bytes);
        (word != 0 || self.is_full()).then_some((word, bits))
    }

    /// Whether all must be sent now.
    #[inline(always)]
    fn is_full(&self) -> bool {
        self.nr_blocks.get() >= MOST_BLOCKS || self.nr_bytes.get() >= MOST_BYTES
    }

    /// Hands out every word and its bits.
    fn empty(&self, mut give: impl FnMut(u32, u64)) {
        self.nr_blocks.set(0);
        self.nr_bytes.set(0);
        for (word, bits) in self.words.iter().zip(&self.bits) {
            let word = word.replace(0);
            if word != 0 {
                give(word, bits.replace(0));
            }
        }
    }
}

impl Local<'_> {
    /// Frees a block that this thread heap may not just take, if it is in order: checked, wiped, flushed as `flush`
    /// says, and kept at hand or put with those that wait. [`Freed::NotDone`] for any other, with nothing done.
    ///
    /// # Safety
    /// - `granule` is at `ptr`. If a live block starts there, nobody uses it any more.
    #[inline(always)]
    pub(crate) unsafe fn free_remote(
        self,
        ptr: NonNull<u8>,
        granule: Granule,
        size: usize,
        flush: Flush,
    ) -> Freed {
        let (shared, heap) = (self.shared(), self.heap());
        let Some(place) = shared.home_of(granule) else { return Freed::NotDone };
        if shared.is_inherited(granule.unit()) {
            return Freed::NotDone;
        }
        // SAFETY: a home says where the bin of its class lies in any thread heap.
        let bin = unsafe { heap.bin_at(place.bin_offset) };
        let live = shared.tables.shadow(granule).load(Ordering::Relaxed);
        let usable = bin.usable_bytes();
        let found = match shadow::size_of(usable, live) {
            Some(found) => found,
            None => usable.wrapping_sub(heap.long_slack(granule)),
        };
        if found > usable || (size != found && size != ANY_SIZE) {
            return Freed::NotDone;
        }
        // SAFETY: a live block of this heap starts here, so a slot of its class does.
        if !unsafe { heap.is_intact(ptr, granule, bin.slot_bytes(), || bin.canary_step(), found) } {
            return Freed::NotDone;
        }
        // SAFETY: as checked, and nobody uses it any more, as the caller promises.
        unsafe { self.claim(granule, live, place, bin, flush) }
    }

    /// Frees a block that was found in order, unless another thread was faster, or it is to be kept at hand where there
    /// is no room: [`Freed::NotDone`], with nothing done.
    ///
    /// # Safety
    /// - `live` was the state of the block at `granule`, whose home is `place` and whose class that of `bin`. It is in
    ///   order, and nobody uses it any more.
    #[inline(always)]
    pub(crate) unsafe fn claim(
        self,
        granule: Granule,
        live: u8,
        place: Place,
        bin: &Bin,
        flush: Flush,
    ) -> Freed {
        let (shared, heap) = (self.shared(), self.heap());
        let state = shared.tables.shadow(granule);
        let is_kept = place.keeper == Keeper::Freer && !bin.is_full();
        if !is_kept && place.index as u32 + 1 == heap.id.get() {
            return Freed::NotDone;
        }
        // Of two threads that free the block at once, one finds it gone, and leaves it as the other made it. AcqRel:
        // nobody sees it wiped before.
        let freed = if is_kept { shadow::FREED } else { shadow::REMOTE };
        if state.compare_exchange(live, freed, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return Freed::NotDone;
        }
        if flush == Flush::Bounded {
            heap.note_lines(granule.unit());
        }
        let slot_bytes = bin.slot_bytes();
        let freed = if slot_bytes <= ALWAYS_CHECKED_BYTES {
            // SAFETY: nobody uses the block any more, as the caller promises; not more than `ALWAYS_CHECKED_BYTES`.
            unsafe { heap.wipe_checked_slot(granule, slot_bytes, flush) }
        } else {
            // SAFETY: as above.
            unsafe { heap.wipe_slot(granule, slot_bytes, flush) }
        };
        if is_kept {
            // There is room, as seen above.
            let _ = bin.push(granule.number());
        } else {
            self.post(granule, slot_bytes);
        }
        freed
    }

    /// Sends free slots home: bits of one word of the bitmap of a slab that another thread heap owns.
    #[cold]
    pub(crate) fn return_bits(self, class: usize, first: Granule, mut bits: u64) {
        let slot_bytes = self.heap().bin(class).slot_bytes();
        while bits != 0 {
            let granule = first.within_unit(bits.trailing_zeros());
            bits &= bits - 1;
            self.shared().tables.shadow(granule).store(shadow::REMOTE, Ordering::Relaxed);
            self.post(granule, slot_bytes);
        }
    }

    /// Puts a wiped slot with those that wait.
    #[inline(always)]
    fn post(self, granule: Granule, slot_bytes: usize) {
        if let Some((word, bits)) = self.heap().outgoing.post(granule, slot_bytes) {
            self.send_some(word, bits);
        }
    }

    /// Sends home what [`Outgoing::post`] asked for.
    pub(crate) fn send_some(self, word: u32, bits: u64) {
        if word != 0 {
            self.send(word, bits);
        }
        if self.heap().outgoing.is_full() {
            self.send_all();
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

impl ThreadHeap {
    /// Notes that the lines of a block in this unit, which another thread heap owns, are remembered here and not
    /// where the slab is given back. Before the block goes anywhere.
    pub(crate) fn note_lines(&self, unit: Unit) {
        let tables = self.tables.get();
        let note = &tables.remote(unit).lines_elsewhere;
        // Looked at first: it is set nearly always.
        if note.load(Ordering::Relaxed) == 0 {
            note.store(1, Ordering::Relaxed);
        }
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
            nr_bytes: Cell::new(0),
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
        let mut waiting_bytes = 0;
        for i in 0..10_000 {
            let number = 64 + rng.below(64 * 100);
            // Small ones for a while, then large ones.
            let slot_bytes = if i / 1000 % 2 == 0 { 48 } else { 1 + rng.below(30_688) as usize };
            if !waiting.insert(number) {
                continue;
            }
            // SAFETY: it indexes no table here.
            let (word, bits) = outgoing.add(unsafe { Granule::new(number) }, slot_bytes);
            waiting_bytes += slot_bytes;
            given(&mut waiting, word, bits);
            if outgoing.is_full() {
                outgoing.empty(|word, bits| given(&mut waiting, word, bits));
                waiting_bytes = 0;
                assert!(waiting.is_empty(), "forgotten: {waiting:?}");
            }
            let is_in_bounds = waiting.len() < MOST_BLOCKS as usize && waiting_bytes < MOST_BYTES;
            assert!(is_in_bounds, "{} blocks, {waiting_bytes} bytes", waiting.len());
        }
    }
}
