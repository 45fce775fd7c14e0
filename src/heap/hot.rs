//! The hot paths: a block of a slab, allocated and freed by the thread that owns the slab.
//!
//! No lock, no system call, no atomic read-modify-write. An allocation reads the thread heap and the slot and
//! writes one shadow byte; a free reads the home of the slab besides.
//!
//! ```text
//! slot      | block            |m| slack        | canary |
//!           ^ granule          ^ size           ^ slot - 8
//! m: the marker, the first four bytes behind the block; with less slack it reaches into the canary, whose first
//! four bytes are the same (`canary`)
//! before it: eight bytes that are zero (free slot, start of the slab) or the canary of the slot before
//! ```
//!
//! Four ways, by size, since what most of them need not ask should not be asked:
//!
//! | blocks | slots | way |
//! |---|---|---|
//! | small, up to 56 bytes | 32 to 64 bytes | inlined into the caller; check and wipe are four loads and four stores |
//! | short, up to 136 bytes | 80 to 144 bytes | out of line, without a call; nine loads and nine stores |
//! | mid, up to 1,032 bytes | 176 to 1,040 bytes | the same; as many of each as the longest slots need |
//! | larger, or aligned to more than 16 bytes | | out of line; slots that were never used are not checked |
//!
//! A call on any way to an end would make the compiler save registers on all of them. So whatever is out of line is
//! the last thing done, a jump; and what cannot be done at once is told by [`Freed`], with nothing done, for the
//! slow path to do all over. Two designs were measured by their instructions. The one before this one looked the
//! class up by the size at each free, kept the shape of a class in a constant table and freed slots in a quarantine
//! beside the stash: 221 for allocating and freeing 32 bytes of a layout that the compiler does not know. This one takes
//! 95, six of them for the caller's loop and calls (`ci/instructions`): a free finds its bin, and with it its class and its
//! owner, by one load ([`Home`](super::tables::Home)); the bin holds the shape; and the stash is the quarantine.

// UNSAFETY: reads and writes slots by address.
#![expect(unsafe_code, reason = "blocks are raw memory, see the proofs")]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "offsets and sizes inside one slab (below 2^16) or one range (below 2^38)"
)]

pub(crate) mod common;
mod resize;
mod way;
mod wiping;

pub(crate) use resize::Resized;

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use super::bin::{Bin, Order};
use super::canary::{canary, marker, step};
use super::class::{CANARY_BYTES, Class, MID_MAX_BYTES, SMALL_MAX_BYTES};
use super::corruption::Corruption;
use super::geometry::GRANULE_BYTES;
use super::shadow;
use super::tables::Granule;
use super::thread::{BINS_BYTES, SMALL_BINS_BYTES, ThreadHeap};
#[cfg(any(test, feature = "fault-injection"))]
use super::thread::{MID_BINS_BYTES, SHORT_BINS_BYTES};
use crate::{Flush, wipe};

pub(crate) use way::{Mid, Short, Way};

/// Slots up to this size are checked at every use, since a check costs less than asking whether the slot
/// was used before. Larger ones may lie on pages that were never touched and should stay so.
pub(super) const ALWAYS_CHECKED_BYTES: usize = MID_MAX_BYTES + CANARY_BYTES;

/// In place of a size that the caller does not know. No layout has it.
pub(crate) const ANY_SIZE: usize = usize::MAX;

/// Where a block belongs, by the offset of its home from the thread heap (`ThreadHeap::offset_of`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    /// In a small slot of this thread heap, whose bin is there.
    Small { offset: usize },
    /// In another slot of this thread heap, or elsewhere.
    Else { offset: usize },
}

/// How a free by the fast path ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Freed {
    /// The block is free.
    Done,
    /// The block is free, and the lines remembered must be written back now.
    DoneAndDue,
    /// The block is free and wiped, and its lines must be remembered, by [`ThreadHeap::remember_freed`].
    Unremembered,
    /// Nothing was done: the block is another thread heap's, a large one, or not in order; or the stash is full.
    NotDone,
}

impl ThreadHeap {
    /// Takes a free slot for a small block, aligned to 16 bytes: all zero. Null if none is at hand.
    ///
    /// # Safety
    /// - The calling thread holds this thread heap.
    /// - `size` is not above `SMALL_MAX_BYTES`.
    #[inline(always)]
    pub(crate) unsafe fn allocate_small(&self, size: usize, order: Order) -> *mut u8 {
        debug_assert!(size <= SMALL_MAX_BYTES, "a small block");
        // SAFETY: forwarded.
        let bin = unsafe { self.small_bin_for(size) };
        let Some(number) = bin.draw(&self.rng, order) else { return core::ptr::null_mut() };
        // SAFETY: by `ThreadHeap` 3 it starts a slot in a slab, whose metadata is committed.
        let granule = unsafe { Granule::new(number) };
        let (ptr, slot_bytes) = (self.address(granule), bin.slot_bytes());
        // SAFETY: a free slot of this thread heap: mapped, initialised, and nobody writes to it but who
        // commits the crime that this looks for; 32 to 64 bytes from a granule on.
        if !unsafe { wipe::small_slot_is_zero(ptr, slot_bytes) } {
            Corruption::WriteAfterFree.abort();
        }
        // Relaxed: whoever frees the block got the pointer from here by a synchronising way.
        self.tables.get().shadow(granule).store(shadow::small(size), Ordering::Relaxed);
        // SAFETY: the slot was just taken, and is zero.
        unsafe { self.open_slot(ptr, granule, slot_bytes, size) }
    }

    /// The same for blocks of up to `MID_MAX_BYTES` that are not small.
    ///
    /// # Safety
    /// - The calling thread holds this thread heap.
    /// - Blocks of `size` bytes take this way.
    #[inline(always)]
    pub(crate) unsafe fn allocate_by<W: Way>(&self, size: usize) -> *mut u8 {
        debug_assert!(size <= MID_MAX_BYTES, "a block of the table's sizes");
        // SAFETY: forwarded.
        let bin = unsafe { self.bin_for(size) };
        let Some(number) = bin.draw(&self.rng, bin.order()) else { return core::ptr::null_mut() };
        // SAFETY: as in `allocate_small`.
        let granule = unsafe { Granule::new(number) };
        let (ptr, slot_bytes) = (self.address(granule), bin.slot_bytes());
        // SAFETY: as in `allocate_small`; a slot of this way.
        if !unsafe { W::is_zero(ptr, slot_bytes) } {
            Corruption::WriteAfterFree.abort();
        }
        // The slack of a plain slot of this size is below 128.
        let state = shadow::tight(slot_bytes - CANARY_BYTES, size);
        self.tables.get().shadow(granule).store(state, Ordering::Relaxed);
        // SAFETY: the slot was just taken, and is zero.
        unsafe { self.open_slot(ptr, granule, slot_bytes, size) }
    }

    /// The same for a slot of any class.
    ///
    /// # Safety
    /// - The calling thread holds this thread heap.
    /// - `class` is below `NR_CLASSES`, and blocks of `size` bytes fit into its slots.
    #[inline(never)]
    pub(crate) unsafe fn allocate_any(&self, class: usize, size: usize) -> *mut u8 {
        let bin = self.bin(class);
        let Some(number) = bin.draw_any(&self.rng) else { return core::ptr::null_mut() };
        // SAFETY: as in `allocate_small`.
        let granule = unsafe { Granule::new(number) };
        // SAFETY: the slot was just taken; the size is forwarded.
        unsafe { self.open_checked(granule, bin.slot_bytes(), size) }
    }

    /// Takes a slot that is held back, for want of others. Null if there is none.
    ///
    /// # Safety
    /// - As for `allocate_any`.
    #[cold]
    pub(crate) unsafe fn allocate_last(&self, class: usize, size: usize) -> *mut u8 {
        let bin = self.bin(class);
        let Some(number) = bin.draw_last() else { return core::ptr::null_mut() };
        // SAFETY: as in `allocate_small`.
        let granule = unsafe { Granule::new(number) };
        // SAFETY: as in `allocate_any`.
        unsafe { self.open_checked(granule, bin.slot_bytes(), size) }
    }

    /// Checks a slot and makes a block of it. Large slots may lie on pages that were never touched and should stay
    /// so: they are checked only if they were used before.
    ///
    /// # Safety
    /// - A slot of this size starts at `granule`, which this thread heap has just taken out of its stash.
    /// - `size + CANARY_BYTES` is not more than the slot.
    #[inline(never)]
    unsafe fn open_checked(&self, granule: Granule, slot_bytes: usize, size: usize) -> *mut u8 {
        let ptr = self.address(granule);
        let tables = self.tables.get();
        let state = tables.shadow(granule);
        if slot_bytes <= ALWAYS_CHECKED_BYTES || state.load(Ordering::Relaxed) != shadow::NEVER {
            // SAFETY: a free slot, as in `allocate_small`; it starts on a granule and is granules long.
            if !unsafe { wipe::slot_is_zero(ptr, slot_bytes) } {
                Corruption::WriteAfterFree.abort();
            }
        }
        let usable = slot_bytes - CANARY_BYTES;
        state.store(self.state_for(granule, usable, size), Ordering::Relaxed);
        // SAFETY: forwarded; the slot is zero, or was never used.
        unsafe { self.open_slot(ptr, granule, slot_bytes, size) }
    }

    /// Makes a block of a slot: marker and canary.
    ///
    /// # Safety
    /// - As for `open_checked`, and the slot, which is at `ptr`, is all zero.
    #[inline(always)]
    unsafe fn open_slot(
        &self,
        ptr: NonNull<u8>,
        granule: Granule,
        slot_bytes: usize,
        size: usize,
    ) -> *mut u8 {
        let canary = canary(self.key.get(), granule.number());
        // SAFETY: the last eight bytes of the slot, which is 32 bytes at least.
        let last = unsafe { ptr.add(slot_bytes - CANARY_BYTES) };
        // SAFETY: aligned to 8 since slots are granules long; only accessed atomically once the slot is in
        // use, because the thread that frees the next block looks at it.
        unsafe { last.cast::<AtomicU64>().as_ref() }.store(canary, Ordering::Relaxed);
        // After the canary, so that where it reaches into that it changes nothing.
        // SAFETY: four bytes behind the block, of which eight are in the slot; nobody else writes to the slot, and
        // four bytes of the canary are the marker.
        unsafe { wipe::store_marker(ptr, size, marker(canary)) };
        ptr.as_ptr()
    }

    /// Where the block at `ptr` belongs, if it lies in a slab that this thread heap knows of.
    #[inline(always)]
    pub(crate) fn locate(&self, ptr: *const u8) -> Option<(Granule, Where)> {
        let granule = self.granule_of(ptr)?;
        let offset = self.offset_at(granule);
        let place = if offset < SMALL_BINS_BYTES { Where::Small { offset } } else { Where::Else { offset } };
        Some((granule, place))
    }

    /// The offset of the home of a granule's unit.
    #[inline(always)]
    pub(crate) fn offset_at(&self, granule: Granule) -> usize {
        self.offset_of(self.tables.get().home_of(granule).load(Ordering::Relaxed))
    }

    /// Frees a small block of this thread heap if it is in order, of `size` bytes if that is given: checked, wiped,
    /// flushed as `flush` says.
    ///
    /// # Safety
    /// - The calling thread holds this thread heap.
    /// - `granule` and `offset` are what [`locate`](Self::locate) says of `ptr`, as of a small block.
    /// - If a live block starts at `ptr`, nobody uses it any more. (Any other pointer is survived.)
    /// - `size` is that of a layout: `isize::MAX` at most.
    /// - `flush` is not [`Flush::Immediate`].
    #[inline(always)]
    pub(crate) unsafe fn free_small(
        &self,
        ptr: NonNull<u8>,
        granule: Granule,
        offset: usize,
        size: Option<usize>,
        flush: Flush,
    ) -> Freed {
        // SAFETY: the home of a slab is a bin, and this one is below the end of this thread heap's bins.
        let bin = unsafe { self.bin_at(offset) };
        let tables = self.tables.get();
        let state = tables.shadow(granule);
        let live = state.load(Ordering::Relaxed);
        let slot_bytes = bin.slot_bytes();
        let found = shadow::small_size(live);
        match size {
            // No layout has the size that is found where there is no live block.
            Some(size) if size == found => {}
            None if found <= bin.usable_bytes() => {}
            _ => return Freed::NotDone,
        }
        // SAFETY: the shadow says that a live block starts here, so a slot of this class does.
        if !unsafe { self.is_intact(ptr, granule, bin.slot_bytes(), || bin.canary_step(), found) } {
            return Freed::NotDone;
        }
        if !bin.push(granule.number()) {
            return Freed::NotDone;
        }
        state.store(shadow::FREED, Ordering::Relaxed);
        // SAFETY: the block is not in use any more, as the caller promises; 32 to 64 bytes from a granule on.
        unsafe { wipe::zero_small_slot(ptr, slot_bytes) };
        if flush == Flush::Bounded { self.remember_lines(granule, slot_bytes) } else { Freed::Done }
    }

    /// The same for the next larger slots, up to 1,040 bytes.
    ///
    /// # Safety
    /// - As for `free_small`; `offset` is that of a bin whose slots take this way, and `size` may be [`ANY_SIZE`].
    #[inline(always)]
    pub(crate) unsafe fn free_by<W: Way>(
        &self,
        ptr: NonNull<u8>,
        granule: Granule,
        offset: usize,
        size: usize,
        flush: Flush,
    ) -> Freed {
        // SAFETY: as in `free_small`.
        let bin = unsafe { self.bin_at(offset) };
        let tables = self.tables.get();
        let state = tables.shadow(granule);
        let usable = bin.usable_bytes();
        // More than any slot holds for a state that is not live.
        let found = usable.wrapping_sub(shadow::tight_slack(state.load(Ordering::Relaxed)));
        if found > usable || (size != found && size != ANY_SIZE) {
            return Freed::NotDone;
        }
        let slot_bytes = bin.slot_bytes();
        // SAFETY: the shadow says that a live block starts here, so a slot of this class does.
        if !unsafe { self.is_intact(ptr, granule, bin.slot_bytes(), || bin.canary_step(), found) } {
            return Freed::NotDone;
        }
        if !bin.push(granule.number()) {
            return Freed::NotDone;
        }
        state.store(shadow::FREED, Ordering::Relaxed);
        // SAFETY: the block is not in use any more, as the caller promises; a slot of this way.
        unsafe { W::zero(ptr, slot_bytes) };
        if flush == Flush::Bounded { W::remember(self, granule, slot_bytes) } else { Freed::Done }
    }

    /// The same for any block in a slab.
    ///
    /// # Safety
    /// - As for `free_by`, with any offset below `BINS_BYTES`.
    pub(crate) unsafe fn free_any(
        &self,
        ptr: NonNull<u8>,
        granule: Granule,
        offset: usize,
        size: Option<usize>,
        flush: Flush,
    ) -> Freed {
        if offset >= BINS_BYTES {
            return Freed::NotDone;
        }
        // SAFETY: as in `free_small`.
        let bin = unsafe { self.bin_at(offset) };
        let live = self.tables.get().shadow(granule).load(Ordering::Relaxed);
        let usable = bin.usable_bytes();
        let found = match shadow::size_of(usable, live) {
            Some(found) => found,
            None if live == shadow::LIVE_LONG => usable.wrapping_sub(self.long_slack(granule)),
            None => return Freed::NotDone,
        };
        if found > usable || size.is_some_and(|size| size != found) {
            return Freed::NotDone;
        }
        // SAFETY: the shadow says that a live block starts here, so a slot of this class does.
        if !unsafe { self.is_intact(ptr, granule, bin.slot_bytes(), || bin.canary_step(), found) } {
            return Freed::NotDone;
        }
        // SAFETY: the block is this thread heap's own, and not in use any more, as the caller promises.
        unsafe { self.release_slot(granule, bin, flush) }
    }

    /// Frees the block at `ptr` if it is this thread heap's own and in order, of `size` bytes if that is given.
    ///
    /// # Safety
    /// - The calling thread holds this thread heap.
    /// - If a live block starts at `ptr`, nobody uses it any more. (Any other pointer is survived.)
    #[cfg(any(test, feature = "fault-injection"))]
    pub(crate) unsafe fn free(&self, ptr: NonNull<u8>, size: Option<usize>, flush: Flush) -> Freed {
        let Some((granule, place)) = self.locate(ptr.as_ptr()) else { return Freed::NotDone };
        let freed = match place {
            // SAFETY: as located; the rest is forwarded.
            Where::Small { offset } if flush != Flush::Immediate => unsafe {
                self.free_small(ptr, granule, offset, size, flush)
            },
            Where::Else { offset } if offset < SHORT_BINS_BYTES && flush != Flush::Immediate => {
                // SAFETY: as above; the bins of short slots follow those of small ones.
                unsafe { self.free_by::<Short>(ptr, granule, offset, size.unwrap_or(ANY_SIZE), flush) }
            }
            Where::Else { offset } if offset < MID_BINS_BYTES && flush != Flush::Immediate => {
                // SAFETY: as above; the bins of mid slots follow those of short ones.
                unsafe { self.free_by::<Mid>(ptr, granule, offset, size.unwrap_or(ANY_SIZE), flush) }
            }
            // SAFETY: as above.
            Where::Small { offset } | Where::Else { offset } => unsafe {
                self.free_any(ptr, granule, offset, size, flush)
            },
        };
        if freed == Freed::Unremembered { self.remember_block(ptr) } else { freed }
    }

    /// The granule at `ptr`, if it lies in a slab that this thread heap knows of and a slot could start there.
    #[inline(always)]
    fn granule_of(&self, ptr: *const u8) -> Option<Granule> {
        let offset = ptr.addr().wrapping_sub(self.base.get().addr());
        // Bits that no start of a granule has come to stand highest: one compare finds them as well.
        let number = offset.rotate_right(GRANULE_BYTES.trailing_zeros());
        if number >= self.known_granules() {
            return None;
        }
        // SAFETY: a granule that is known, so its metadata is committed (`ThreadHeap` 2).
        Some(unsafe { Granule::from_wide(number) })
    }

    /// The granule at `ptr`, which [`locate`](Self::locate) found.
    ///
    /// # Safety
    /// - `locate` gave a granule for `ptr`.
    #[inline(always)]
    pub(crate) unsafe fn granule_at(&self, ptr: NonNull<u8>) -> Granule {
        // SAFETY: forwarded: a granule that is known, as in `granule_of`.
        unsafe { Granule::from_wide((ptr.addr().get() - self.base.get().addr()) / GRANULE_BYTES) }
    }

    /// Wipes the slot of a block that was found in order, and puts it into the stash, if there is room.
    ///
    /// # Safety
    /// - The calling thread holds this thread heap, which owns the slab.
    /// - A live block of the bin's class starts at `granule`, and nobody uses it any more.
    pub(crate) unsafe fn release_slot(&self, granule: Granule, bin: &Bin, flush: Flush) -> Freed {
        if !bin.push(granule.number()) {
            return Freed::NotDone;
        }
        self.tables.get().shadow(granule).store(shadow::FREED, Ordering::Relaxed);
        // SAFETY: the block is not in use any more, as the caller promises.
        unsafe { self.wipe_slot(granule, bin.slot_bytes(), flush) }
    }

    /// Whether the bytes around a live block are as they should be.
    ///
    /// # Safety
    /// - A slot of this size, whose canaries are `canary_step` apart, starts at `ptr`, which is at `granule`, with a block of
    ///   `size` bytes.
    #[inline(always)]
    pub(super) unsafe fn is_intact(
        &self,
        ptr: NonNull<u8>,
        granule: Granule,
        slot_bytes: usize,
        canary_step: impl FnOnce() -> u64,
        size: usize,
    ) -> bool {
        // SAFETY: forwarded.
        if !unsafe { self.is_intact_behind(ptr, granule, slot_bytes, size) } {
            return false;
        }
        // SAFETY: a slab's first slot lies at least 16 bytes behind its start, so the eight bytes before any slot are
        // in the slab too: the end of the slot before, or bytes that no slot has.
        let before = unsafe { load(ptr.as_ptr().wrapping_sub(CANARY_BYTES)) };
        before == 0 || before == canary(self.key.get(), granule.number()).wrapping_sub(canary_step())
    }

    /// Whether the bytes behind a live block are as they should be.
    ///
    /// # Safety
    /// - As for `is_intact`.
    #[inline(always)]
    unsafe fn is_intact_behind(
        &self,
        ptr: NonNull<u8>,
        granule: Granule,
        slot_bytes: usize,
        size: usize,
    ) -> bool {
        let ptr = ptr.as_ptr();
        let expected = canary(self.key.get(), granule.number());
        let last = ptr.wrapping_add(slot_bytes).wrapping_sub(CANARY_BYTES);
        // SAFETY: the last eight bytes of the slot, aligned since slots are granules long; others only read them.
        let last = unsafe { last.cast::<u64>().read() };
        if last != expected {
            return false;
        }
        // SAFETY: four bytes behind the block, of which eight are in the slot; others only read them.
        let behind = unsafe { ptr.wrapping_add(size).cast::<u32>().read_unaligned() };
        behind == marker(expected)
    }

    /// What is wrong with a live block, if anything is.
    ///
    /// # Safety
    /// - A slot of this shape starts at `granule`.
    pub(crate) unsafe fn check(
        &self,
        granule: Granule,
        shape: &Class,
        found: usize,
        given: Option<usize>,
    ) -> Result<(), Corruption> {
        if found > shape.usable_bytes() {
            return Err(Corruption::Metadata);
        }
        if given.is_some_and(|given| given != found) {
            return Err(Corruption::WrongLayout);
        }
        let (ptr, slot_bytes) = (self.address(granule), shape.slot_bytes as usize);
        // SAFETY: a slot of this size starts here, and the size found is not more than it holds.
        if unsafe { self.is_intact(ptr, granule, slot_bytes, || step(slot_bytes), found) } {
            return Ok(());
        }
        // Both may be: what is behind the block tells more of who wrote there.
        // SAFETY: as above.
        if unsafe { self.is_intact_behind(ptr, granule, slot_bytes, found) } {
            Err(Corruption::Underflow)
        } else {
            Err(Corruption::Overflow)
        }
    }

    /// The address of a granule.
    #[inline(always)]
    pub(crate) fn address(&self, granule: Granule) -> NonNull<u8> {
        let ptr = self.base.get().wrapping_add(granule.offset());
        // SAFETY: a granule lies in the memory range (`Granule` 1), whose base is not null once a granule
        // exists, and which does not wrap around.
        unsafe { NonNull::new_unchecked(ptr) }
    }

    /// The state of a block of `size` bytes in a slot for up to `usable`. A long slack is written down.
    #[inline(always)]
    fn state_for(&self, granule: Granule, usable: usize, size: usize) -> u8 {
        shadow::short(usable, size).unwrap_or_else(|| {
            self.set_long_slack(granule, usable - size);
            shadow::LIVE_LONG
        })
    }

    #[cold]
    fn set_long_slack(&self, granule: Granule, slack: usize) {
        let tables = self.tables.get();
        for (i, byte) in (1..).zip(shadow::encode_long(slack)) {
            tables.shadow(granule.within_unit(i)).store(byte, Ordering::Relaxed);
        }
    }

    #[cold]
    pub(crate) fn long_slack(&self, granule: Granule) -> usize {
        let tables = self.tables.get();
        let byte = |i| tables.shadow(granule.within_unit(i)).load(Ordering::Relaxed);
        shadow::decode_long([byte(1), byte(2), byte(3)])
    }
}

/// Which crime it is to free a pointer whose shadow says that no live block starts there.
pub(crate) fn crime_of(state: u8) -> Corruption {
    if state == shadow::FREED || state == shadow::REMOTE {
        Corruption::DoubleFree
    } else {
        Corruption::InvalidFree
    }
}

/// Reads eight bytes that other threads may change at the same time.
///
/// # Safety
/// - `ptr` is aligned to eight and eight bytes at it are mapped and, when written concurrently, written
///   atomically.
#[inline(always)]
unsafe fn load(ptr: *const u8) -> u64 {
    // SAFETY: the caller's promise is that of the reference and of the atomic load.
    unsafe { &*ptr.cast::<AtomicU64>() }.load(Ordering::Relaxed)
}

const _: () = assert!(cfg!(target_endian = "little"), "the marker is the canary's lower half");
