//! A slot whose block was freed: wiped, and its lines flushed or remembered.

// UNSAFETY: writes to slots by address.
#![expect(unsafe_code, reason = "blocks are raw memory, see the proofs")]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "offsets and sizes inside one range (below 2^38); numbers of lines are below 2^32"
)]

use core::ptr::NonNull;

use super::{ALWAYS_CHECKED_BYTES, Freed, Where};
use crate::heap::class::{CANARY_BYTES, SHORT_MAX_BYTES, SMALL_MAX_BYTES};
use crate::heap::geometry::GRANULE_BYTES;
use crate::heap::pending::LINE_SHIFT;
use crate::heap::tables::Granule;
use crate::heap::thread::ThreadHeap;
use crate::{Flush, wipe};

impl ThreadHeap {
    /// Wipes a slot as `flush` says.
    ///
    /// # Safety
    /// - A slot of this size starts at `granule`, and nobody uses its block.
    #[inline(never)]
    pub(crate) unsafe fn wipe_slot(&self, granule: Granule, slot_bytes: usize, flush: Flush) -> Freed {
        let ptr = self.address(granule);
        match flush {
            Flush::Immediate => {
                // SAFETY: the slot is mapped and not in use.
                unsafe { wipe::zero_and_flush(ptr, slot_bytes) };
                Freed::Done
            }
            Flush::Off => {
                // SAFETY: as above; a slot starts on a granule and is granules long.
                unsafe { wipe::zero_slot(ptr, slot_bytes) };
                Freed::Done
            }
            Flush::Bounded => {
                // SAFETY: as above.
                unsafe { wipe::zero_slot(ptr, slot_bytes) };
                self.remember_freed(granule, slot_bytes)
            }
        }
    }

    /// The same for a slot of up to [`ALWAYS_CHECKED_BYTES`].
    ///
    /// # Safety
    /// - As for `wipe_slot`; `slot_bytes` is not more than that.
    #[inline(always)]
    pub(crate) unsafe fn wipe_checked_slot(
        &self,
        granule: Granule,
        slot_bytes: usize,
        flush: Flush,
    ) -> Freed {
        debug_assert!(slot_bytes <= ALWAYS_CHECKED_BYTES, "a small or a mid slot");
        if flush == Flush::Immediate {
            // SAFETY: forwarded.
            return unsafe { self.wipe_slot(granule, slot_bytes, flush) };
        }
        let ptr = self.address(granule);
        if slot_bytes <= SMALL_MAX_BYTES + CANARY_BYTES {
            // SAFETY: the slot is mapped and not in use; 32 to 64 bytes from a granule on.
            unsafe { wipe::zero_small_slot(ptr, slot_bytes) };
        } else if slot_bytes <= SHORT_MAX_BYTES + CANARY_BYTES {
            // SAFETY: as above; more than that and 144 bytes at most.
            unsafe { wipe::zero_short_slot(ptr, slot_bytes) };
        } else {
            // SAFETY: as above; more than that and 1,040 bytes at most.
            unsafe { wipe::zero_mid_slot(ptr, slot_bytes) };
        }
        if flush == Flush::Bounded {
            match self.remember_mid_lines(granule.offset(), slot_bytes) {
                Freed::Unremembered => self.remember_freed(granule, slot_bytes),
                freed => freed,
            }
        } else {
            Freed::Done
        }
    }

    /// Remembers the lines of a small slot that was freed, if that is soon done.
    #[inline(always)]
    pub(super) fn remember_lines(&self, granule: Granule, len: usize) -> Freed {
        let line = granule.number() >> (LINE_SHIFT - GRANULE_BYTES.trailing_zeros());
        // Not more than this and the next, and most often their group is remembered already.
        if !self.pending.remember_one_again(line) {
            return Freed::Unremembered;
        }
        self.count_free(len)
    }

    /// The same for a slot of up to 144 bytes.
    #[inline(always)]
    pub(super) fn remember_short_lines(&self, granule: Granule, len: usize) -> Freed {
        let line = granule.number() >> (LINE_SHIFT - GRANULE_BYTES.trailing_zeros());
        // Three lines at most, since it begins with a granule; and two at least, so that no bit is that of a guard.
        if !self.pending.remember_three_again(line) {
            return Freed::Unremembered;
        }
        self.count_free(len)
    }

    /// The same for a slot of up to 1,040 bytes.
    #[inline(always)]
    pub(super) fn remember_mid_lines(&self, offset: usize, len: usize) -> Freed {
        let first = (offset >> LINE_SHIFT) as u32;
        let last = ((offset + len - 1) >> LINE_SHIFT) as u32;
        if !self.pending.remember_again(first, last) {
            return Freed::Unremembered;
        }
        self.count_free(len)
    }

    /// Remembers the lines of a slot that was freed.
    #[inline(never)]
    pub(crate) fn remember_freed(&self, granule: Granule, len: usize) -> Freed {
        self.remember_range(granule.offset(), len);
        self.count_free(len)
    }

    /// The same for the block at `ptr`, of this thread heap.
    pub(crate) fn remember_block(&self, ptr: NonNull<u8>) -> Freed {
        let Some((granule, Where::Small { offset } | Where::Else { offset })) = self.locate(ptr.as_ptr())
        else {
            return Freed::Done;
        };
        let Some(bin) = self.bin_of(offset) else { return Freed::Done };
        self.remember_freed(granule, bin.slot_bytes())
    }

    #[inline(always)]
    fn count_free(&self, len: usize) -> Freed {
        if self.pending.is_due(len) { Freed::DoneAndDue } else { Freed::Done }
    }

    /// Remembers the lines of a range, which is not empty.
    pub(super) fn remember_range(&self, offset: usize, len: usize) {
        let first = (offset >> LINE_SHIFT) as u32;
        let last = ((offset + len - 1) >> LINE_SHIFT) as u32;
        self.pending.remember(first, last, |line| self.write_back_line(line));
    }

    /// Starts to write back a line of the slab zone.
    #[inline(always)]
    pub(crate) fn write_back_line(&self, line: u32) {
        let ptr = self.base.get().wrapping_add((line as usize) << LINE_SHIFT);
        if let Some(ptr) = NonNull::new(ptr) {
            // SAFETY: a line of a slab (`Pending`), and slabs stay mapped and readable.
            unsafe { wipe::write_back_line(ptr) };
        }
    }
}
