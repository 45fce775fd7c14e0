//! What is done to whole heaps: write back, purge.

// UNSAFETY: wipes memory that is in use, on purpose.
#![expect(unsafe_code, reason = "purge overwrites live secrets by address")]
#![expect(clippy::as_conversions, reason = "u32 to usize widens; numbers of granules are below 2^32")]

use core::sync::atomic::{AtomicU64, Ordering};

use super::canary::{canary, marker, step};
use super::class::{CANARY_BYTES, Class};
use super::facade::HEAPS;
use super::shared::Shared;
use super::tables::Granule;
use super::threads;
use crate::keys::AllRights;
use crate::{Fork, wipe};

/// Writes back every freed line that any thread remembers, and waits for it.
pub(crate) fn flush_all() {
    let _rights = AllRights::new();
    for heap in HEAPS {
        if let Some(shared) = heap.shared() {
            shared.notice_fork();
            shared.visit_pending(|pending| pending.visit(|line| shared.write_back_line(line)));
        }
    }
    wipe::fence();
}

/// Wipes every block of every heap that holds secrets only. Takes no lock and allocates nothing: safe in a
/// signal handler, also one that interrupted this heap.
///
/// The heap of a whole program is left alone: with its own memory gone it could not even end in order. But what it
/// freed is written back.
pub(crate) fn purge_all() {
    // A signal handler has none, whatever the thread had that it interrupted.
    let _rights = AllRights::new();
    for heap in HEAPS {
        let Some(shared) = heap.shared() else { continue };
        if heap.policy().fork() != Fork::Inherit {
            shared.purge();
        } else if shared.is_in_use_here() {
            shared.visit_pending(|pending| pending.visit(|line| shared.write_back_line(line)));
        }
    }
    super::isolated::purge();
    crate::pages::purge_runs();
    wipe::fence();
}

/// Gives back what the calling thread, and threads that have ended, hold of every heap without using it.
pub(crate) fn trim_all() {
    let _rights = AllRights::new();
    for (index, heap) in HEAPS.iter().enumerate() {
        if let Some(shared) = heap.shared() {
            shared.notice_fork();
            // Without a thread heap there is nothing at hand to give back.
            if threads::holds(index) {
                let _ = threads::with_local(index, shared, |local| {
                    local.heap().empty_kept.set(0);
                    local.trim(0)
                });
            }
            shared.scavenge();
            shared.drop_warm();
            shared.drop_kept();
        }
    }
    super::isolated::trim();
}

impl Shared {
    fn write_back_line(&self, line: u32) {
        let offset = (line as usize) << super::pending::LINE_SHIFT;
        if offset < self.known_bytes() {
            // SAFETY: below `known_bytes`, so in the memory range.
            let ptr = unsafe { self.memory.base().add(offset) };
            // SAFETY: a remembered line lies in a slab, and slabs stay mapped and readable.
            unsafe { wipe::write_back_line(ptr) };
        }
    }

    fn purge(&self) {
        // A child that was forked and did not use the heap yet has nothing to wipe, and may not have the memory.
        // It is left at that: a signal handler cannot wait until the thread that it interrupted has noticed.
        if !self.is_in_use_here() {
            return;
        }
        // First, so that a block wiped under its owner's hands is not taken for a crime.
        self.counters.purges.fetch_add(1, Ordering::SeqCst);
        // Pairs with `release_unit`, which gives a slab up and then looks here: either we see that it is no slab any
        // more, or its pages stay as they are until we are done (both sides SeqCst).
        self.counters.purging.fetch_add(1, Ordering::SeqCst);
        for number in 1..self.units.watermark() {
            let Some(unit) = self.unit(number) else { continue };
            let header = self.tables.header(unit);
            // SeqCst: as above. It includes Acquire, which pairs with Release in `add_slab`.
            if header.owner_class.load(Ordering::SeqCst) == 0 || self.is_inherited(unit) {
                continue;
            }
            let (ptr, len) = self.payload(unit);
            // SAFETY: the slots of a slab: mapped, writable, and to be wiped whoever uses them.
            unsafe { wipe::zero_and_flush(ptr, len) };
        }
        self.purge_large(|ptr, data_bytes| {
            // SAFETY: the data pages of a block, as above.
            unsafe { wipe::zero_and_flush(ptr, data_bytes) };
        });
        self.counters.purging.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether every byte around a block is as it should be or zero: what a purge leaves of them, which may have
    /// come between any two steps of the thread that allocated the block, or the one before it, or now frees it.
    pub(crate) fn is_intact_or_wiped(&self, granule: Granule, shape: &Class, size: usize) -> bool {
        if size > shape.usable_bytes() {
            return false;
        }
        let at = |offset: usize| {
            // SAFETY: a granule lies in the memory range, and a slot of this class starts there.
            unsafe { self.memory.base().add(granule.offset().wrapping_add(offset)) }
        };
        // SAFETY: the last eight bytes of the slot, whose block nobody uses any more.
        let last: [u8; 8] = unsafe { at(shape.usable_bytes()).cast().read() };
        // SAFETY: four bytes behind the block, of which eight are in the slot.
        let behind: [u8; 4] = unsafe { at(size).cast().read() };
        // SAFETY: a slab's first slot lies at least 16 bytes behind its start (`Class::first_bytes_in`).
        let before = unsafe { at(0).sub(CANARY_BYTES) };
        // SAFETY: as above; the canary of the slot before, which others only write to atomically.
        let before = unsafe { before.cast::<AtomicU64>().as_ref() }.load(Ordering::Relaxed).to_le_bytes();
        let own = canary(self.key, granule.number());
        let is_left_of =
            |found: &[u8], expected: &[u8]| found.iter().zip(expected).all(|(f, e)| *f == 0 || f == e);
        is_left_of(&before, &own.wrapping_sub(step(shape.slot_bytes as usize)).to_le_bytes())
            && is_left_of(&last, &own.to_le_bytes())
            && is_left_of(&behind, &marker(self.key).to_le_bytes())
    }
}
