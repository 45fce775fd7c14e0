//! What a thread heap knows of a block of its own by the address alone, and a block that changes its size and stays
//! where it is.

// UNSAFETY: writes to slots by address.
#![expect(unsafe_code, reason = "blocks are raw memory, see the proofs")]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "offsets and sizes inside one slab (below 2^16)"
)]

use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use crate::heap::bin::Bin;
use crate::heap::canary::marker;
use crate::heap::class::{self, CLASSES, MID_MAX_BYTES};
use crate::heap::corruption::Corruption;
use crate::heap::shadow;
use crate::heap::tables::Granule;
use crate::heap::thread::{BINS_BYTES, Keeper, Place, ThreadHeap};
use crate::{Flush, wipe};

/// A live block in a slab of this thread heap that is not common.
#[derive(Clone, Copy, Debug)]
struct Own {
    granule: Granule,
    /// Offset of its bin.
    offset: usize,
    /// Bytes: not more than its slot holds.
    size: usize,
}

/// What became of a block that was to have another size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Resized {
    /// It has it, and is where it was.
    InPlace,
    /// Nothing: it needs a slot of another class. It is in order, and of `old` bytes.
    Moves { old: usize },
    /// Nothing: it is not this thread heap's, or not in order.
    NotDone,
}

impl ThreadHeap {
    /// The live block at `ptr`, if this thread heap owns its slab, and that is not common; `long_slack` tells its slack
    /// where that is a long one.
    #[inline(always)]
    fn own_block(&self, ptr: *const u8, long_slack: impl FnOnce(Granule) -> Option<usize>) -> Option<Own> {
        let granule = self.granule_of(ptr)?;
        let offset = self.offset_at(granule);
        if offset >= BINS_BYTES {
            return None;
        }
        // SAFETY: the home of a slab is a bin, and this one is below the end of this thread heap's bins.
        let usable = unsafe { self.bin_at(offset) }.usable_bytes();
        let state = self.tables.get().shadow(granule).load(Ordering::Relaxed);
        let size = match shadow::size_of(usable, state) {
            Some(size) => size,
            None => usable.wrapping_sub(long_slack(granule)?),
        };
        // More than any slot holds for a state that is not live.
        (size <= usable).then_some(Own { granule, offset, size })
    }

    /// The size of the live block at `ptr`, if this thread heap owns it and its slack is a short one: without a call.
    #[inline(always)]
    pub(crate) fn size_of_own(&self, ptr: *const u8) -> Option<usize> {
        self.own_block(ptr, |_| None).map(|own| own.size)
    }

    /// Changes the size of a block if its class stays the same: what is cut off is wiped.
    ///
    /// # Safety
    /// - The calling thread holds this thread heap.
    /// - If a live block starts at `ptr` and shrinks, nobody uses what is cut off. (Any other pointer is survived.)
    #[inline]
    pub(crate) unsafe fn resize_own(&self, ptr: NonNull<u8>, new: usize, flush: Flush) -> Resized {
        let slack = |granule| Some(self.long_slack(granule));
        let Some(own) = self.own_block(ptr.as_ptr(), slack) else { return Resized::NotDone };
        // SAFETY: as in `own_block`.
        let bin = unsafe { self.bin_at(own.offset) };
        // SAFETY: a live block of that size starts here, so a slot of its class does.
        if !unsafe { self.is_intact(ptr, own.granule, bin.slot_bytes(), || bin.canary_step(), own.size) } {
            return Resized::NotDone;
        }
        if self.offset_for(new) != Some(own.offset) {
            return Resized::Moves { old: own.size };
        }
        let usable = bin.usable_bytes();
        // SAFETY: its own live block, in order; slots of its class hold the new size; the rest is forwarded.
        unsafe { self.change(ptr, own.granule, usable, [own.size, new], flush) };
        let state = self.state_for(own.granule, usable, new);
        self.tables.get().shadow(own.granule).store(state, Ordering::Relaxed);
        Resized::InPlace
    }

    /// The offset of the bin for `size` bytes, if slabs have such blocks.
    #[inline(always)]
    fn offset_for(&self, size: usize) -> Option<usize> {
        if size <= MID_MAX_BYTES {
            // SAFETY: just checked.
            return Some(self.bin_offset(unsafe { self.bin_for(size) }));
        }
        class::plain(size).map(|class| class * size_of::<Bin>())
    }

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
        let Some((Place { keeper, .. }, _)) = self.place_of(tables.home_of(granule).load(Ordering::Relaxed))
        else {
            return false;
        };
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
        if new < old && flush == Flush::Bounded && owner_class >> 8 != self.id.get() {
            self.note_lines(granule.unit());
        }
        // SAFETY: a live block of `old` bytes, in order; the rest is forwarded.
        unsafe { self.change(ptr, granule, usable, [old, new], flush) };
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

    /// Makes the bytes of a slot those of a block of another size: all but the state.
    ///
    /// # Safety
    /// - A live block of `old` bytes starts at `ptr` and `granule`, in a slot for up to `usable`; the thread may resize it.
    /// - `new` is not above `usable`. When the block shrinks, nobody uses what is cut off.
    #[inline(always)]
    unsafe fn change(
        &self,
        ptr: NonNull<u8>,
        granule: Granule,
        usable: usize,
        [old, new]: [usize; 2],
        flush: Flush,
    ) {
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
                self.remember_range(granule.offset() + new, old - new);
            }
        }
        // SAFETY: four bytes behind the block, of which eight are in the slot; slack belongs to the heap, and four
        // bytes of the canary are the marker.
        unsafe { wipe::store_marker(ptr, new, marker(self.key.get())) };
    }
}
