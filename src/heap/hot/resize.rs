//! A block that changes its size and stays where it is.

// UNSAFETY: writes to slots by address.
#![expect(unsafe_code, reason = "blocks are raw memory, see the proofs")]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "offsets and sizes inside one slab (below 2^16)"
)]

use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use crate::heap::canary::marker;
use crate::heap::class::CLASSES;
use crate::heap::corruption::Corruption;
use crate::heap::shadow;
use crate::heap::thread::{Keeper, ThreadHeap};
use crate::{Flush, wipe};

impl ThreadHeap {
    /// Changes the size of a block inside its slot: what is cut off is wiped. Tells whether it did; a block
    /// of another thread heap is moved instead, if its slab is not common. Ends the process if the block is not in order.
    ///
    /// # Safety
    /// - The calling thread holds this thread heap.
    /// - A live block of this heap starts at `ptr`, of `old` bytes; when it shrinks, nobody uses what is cut
    ///   off. `new` fits in slots of `class`.
    pub(crate) unsafe fn resize(
        &self,
        ptr: NonNull<u8>,
        class: usize,
        old: usize,
        new: usize,
        flush: Flush,
    ) -> bool {
        let Some(granule) = self.granule_of(ptr.as_ptr()) else { return false };
        let tables = self.tables.get();
        let owner_class = tables.header(granule.unit()).owner_class.load(Ordering::Relaxed);
        let keeper = Self::keeper_at(self.offset_at(granule));
        let is_at_home = owner_class >> 8 == self.id.get() || keeper == Keeper::Freer;
        if owner_class & 0xff != class as u32 || !is_at_home {
            return false;
        }
        let live = tables.shadow(granule).load(Ordering::Relaxed);
        let (true, Some(shape)) = (shadow::is_live(live), CLASSES.get(class)) else {
            // The slow path of free will find out.
            return false;
        };
        let usable = shape.usable_bytes();
        let found =
            shadow::size_of(usable, live).unwrap_or_else(|| usable.wrapping_sub(self.long_slack(granule)));
        // SAFETY: a live block starts here, so a slot of its class does.
        if unsafe { self.check(granule, shape, found, Some(old)) }.is_err() {
            return false;
        }
        // What is cut off goes, or what the block grows by, and the old marker in any case. The canary stays.
        let from = old.min(new);
        let to = (old.max(new) + size_of_val(&marker(0))).min(usable);
        // SAFETY: inside the slot.
        let cut = unsafe { ptr.add(from) };
        let cut_bytes = to - from;
        // SAFETY: nobody uses what is cut off, and slack belongs to the heap.
        unsafe { wipe::zero(cut, cut_bytes) };
        if new < old {
            if flush == Flush::Immediate {
                // SAFETY: as above.
                unsafe { wipe::zero_and_flush(cut, cut_bytes) };
            }
            if flush == Flush::Bounded {
                if owner_class >> 8 != self.id.get() {
                    self.note_lines(granule.unit());
                }
                self.remember_range(granule.offset() + new, old - new);
            }
        }
        // SAFETY: four bytes behind the block, of which eight are in the slot; slack belongs to the heap, and four
        // bytes of the canary are the marker.
        unsafe { wipe::store_marker(ptr, new, marker(self.key.get())) };
        // Slots of one class have either form of slack; the long form's bytes stay inside the slot.
        let state = self.state_for(granule, usable, new);
        if keeper == Keeper::Owner {
            tables.shadow(granule).store(state, Ordering::Relaxed);
        } else if tables.shadow(granule).swap(state, Ordering::AcqRel) != live {
            // Freed meanwhile, by a thread that has it at hand now.
            Corruption::DoubleFree.abort();
        }
        true
    }
}
