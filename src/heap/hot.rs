//! The hot paths: a block of a slab, allocated and freed by the thread that owns the slab.
//!
//! No lock, no system call, no atomic read-modify-write. An allocation reads the thread heap, the slot and
//! one shadow byte; a free reads the slab's header besides.
//!
//! ```text
//! slot      | block            |m| slack        | canary |
//!           ^ granule          ^ size           ^ slot - 8
//! m: if there is slack, its first byte is a marker, so that a single NUL behind the block is seen too
//! before it: eight bytes that are zero (free slot, start of the slab) or the canary of the slot before
//! ```

// UNSAFETY: reads and writes slots by address.
#![expect(unsafe_code, reason = "blocks are raw memory, see the proofs")]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "offsets and sizes inside one slab (below 2^16) or one range (below 2^38)"
)]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use super::canary::{canary, marker};
use super::class::{self, CANARY_BYTES, CLASSES, Class};
use super::corruption::Corruption;
use super::geometry::GRANULE_BYTES;
use super::pending::LINE_SHIFT;
use super::shadow;
use super::tables::Granule;
use super::thread::ThreadHeap;
use crate::{Flush, wipe};

/// Slots up to this size are checked at every use, since a check costs less than asking whether the slot
/// was used before. Larger ones may lie on pages that were never touched and should stay so.
pub(super) const ALWAYS_CHECKED_BYTES: u32 = 1040;
/// Slots up to this size are checked and wiped inline.
const INLINE_BYTES: u32 = 64;

/// How a free by the fast path ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Freed {
    /// The block is free.
    Done,
    /// The block is free and its class has more free slots than the stash takes: put `granule` away.
    Spill { class: usize, granule: u32, is_due: bool },
    /// The block is free, and the lines remembered must be written back now.
    DoneAndDue,
    /// Nothing was done: the block is another thread heap's, a large one, or not in order.
    Elsewhere,
}

impl Freed {
    /// The same, and lines are to be written back.
    #[cold]
    const fn due(self) -> Self {
        match self {
            Self::Spill { class, granule, .. } => Self::Spill { class, granule, is_due: true },
            Self::Done | Self::DoneAndDue | Self::Elsewhere => Self::DoneAndDue,
        }
    }
}

impl ThreadHeap {
    /// Takes a free slot of `class` for a block of `size` bytes: all zero. Null if the stash is empty.
    ///
    /// # Safety
    /// - The calling thread holds this thread heap.
    /// - `class` is below `NR_CLASSES`; `size + CANARY_BYTES` is not more than its slot.
    #[inline(always)]
    pub(crate) unsafe fn allocate(&self, class: usize, size: usize) -> *mut u8 {
        // SAFETY: forwarded.
        let bin = unsafe { self.bin_unchecked(class) };
        // SAFETY: forwarded.
        let shape = unsafe { class::shape_unchecked(class) };
        let Some(number) = bin.pop() else { return core::ptr::null_mut() };
        // SAFETY: by `ThreadHeap` 3 it starts a slot in a slab, whose metadata is committed.
        let granule = unsafe { Granule::new(number) };
        if shape.slot_bytes <= INLINE_BYTES {
            // SAFETY: a free slot of this thread heap: mapped, initialised, and nobody writes to it but who
            // commits the crime that this looks for; 32 to 64 bytes from a granule on.
            if !unsafe { wipe::small_slot_is_zero(self.address(granule), shape.slot_bytes as usize) } {
                Corruption::WriteAfterFree.abort();
            }
            // SAFETY: the slot was just taken, and is zero.
            unsafe { self.open_slot(granule, shape, size) }
        } else {
            // SAFETY: the slot was just taken.
            unsafe { self.open_bigger_slot(granule, shape, size) }
        }
    }

    /// The same for slots that are not checked inline.
    ///
    /// # Safety
    /// - A slot of this shape starts at `granule`, which this thread heap has just taken out of its stash.
    /// - `size + CANARY_BYTES` is not more than the slot.
    #[inline(never)]
    unsafe fn open_bigger_slot(&self, granule: Granule, shape: &Class, size: usize) -> *mut u8 {
        let is_used = self.tables.get().shadow(granule).load(Ordering::Relaxed) != shadow::NEVER;
        if shape.slot_bytes <= ALWAYS_CHECKED_BYTES || is_used {
            // SAFETY: a free slot, as in `allocate`; it starts on a granule and is granules long.
            if !unsafe { wipe::slot_is_zero(self.address(granule), shape.slot_bytes as usize) } {
                Corruption::WriteAfterFree.abort();
            }
        }
        // SAFETY: forwarded; the slot is zero, or was never used.
        unsafe { self.open_slot(granule, shape, size) }
    }

    /// Makes a block of a slot: marker, canary, state.
    ///
    /// # Safety
    /// - As for `open_bigger_slot`, and the slot is all zero.
    #[inline(always)]
    unsafe fn open_slot(&self, granule: Granule, shape: &Class, size: usize) -> *mut u8 {
        let ptr = self.address(granule);
        let slot_bytes = shape.slot_bytes as usize;
        let key = self.key.get();
        let slack = slot_bytes - CANARY_BYTES - size;
        if slack > 0 {
            // Not where the canary will be: whoever frees the block behind this one reads there, and takes
            // anything but zero and the canary for an underflow.
            // SAFETY: the first byte of the slack, inside the slot.
            let behind = unsafe { ptr.add(size) };
            // SAFETY: as above, and nobody else writes to the slot or reads its slack.
            unsafe { behind.write(marker(key)) };
        }
        // SAFETY: the last eight bytes of the slot, which is 32 bytes at least.
        let last = unsafe { ptr.add(slot_bytes - CANARY_BYTES) };
        let end = granule.number().wrapping_add((slot_bytes / GRANULE_BYTES) as u32);
        // SAFETY: aligned to 8 since slots are granules long; only accessed atomically once the slot is in
        // use, because the thread that frees the next block looks at it.
        unsafe { last.cast::<AtomicU64>().as_ref() }.store(canary(key, end), Ordering::Relaxed);
        match shadow::short(slack) {
            // Relaxed: whoever frees the block got the pointer from here by a synchronising way.
            Some(live) => self.tables.get().shadow(granule).store(live, Ordering::Relaxed),
            None => self.set_long_slack(granule, slack),
        }
        ptr.as_ptr()
    }

    /// Frees the block of `size` bytes at `ptr` if it is this thread heap's own, of `class`, and in order:
    /// checked, wiped, flushed as `flush` says.
    ///
    /// With a constant layout all of it but the addresses is constant.
    ///
    /// # Safety
    /// - The calling thread holds this thread heap.
    /// - If a live block starts at `ptr`, nobody uses it any more. (Any other pointer is survived.)
    /// - `class` is below `NR_CLASSES`; `size + CANARY_BYTES` is not more than its slot.
    #[inline(always)]
    pub(crate) unsafe fn free_sized(
        &self,
        ptr: NonNull<u8>,
        class: usize,
        size: usize,
        flush: Flush,
    ) -> Freed {
        let Some(granule) = self.granule_of(ptr) else { return Freed::Elsewhere };
        // SAFETY: forwarded.
        let shape = unsafe { class::shape_unchecked(class) };
        let slack = shape.slot_bytes as usize - CANARY_BYTES - size;
        let tables = self.tables.get();
        let live = tables.shadow(granule).load(Ordering::Relaxed);
        let is_as_allocated = match shadow::short(slack) {
            Some(state) => live == state,
            None => live == shadow::LIVE_LONG && self.long_slack(granule) == slack,
        };
        let owner_class = tables.header(granule.unit()).owner_class.load(Ordering::Relaxed);
        if !is_as_allocated || owner_class != (self.id.get() << 8 | class as u32) {
            return Freed::Elsewhere;
        }
        // SAFETY: the shadow says that a live block starts here, and the header that it has this class.
        if unsafe { self.check(granule, shape, slack, None) }.is_err() {
            return Freed::Elsewhere;
        }
        // SAFETY: the block is this thread heap's own, and not in use any more, as the caller promises.
        unsafe { self.release_slot(granule, shape, class, flush) }
    }

    /// The same for a block whose size the caller does not know.
    ///
    /// # Safety
    /// - The calling thread holds this thread heap.
    /// - If a live block starts at `ptr`, nobody uses it any more. (Any other pointer is survived.)
    #[inline(always)]
    pub(crate) unsafe fn free(&self, ptr: NonNull<u8>, flush: Flush) -> Freed {
        let Some(granule) = self.granule_of(ptr) else { return Freed::Elsewhere };
        let tables = self.tables.get();
        let live = tables.shadow(granule).load(Ordering::Relaxed);
        let owner_class = tables.header(granule.unit()).owner_class.load(Ordering::Relaxed);
        let class = (owner_class & 0xff) as usize;
        if !shadow::is_live(live) || owner_class >> 8 != self.id.get() {
            return Freed::Elsewhere;
        }
        let Some(shape) = CLASSES.get(class) else { return Freed::Elsewhere };
        let slack = match shadow::slack_of(live) {
            Some(slack) => slack,
            None => self.long_slack(granule),
        };
        // SAFETY: the shadow says that a live block starts here, so a slot of this class does.
        if unsafe { self.check(granule, shape, slack, None) }.is_err() {
            return Freed::Elsewhere;
        }
        // SAFETY: the block is this thread heap's own, and not in use any more, as the caller promises.
        unsafe { self.release_slot(granule, shape, class, flush) }
    }

    /// The granule at `ptr`, if it lies in a slab that this thread heap knows of and a slot could start there.
    #[inline(always)]
    fn granule_of(&self, ptr: NonNull<u8>) -> Option<Granule> {
        let offset = ptr.addr().get().wrapping_sub(self.base.get().addr());
        if offset >= self.known_bytes.get() || !offset.is_multiple_of(GRANULE_BYTES) {
            return None;
        }
        // SAFETY: below `known_bytes`, so its metadata is committed (`ThreadHeap` 2).
        Some(unsafe { Granule::new((offset / GRANULE_BYTES) as u32) })
    }

    /// Wipes the slot of a block that was found in order, and puts it into quarantine.
    ///
    /// # Safety
    /// - The calling thread holds this thread heap, which owns the slab.
    /// - A live block of `class`, whose shape is `shape`, starts at `granule`, and nobody uses it any more.
    #[inline(always)]
    pub(crate) unsafe fn release_slot(
        &self,
        granule: Granule,
        shape: &Class,
        class: usize,
        flush: Flush,
    ) -> Freed {
        self.tables.get().shadow(granule).store(shadow::FREED, Ordering::Relaxed);
        // SAFETY: forwarded.
        let bin = unsafe { self.bin_unchecked(class) };
        let leaves = bin.quarantine(granule.number(), self.random() >> 16, shape.quarantine_mask);
        let mut freed = Freed::Done;
        if leaves != 0 {
            if bin.is_full(shape.stash_len) {
                freed = Freed::Spill { class, granule: leaves, is_due: false };
            } else {
                bin.push(leaves);
            }
        }
        // Last, so that a call at the end is a jump. Only this thread can take the slot out of quarantine.
        if shape.slot_bytes <= INLINE_BYTES && flush != Flush::Immediate {
            // SAFETY: the slot's block is not in use any more, as the caller promises; 32 to 64 bytes from a
            // granule on.
            unsafe { wipe::zero_small_slot(self.address(granule), shape.slot_bytes as usize) };
            if flush == Flush::Bounded && self.remember_lines(granule.offset(), shape.slot_bytes as usize) {
                return freed.due();
            }
            freed
        } else {
            // SAFETY: as above.
            unsafe { self.wipe_bigger_slot(granule, shape, flush, freed) }
        }
    }

    /// # Safety
    /// - A slot of this shape starts at `granule`, and nobody uses its block.
    #[inline(never)]
    unsafe fn wipe_bigger_slot(&self, granule: Granule, shape: &Class, flush: Flush, freed: Freed) -> Freed {
        // SAFETY: forwarded.
        if unsafe { self.wipe_slot(granule, shape, flush) } { freed.due() } else { freed }
    }

    /// Checks a live block: canary and marker behind it, the bytes before it, and its size if known.
    ///
    /// # Safety
    /// - A slot of this shape starts at `granule`.
    #[inline(always)]
    pub(crate) unsafe fn check(
        &self,
        granule: Granule,
        shape: &Class,
        slack: usize,
        size: Option<usize>,
    ) -> Result<(), Corruption> {
        let slot_bytes = shape.slot_bytes as usize;
        let usable = slot_bytes - CANARY_BYTES;
        if slack > usable {
            return Err(Corruption::Metadata);
        }
        if size.is_some_and(|size| size != usable - slack) {
            return Err(Corruption::WrongLayout);
        }
        let ptr = self.address(granule);
        let key = self.key.get();
        let number = granule.number();
        let end = canary(key, number.wrapping_add((slot_bytes / GRANULE_BYTES) as u32));
        // SAFETY: the last eight bytes of the slot.
        if unsafe { load(ptr.as_ptr().wrapping_add(usable)) } != end {
            return Err(Corruption::Overflow);
        }
        // SAFETY: eight bytes from the end of the block on: slack, canary, or both.
        let behind = unsafe { ptr.as_ptr().wrapping_add(usable - slack).cast::<u64>().read_unaligned() };
        if behind != first_behind(key, end, slack) {
            return Err(Corruption::Overflow);
        }
        // SAFETY: a slab's first slot lies 16 bytes behind its start, so the eight bytes before any slot are
        // in the slab too: the end of the slot before, or bytes that no slot has.
        let before = unsafe { load(ptr.as_ptr().wrapping_sub(CANARY_BYTES)) };
        if before != 0 && before != canary(key, number) {
            return Err(Corruption::Underflow);
        }
        Ok(())
    }

    /// Wipes a slot as `flush` says, and tells whether the lines remembered are due.
    ///
    /// # Safety
    /// - A slot of this shape starts at `granule`, and nobody uses its block.
    pub(crate) unsafe fn wipe_slot(&self, granule: Granule, shape: &Class, flush: Flush) -> bool {
        let ptr = self.address(granule);
        let slot_bytes = shape.slot_bytes as usize;
        match flush {
            Flush::Immediate => {
                // SAFETY: the slot is mapped and not in use.
                unsafe { wipe::zero_and_flush(ptr, slot_bytes) };
                false
            }
            Flush::Off => {
                // SAFETY: as above; a slot starts on a granule and is granules long.
                unsafe { wipe::zero_slot(ptr, slot_bytes) };
                false
            }
            Flush::Bounded => {
                // SAFETY: as above.
                unsafe { wipe::zero_slot(ptr, slot_bytes) };
                self.remember_lines(granule.offset(), slot_bytes)
            }
        }
    }

    /// Remembers the lines of a freed range and tells whether the lines remembered are due.
    #[inline(always)]
    pub(crate) fn remember_lines(&self, offset: usize, len: usize) -> bool {
        let first = (offset >> LINE_SHIFT) as u32;
        let last = ((offset + len - 1) >> LINE_SHIFT) as u32;
        let mut line = first;
        loop {
            let old = self.pending.remember(line);
            if old != 0 {
                self.write_back_line(old);
            }
            if line == last {
                break;
            }
            line += 1;
        }
        self.pending.is_due()
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

    /// Changes the size of a block inside its slot: what is cut off is wiped. Tells whether it did; a block
    /// of another thread heap is moved instead. Ends the process if the block is not in order.
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
        let Some(granule) = self.granule_of(ptr) else { return false };
        let tables = self.tables.get();
        let owner_class = tables.header(granule.unit()).owner_class.load(Ordering::Relaxed);
        if owner_class != self.id.get() << 8 | class as u32 {
            return false;
        }
        let live = tables.shadow(granule).load(Ordering::Relaxed);
        let (true, Some(shape)) = (shadow::is_live(live), CLASSES.get(class)) else {
            // The slow path of free will find out.
            return false;
        };
        let slack = shadow::slack_of(live).unwrap_or_else(|| self.long_slack(granule));
        // SAFETY: a live block starts here, so a slot of its class does.
        if unsafe { self.check(granule, shape, slack, Some(old)) }.is_err() {
            return false;
        }
        // What is cut off goes, or what the block grows by, and the old marker in any case.
        let from = old.min(new);
        let to = (old.max(new) + 1).min(shape.slot_bytes as usize - CANARY_BYTES);
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
                // Counted as a free; if the table is due, the next free finds it full all the same.
                let _ = self.remember_lines(granule.offset() + new, old - new);
            }
        }
        let slack = shape.slot_bytes as usize - CANARY_BYTES - new;
        if slack > 0 {
            // SAFETY: the first byte of the slack.
            let behind = unsafe { ptr.add(new) };
            // SAFETY: as above; slack belongs to the heap.
            unsafe { behind.write(marker(self.key.get())) };
        }
        // Slots of one class have either form of slack; the long form's bytes stay inside the slot.
        match shadow::short(slack) {
            Some(state) => tables.shadow(granule).store(state, Ordering::Relaxed),
            None => self.set_long_slack(granule, slack),
        }
        true
    }

    /// The address of a granule.
    #[inline(always)]
    pub(crate) fn address(&self, granule: Granule) -> NonNull<u8> {
        let ptr = self.base.get().wrapping_add(granule.offset());
        // SAFETY: a granule lies in the memory range (`Granule` 1), whose base is not null once a granule
        // exists, and which does not wrap around.
        unsafe { NonNull::new_unchecked(ptr) }
    }

    #[cold]
    pub(crate) fn set_long_slack(&self, granule: Granule, slack: usize) {
        let tables = self.tables.get();
        for (i, byte) in (1..).zip(shadow::encode_long(slack)) {
            tables.shadow(granule.within_unit(i)).store(byte, Ordering::Relaxed);
        }
        tables.shadow(granule).store(shadow::LIVE_LONG, Ordering::Relaxed);
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

/// The first eight bytes behind a block: the marker and zeros, then as much of the canary as reaches in.
#[inline(always)]
pub(crate) const fn first_behind(key: u64, canary: u64, slack: usize) -> u64 {
    if slack == 0 {
        return canary;
    }
    // What comes later in memory stands higher; from eight bytes of slack on the canary is out of sight.
    canary.unbounded_shl(slack as u32 * 8) | marker(key) as u64
}

const _: () = assert!(cfg!(target_endian = "little"), "`first_behind` reads words byte by byte");
