//! What is done to whole heaps: write back, purge.

// UNSAFETY: wipes memory that is in use, on purpose.
#![expect(unsafe_code, reason = "purge overwrites live secrets by address")]

use core::sync::atomic::Ordering;

use super::class::Class;
use super::facade::HEAPS;
use super::shared::Shared;
use super::tables::Granule;
use super::threads;
use crate::{Fork, wipe};

/// Writes back every freed line that any thread remembers, and waits for it.
pub(crate) fn flush_all() {
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
/// The heap of a whole program is left alone: with its own memory gone it could not even end in order.
pub(crate) fn purge_all() {
    for heap in HEAPS {
        if let Some(shared) = heap.shared()
            && heap.policy().fork() != Fork::Inherit
        {
            shared.purge();
        }
    }
    wipe::fence();
}

/// Gives back what the calling thread, and threads that have ended, hold of every heap without using it.
pub(crate) fn trim_all() {
    for (index, heap) in HEAPS.iter().enumerate() {
        if let Some(shared) = heap.shared() {
            shared.notice_fork();
            // Without a thread heap there is nothing at hand to give back.
            if !threads::held(index).is_null() {
                let _ = threads::with_local(index, shared, |local| local.trim(0));
            }
            shared.scavenge();
        }
    }
}

impl Shared {
    fn write_back_line(&self, line: u32) {
        #[expect(clippy::as_conversions, reason = "u32 to usize widens")]
        let offset = (line as usize) << super::pending::LINE_SHIFT;
        if offset < self.known_bytes() {
            // SAFETY: below `known_bytes`, so in the memory range.
            let ptr = unsafe { self.memory.base().add(offset) };
            // SAFETY: a remembered line lies in a slab, and slabs stay mapped and readable.
            unsafe { wipe::write_back_line(ptr) };
        }
    }

    fn purge(&self) {
        // A child that was just forked has nothing to wipe here, and must not touch what it may not have.
        self.notice_fork();
        // First, so that a block wiped under its owner's hands is not taken for a crime.
        self.counters.purges.fetch_add(1, Ordering::SeqCst);
        for number in 1..self.units.watermark() {
            let Some(unit) = self.unit(number) else { continue };
            let header = self.tables.header(unit);
            // Acquire pairs with Release in `add_slab`.
            if header.owner_class.load(Ordering::Acquire) == 0 || self.is_inherited(unit) {
                continue;
            }
            let (ptr, len) = self.payload(unit);
            // SAFETY: the slots of a slab: mapped, writable, and to be wiped whoever uses them.
            unsafe { wipe::zero_and_flush(ptr, len) };
        }
        self.visit_large(|ptr, data_bytes, _| {
            // SAFETY: the data pages of a live block, as above. If its owner frees it at this very moment,
            // it is wiped by that.
            unsafe { wipe::zero_and_flush(ptr, data_bytes) };
        });
    }

    /// Whether a slot is all zero: a block that `purge` wiped and nobody wrote to since.
    pub(crate) fn is_wiped(&self, granule: Granule, shape: &Class) -> bool {
        // SAFETY: a granule lies in the memory range.
        let ptr = unsafe { self.memory.base().add(granule.offset()) };
        #[expect(clippy::as_conversions, reason = "u32 to usize widens")]
        let canary_offset = shape.slot_bytes as usize;
        // The block may have been written to after the purge; its canary cannot be there again.
        // SAFETY: the last eight bytes of the slot.
        let last = unsafe { ptr.add(canary_offset.saturating_sub(super::class::CANARY_BYTES)) };
        // SAFETY: as above.
        unsafe { wipe::is_zero(last, super::class::CANARY_BYTES) }
    }
}
