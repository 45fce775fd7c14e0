//! Large blocks: each on pages of its own, its end against a guard.
//!
//! ```text
//! run of units   | .... | front | block                | slack | guard ............ |
//!                 none    zero    ^ aligned               canary  no access
//!                         '------- data pages -----------------'
//! ```
//! Nothing in the large zone is accessible but the data pages of blocks in use. Every run ends with a page
//! without access at least, so every block has a guard on both sides and needs no system call for them. A
//! free block is wiped, and its pages are given back and inaccessible when the call returns.

// UNSAFETY: reads and writes blocks by address, changes access to pages that no block uses.
#![expect(unsafe_code, reason = "blocks are raw memory, see the proofs")]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    reason = "offsets in a range of at most 2^38 bytes; sizes are checked against it first; run classes below NR_RUNS"
)]

use core::alloc::Layout;
use core::num::NonZeroU64;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::canary;
use super::corruption::Corruption;
use super::geometry::{GRANULE_BYTES, GUARD_BYTES, LARGE_ENTRY_BYTES, UNIT_BYTES};
use super::index_stack::IndexStack;
use super::shared::{Shared, pages};
use crate::os::LockState;
use crate::pages::PinId;
use crate::{Backing, Error, Flush, Fork, Lock, wipe};

/// Lengths of runs: every number of units up to eight, then four for each doubling, up to 2^22 units.
const NR_RUNS: usize = 8 + 4 * 19;
/// A page of the table: entries committed at once.
const ENTRIES_PER_PAGE: usize = GUARD_BYTES / LARGE_ENTRY_BYTES;
const LIVE: u32 = 1;
const BUSY: u32 = 2;
const FREE: u32 = 3;
/// Wiped by its owner: its pages are about to go.
const CLOSING: u32 = 4;
/// The bits of a state that hold one of these; the others count who wipes the block for a purge.
const KIND: u32 = 0xff;
const PURGER: u32 = KIND + 1;
/// Pages that one `mincore` call of the wipe asks for.
const WINDOW_PAGES: usize = 512;

/// The runs of the large zone.
#[derive(Debug)]
pub(crate) struct LargeZone {
    /// Units below it were handed out; numbers are unit indexes in the zone plus one.
    watermark: AtomicU32,
    /// Free runs by length class; a run is known by the number of its first unit.
    free: [IndexStack; NR_RUNS],
}

/// What is known about a block, at the unit that it starts in; and a link, at the first unit of a run.
#[derive(Debug)]
#[repr(C)]
struct Entry {
    /// `LIVE`, `BUSY`, `CLOSING` or `FREE`; 0 where no block ever started. Above that, the number of threads
    /// and signal handlers that wipe the block for a purge: only while it is `LIVE` or `BUSY`, and as long as
    /// there are any its pages stay.
    state: AtomicU32,
    /// Link of the run that starts at this unit.
    link: AtomicU32,
    /// First unit of the run, and its length class in the low 8 bits.
    run: AtomicU64,
    /// Offset of the block in the large zone, and bit 63 for a block that is locked.
    place: AtomicU64,
    /// Size of the block.
    size: AtomicU64,
    /// The pin that holds it, as number; 0 for none.
    pin: AtomicU64,
    /// The generation of the heap that made the block.
    generation: AtomicU32,
    _rest: [u32; 5],
}

const _: () = assert!(size_of::<Entry>() == LARGE_ENTRY_BYTES);
const LOCKED: u64 = 1 << 63;

/// Where a block lies: offsets in the large zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    block: usize,
    size: usize,
    data_start: usize,
    data_end: usize,
}

impl Place {
    /// The place of a block in a run that starts at `run_offset` (a multiple of 64 KiB in a zone that is
    /// aligned to `zone_align` itself). Its end lies against the guard as far as the alignment allows.
    fn new(run_offset: usize, zone_address: usize, layout: Layout) -> Option<Self> {
        let size = layout.size().max(1);
        let align = layout.align().max(GRANULE_BYTES);
        if align <= GUARD_BYTES {
            let padded = size.checked_next_multiple_of(align)?;
            let data = padded.checked_next_multiple_of(GUARD_BYTES)?;
            let data_end = run_offset.checked_add(data)?;
            return Some(Self {
                block: data_end - padded,
                size: layout.size(),
                data_start: run_offset,
                data_end,
            });
        }
        let address = zone_address.checked_add(run_offset)?.checked_next_multiple_of(align)?;
        let block = address - zone_address;
        let data_end = block.checked_add(size)?.checked_next_multiple_of(GUARD_BYTES)?;
        Some(Self { block, size: layout.size(), data_start: block, data_end })
    }

    /// The place of a block in use, from what its entry says.
    fn of(block: usize, size: usize) -> Self {
        let data_end = (block + size.max(1)).next_multiple_of(GUARD_BYTES);
        Self { block, size, data_start: block - block % GUARD_BYTES, data_end }
    }

    fn data_bytes(self) -> usize {
        self.data_end - self.data_start
    }

    fn slack(self) -> usize {
        self.data_end - self.block - self.size
    }
}

/// Units that a run must have for a block of this layout, guard included. `None` if that is absurd.
fn units_for(layout: Layout) -> Option<usize> {
    let size = layout.size().max(1).checked_next_multiple_of(GUARD_BYTES)?;
    let extra = if layout.align() > GUARD_BYTES { layout.align() } else { 0 };
    Some(size.checked_add(extra)?.checked_add(GUARD_BYTES)?.div_ceil(UNIT_BYTES))
}

/// The smallest class of runs with `units` units, and its exact length.
fn run_class(units: usize) -> Option<(usize, usize)> {
    if units <= 8 {
        return Some((units.max(1) - 1, units.max(1)));
    }
    let shift = (units - 1).ilog2() - 2;
    let quarters = units.div_ceil(1 << shift);
    let class = 8 + (shift as usize - 1) * 4 + (quarters - 5);
    if class < NR_RUNS { Some((class, quarters << shift)) } else { None }
}

impl LargeZone {
    pub(crate) fn new() -> Self {
        Self { watermark: AtomicU32::new(0), free: core::array::from_fn(|_| IndexStack::new()) }
    }

    /// In a forked child, free runs of the parent are given up: they are neither known nor locked alike.
    pub(crate) fn forget_after_fork(&self) {
        for stack in &self.free {
            stack.clear();
        }
    }

    /// Units ever handed out.
    pub(crate) fn watermark(&self) -> u32 {
        self.watermark.load(Ordering::Acquire)
    }
}

impl Entry {
    /// Takes a live block out of use: it is `BUSY`, and the caller's, afterwards.
    fn claim(&self) -> Result<(), u32> {
        let mut seen = self.state.load(Ordering::Relaxed);
        while seen & KIND == LIVE {
            // Acquire pairs with Release in `open_block`; of two threads that free the same block one fails.
            let busy = seen & !KIND | BUSY;
            match self.state.compare_exchange_weak(seen, busy, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => seen = now,
            }
        }
        Err(seen & KIND)
    }

    /// Puts a block that the caller claimed back into use.
    fn unclaim(&self) {
        self.state.fetch_xor(BUSY ^ LIVE, Ordering::Release);
    }

    /// Makes sure that nobody touches the pages of a block that the caller claimed and wiped. Waits for a
    /// purge that is at it; a purge never waits.
    fn close(&self) {
        // Acquire pairs with Release in `leave`.
        while self.state.compare_exchange_weak(BUSY, CLOSING, Ordering::Acquire, Ordering::Relaxed).is_err() {
            core::hint::spin_loop();
        }
    }

    /// Keeps the pages of a block usable until [`Entry::leave`]. Tells whether there are any.
    fn enter(&self) -> bool {
        let mut seen = self.state.load(Ordering::Relaxed);
        while matches!(seen & KIND, LIVE | BUSY) {
            let entered = seen + PURGER;
            // Acquire pairs with Release in `open_block`: the place of the block is seen with it.
            match self.state.compare_exchange_weak(seen, entered, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    fn leave(&self) {
        self.state.fetch_sub(PURGER, Ordering::Release);
    }

    /// Where the block lies. Its data pages are the same at any time of its life.
    fn place(&self) -> Place {
        let block = (self.place.load(Ordering::Relaxed) & !LOCKED) as usize;
        Place::of(block, self.size.load(Ordering::Relaxed) as usize)
    }
}

impl Shared {
    fn entry(&self, number: u32) -> &Entry {
        let offset =
            self.geometry.large_table_offset + (number as usize).saturating_sub(1) * LARGE_ENTRY_BYTES;
        // SAFETY: in the table for numbers of units in the zone, and numbers come from runs that were taken.
        let at = unsafe { self.metadata.base().add(offset) }.cast::<Entry>();
        // SAFETY: committed before the run was taken; zeros at first, which is valid; only atomics.
        unsafe { &*at.as_ptr() }
    }

    /// Address of an offset in the large zone.
    fn large_address(&self, offset: usize) -> NonNull<u8> {
        // SAFETY: offsets here are below `large_bytes`, so in the memory range.
        unsafe { self.memory.base().add(self.geometry.slab_bytes + offset) }
    }

    /// Allocates a block on pages of its own: all zero.
    #[cold]
    pub(crate) fn allocate_large(&self, layout: Layout) -> Result<NonNull<u8>, Error> {
        let units = units_for(layout).ok_or(Error::TooLarge)?;
        let (class, run_units) = run_class(units).ok_or(Error::TooLarge)?;
        if run_units > self.geometry.nr_large_units() {
            return Err(Error::HeapFull { reserved_bytes: self.geometry.large_bytes });
        }
        let run = self.take_run(class, run_units)?;
        let made = self.open_block(run, class, layout);
        made.inspect_err(|_| self.give_run(run, class))
    }

    fn take_run(&self, class: usize, units: usize) -> Result<u32, Error> {
        if let Some(run) = self.large.free[class].pop(|number| &self.entry(number).link) {
            return Ok(run);
        }
        let limit = self.geometry.nr_large_units();
        let mut first = self.large.watermark.load(Ordering::Relaxed);
        loop {
            let end = first as usize + units;
            if end > limit {
                return self.take_longer_run(class);
            }
            self.commit_entries(first as usize, end)?;
            // AcqRel: the watermark makes the units known to walkers, after their entries are committed.
            match self.large.watermark.compare_exchange_weak(
                first,
                end as u32,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(first + 1),
                Err(seen) => first = seen,
            }
        }
    }

    /// When the zone is used up: a run that is longer than needed. It comes back as one of the class asked
    /// for; what is lost is addresses.
    fn take_longer_run(&self, class: usize) -> Result<u32, Error> {
        for stack in &self.large.free[class..] {
            if let Some(run) = stack.pop(|number| &self.entry(number).link) {
                return Ok(run);
            }
        }
        Err(Error::HeapFull { reserved_bytes: self.geometry.large_bytes })
    }

    fn give_run(&self, run: u32, class: usize) {
        self.large.free[class].push(run, |number| &self.entry(number).link);
    }

    fn commit_entries(&self, first: usize, end: usize) -> Result<(), Error> {
        let from = first / ENTRIES_PER_PAGE;
        let to = end.div_ceil(ENTRIES_PER_PAGE);
        // A page that another thread made usable meanwhile stays so.
        self.metadata.commit(
            pages(self.geometry.large_table_offset + from * GUARD_BYTES)?,
            pages((to - from) * GUARD_BYTES)?,
        )
    }

    fn open_block(&self, run: u32, class: usize, layout: Layout) -> Result<NonNull<u8>, Error> {
        let run_offset = (run as usize - 1) * UNIT_BYTES;
        let zone_address = self.large_address(0).addr().get();
        let place = Place::new(run_offset, zone_address, layout).ok_or(Error::TooLarge)?;
        let zone_start = self.geometry.slab_bytes;
        let offset = pages(zone_start + place.data_start)?;
        let bytes = pages(place.data_bytes())?;
        self.memory.commit(offset, bytes)?;
        let locked = match self.lock_large(zone_start + place.data_start, place.data_bytes()) {
            Ok(locked) => locked,
            Err(error) => {
                // SAFETY: no block was made in it yet.
                let _ = unsafe { self.memory.decommit(offset, bytes) };
                return Err(error);
            }
        };
        let ptr = self.large_address(place.block);
        let pin = self.pin_large(place);
        for i in 0..place.slack() {
            // SAFETY: the slack lies on the block's own pages, which are usable now.
            let at = unsafe { ptr.add(place.size + i) };
            // SAFETY: as above; nobody else knows the block.
            unsafe { at.write(canary::byte(self.key, i)) };
        }
        let entry = self.entry((place.block / UNIT_BYTES) as u32 + 1);
        entry.run.store(u64::from(run) << 8 | class as u64, Ordering::Relaxed);
        entry.place.store(place.block as u64 | if locked { LOCKED } else { 0 }, Ordering::Relaxed);
        entry.size.store(place.size as u64, Ordering::Relaxed);
        entry.pin.store(pin.map_or(0, |id| id.into_bits().get()), Ordering::Relaxed);
        entry.generation.store(self.generation(), Ordering::Relaxed);
        // Release: a walker that sees the block sees where it is.
        entry.state.store(LIVE, Ordering::Release);
        self.counters.committed_bytes.fetch_add(place.data_bytes(), Ordering::Relaxed);
        self.counters.take(place.data_bytes());
        Ok(ptr)
    }

    /// Locks the pages of a block as the policy says. Tells whether they are locked.
    fn lock_large(&self, offset: usize, bytes: usize) -> Result<bool, Error> {
        if self.policy.lock() == Lock::Off {
            return Ok(false);
        }
        match self.lock_part(offset, bytes) {
            Ok(()) => Ok(true),
            Err(error) if self.policy.lock() == Lock::Required => Err(error),
            Err(_) => {
                self.counters.lock_refused.fetch_add(1, Ordering::Relaxed);
                self.counters.unlocked_bytes.fetch_add(bytes, Ordering::Relaxed);
                Ok(false)
            }
        }
    }

    fn pin_large(&self, place: Place) -> Option<PinId> {
        if self.policy.backing() != Backing::Auto {
            return None;
        }
        // SAFETY: the data pages were made usable by the caller and stay so until the block is freed, which
        // unpins first.
        match unsafe { self.pins.pin(self.large_address(place.data_start), place.data_bytes()) } {
            Ok(id) => {
                self.counters.pinned_bytes.fetch_add(place.data_bytes(), Ordering::Relaxed);
                Some(id)
            }
            Err(errno) => {
                self.counters.pin_refused.fetch_add(1, Ordering::Relaxed);
                self.counters.pin_errno.store(errno.0.cast_unsigned(), Ordering::Relaxed);
                None
            }
        }
    }

    /// The live block that starts at `ptr`, taken out of use: its entry is `BUSY` now.
    fn claim_block(&self, ptr: *const u8) -> Result<(&Entry, Place), Corruption> {
        let offset = ptr.addr().wrapping_sub(self.large_address(0).addr().get());
        let unit = offset / UNIT_BYTES;
        if unit >= self.large.watermark() as usize {
            return Err(Corruption::InvalidFree);
        }
        let entry = self.entry(unit as u32 + 1);
        let is_here = |entry: &Entry| (entry.place.load(Ordering::Relaxed) & !LOCKED) as usize == offset;
        match entry.claim() {
            Ok(()) if is_here(entry) => {
                Ok((entry, Place::of(offset, entry.size.load(Ordering::Relaxed) as usize)))
            }
            Ok(()) => Err(Corruption::InvalidFree),
            Err(0) => Err(Corruption::InvalidFree),
            Err(_) if is_here(entry) => Err(Corruption::DoubleFree),
            Err(_) => Err(Corruption::InvalidFree),
        }
    }

    /// Frees a large block: checked, wiped, flushed, unpinned, given back.
    ///
    /// # Safety
    /// - If a live block starts at `ptr`, nobody uses it any more.
    #[cold]
    pub(crate) unsafe fn free_large(
        &self,
        ptr: *const u8,
        size: Option<usize>,
        flush: Flush,
    ) -> Result<(), Corruption> {
        let (entry, place) = self.claim_block(ptr)?;
        let was_locked = entry.place.load(Ordering::Relaxed) & LOCKED != 0;
        if size.is_some_and(|size| size != place.size) {
            return Err(Corruption::WrongLayout);
        }
        let run = entry.run.load(Ordering::Relaxed);
        if self.is_inherited_large(entry) {
            // Its memory is gone, or zero, in this process; the run is not trusted with new secrets.
            entry.state.store(FREE, Ordering::Release);
            self.counters.inherited_frees.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        // SAFETY: the block's pages are usable until they are given back below.
        unsafe { self.check_large(place) }?;
        // SAFETY: as above, and nobody uses the block, as the caller promises.
        unsafe {
            self.wipe_large(place, if was_locked { LockState::Locked } else { LockState::Unlocked }, flush)
        };
        if let Some(bits) = NonZeroU64::new(entry.pin.swap(0, Ordering::Relaxed)) {
            // A pin that does not exist any more (its ring was closed) needs no unpinning.
            let _ = self.pins.unpin(PinId::from_bits(bits));
            subtract(&self.counters.pinned_bytes, place.data_bytes());
        }
        entry.close();
        self.close_pages(place, was_locked);
        subtract(&self.counters.committed_bytes, place.data_bytes());
        subtract(&self.counters.in_use_bytes, place.data_bytes());
        entry.state.store(FREE, Ordering::Release);
        self.give_run((run >> 8) as u32, (run & 0xff) as usize);
        Ok(())
    }

    /// Whether a block was made by a process that forked since, and is gone here.
    fn is_inherited_large(&self, entry: &Entry) -> bool {
        self.policy.fork() != Fork::Inherit && entry.generation.load(Ordering::Relaxed) != self.generation()
    }

    /// Checks the bytes before and behind a large block.
    ///
    /// # Safety
    /// - The data pages of `place` are readable.
    unsafe fn check_large(&self, place: Place) -> Result<(), Corruption> {
        let front = self.large_address(place.data_start);
        // SAFETY: the front lies on the first data page.
        if !unsafe { wipe::is_zero(front, place.block - place.data_start) } {
            return Err(Corruption::Underflow);
        }
        let end = self.large_address(place.block + place.size).as_ptr().cast_const();
        for i in 0..place.slack() {
            // SAFETY: the slack lies on the last data page.
            let byte = unsafe { *end.wrapping_add(i) };
            if byte != canary::byte(self.key, i) && !(byte == 0 && self.is_purged()) {
                return Err(Corruption::Overflow);
            }
        }
        Ok(())
    }

    /// Wipes the data pages of a block. Where they are locked, pages that were never touched are left alone:
    /// they hold nothing, and a locked page cannot be anywhere but in memory.
    ///
    /// # Safety
    /// - The data pages of `place` are usable, and nobody uses the block.
    unsafe fn wipe_large(&self, place: Place, state: LockState, flush: Flush) {
        let mut from = place.data_start;
        while from < place.data_end {
            let window = (place.data_end - from).min(WINDOW_PAGES * GUARD_BYTES);
            let mut map = [1; WINDOW_PAGES];
            if state == LockState::Locked
                && let (Ok(offset), Ok(bytes)) = (pages(self.geometry.slab_bytes + from), pages(window))
            {
                // If the kernel does not tell, all of it counts as touched.
                let _ = self.memory.resident(offset, bytes, &mut map);
            }
            let mut page = 0;
            let nr_pages = window / GUARD_BYTES;
            while page < nr_pages {
                let start = page;
                while page < nr_pages && map[page] & 1 != 0 {
                    page += 1;
                }
                if page > start {
                    let ptr = self.large_address(from + start * GUARD_BYTES);
                    let len = (page - start) * GUARD_BYTES;
                    match flush {
                        // SAFETY: usable pages of the block, which nobody uses.
                        Flush::Off => unsafe { wipe::zero(ptr, len) },
                        // Past the caches at once: the pages will not be mapped when a later write-back came.
                        // SAFETY: as above.
                        Flush::Immediate | Flush::Bounded => unsafe { wipe::zero_and_flush(ptr, len) },
                    }
                } else {
                    page += 1;
                }
            }
            from += window;
        }
    }

    /// Takes pages out of use that hold nothing any more. What the kernel refuses costs memory or a mapping,
    /// not secrecy: the pages are zero.
    fn close_pages(&self, place: Place, was_locked: bool) {
        let start = self.geometry.slab_bytes + place.data_start;
        let (Ok(offset), Ok(bytes)) = (pages(start), pages(place.data_bytes())) else { return };
        let state = if was_locked { LockState::Locked } else { LockState::Unlocked };
        // SAFETY: the block is not in use any more and was unpinned.
        let _ = unsafe { self.memory.discard(offset, bytes, state) };
        if was_locked {
            if self.memory.unlock(offset, bytes).is_ok() {
                subtract(&self.counters.locked_bytes, place.data_bytes());
            }
        } else if self.policy.lock() != Lock::Off {
            subtract(&self.counters.unlocked_bytes, place.data_bytes());
        }
        // SAFETY: as above.
        let _ = unsafe { self.memory.decommit(offset, bytes) };
    }

    /// Changes the size of a large block without moving it, if its pages and its alignment allow it. Tells
    /// whether it did.
    ///
    /// # Safety
    /// - A live block of `old.size()` bytes starts at `ptr`; when it shrinks, nobody uses what is cut off.
    pub(crate) unsafe fn resize_large(
        &self,
        ptr: *const u8,
        old: usize,
        new: usize,
    ) -> Result<bool, Corruption> {
        let (entry, place) = self.claim_block(ptr)?;
        if old != place.size {
            return Err(Corruption::WrongLayout);
        }
        let is_stale = entry.generation.load(Ordering::Relaxed) != self.generation();
        if new == 0
            || new + place.block > place.data_end
            || place.slack() + old - new >= GUARD_BYTES
            || is_stale
        {
            entry.unclaim();
            return Ok(false);
        }
        // SAFETY: the block's pages are usable.
        unsafe { self.check_large(place) }?;
        let start = self.large_address(place.block + new.min(old));
        // SAFETY: from the shorter size to the end of the pages: what is cut off, or slack that becomes block.
        unsafe { wipe::zero_and_flush(start, place.data_end - place.block - new.min(old)) };
        let end = self.large_address(place.block + new).as_ptr();
        for i in 0..place.data_end - place.block - new {
            // SAFETY: the slack lies on the block's last page.
            unsafe { end.wrapping_add(i).write(canary::byte(self.key, i)) };
        }
        entry.size.store(new as u64, Ordering::Relaxed);
        entry.unclaim();
        Ok(true)
    }

    /// The size of the live large block that starts at `ptr`.
    pub(crate) fn large_size(&self, ptr: *const u8) -> Option<usize> {
        let (entry, place) = self.claim_block(ptr).ok()?;
        entry.unclaim();
        Some(place.size)
    }

    /// Hands every live large block to `see`: its first data page, and the bytes of its data pages and of
    /// the block itself.
    pub(crate) fn visit_large(&self, mut see: impl FnMut(NonNull<u8>, usize, usize)) {
        for number in 1..=self.large.watermark() {
            let entry = self.entry(number);
            // Acquire pairs with Release in `open_block`.
            if entry.state.load(Ordering::Acquire) & KIND == LIVE && !self.is_inherited_large(entry) {
                let place = entry.place();
                see(self.large_address(place.data_start), place.data_bytes(), place.size);
            }
        }
    }

    /// Hands the data pages of every large block that holds anything to `wipe`, also of one that its owner is
    /// about to resize or to free: the pages stay usable meanwhile.
    pub(crate) fn purge_large(&self, mut wipe: impl FnMut(NonNull<u8>, usize)) {
        for number in 1..=self.large.watermark() {
            let entry = self.entry(number);
            if entry.enter() {
                if !self.is_inherited_large(entry) {
                    let place = entry.place();
                    wipe(self.large_address(place.data_start), place.data_bytes());
                }
                entry.leave();
            }
        }
    }
}

/// Subtracts without passing zero: a forked child starts to count anew.
pub(crate) fn subtract(counter: &core::sync::atomic::AtomicUsize, bytes: usize) {
    let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(now.saturating_sub(bytes)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn run_classes_grow_without_gaps() {
        let mut last = (0, 1);
        for units in 1..300_000 {
            let (class, length) = run_class(units).unwrap();
            assert!(length >= units && length <= units + units / 4);
            assert!(class == last.0 && length == last.1 || class == last.0 + 1 && length > last.1, "{units}");
            assert_eq!(run_class(length), Some((class, length)));
            last = (class, length);
        }
        assert_eq!(run_class(1 << 22).map(|run| run.1), Some(1 << 22));
        assert_eq!(run_class((1 << 22) + 1), None);
    }

    proptest! {
        #[test]
        fn a_block_lies_in_its_run_and_ends_at_a_guard(size in 0_usize..(1 << 24), shift in 0_u32..=30, unit in 0_usize..1000) {
            let layout = Layout::from_size_align(size, 1 << shift).unwrap();
            let run_offset = unit * UNIT_BYTES;
            let zone = 0x7000_0000_0000 + UNIT_BYTES * 3;
            let run_bytes = units_for(layout).unwrap() * UNIT_BYTES;
            let place = Place::new(run_offset, zone, layout).unwrap();
            prop_assert_eq!((zone + place.block) % layout.align(), 0);
            prop_assert!(place.data_start >= run_offset && place.data_start <= place.block);
            prop_assert!(place.block + size <= place.data_end);
            prop_assert!(place.data_end + GUARD_BYTES <= run_offset + run_bytes);
            prop_assert_eq!(Place::of(place.block, size), place);
            if layout.align() <= GRANULE_BYTES { prop_assert!(place.slack() < GRANULE_BYTES.max(2 * usize::from(size == 0) * 8)); }
        }
    }
}
