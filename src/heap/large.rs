//! Large blocks: each on pages of its own, its end against a guard.
//!
//! ```text
//! run of units   | ............ | front | block                | slack | guard |
//!                  no access      zero    ^ aligned              canary  one page
//!                                 '------- data pages ----------------'
//! ```
//! Nothing in the large zone is accessible but the data pages of blocks in use, and of a few that were freed last.
//! Every run ends with a page without access at least, so every block has a guard on both sides and needs no system
//! call for them. A free block is wiped when the call returns. In a heap of secrets it is inaccessible then; in that of
//! a whole program the last few stay open for the next block of the same size: see [`open`]. The pages of other runs are
//! given back, or kept with the run for the next block, locked and pinned as they are: see [`keep`].

// UNSAFETY: reads and writes blocks by address, changes access to pages that no block uses.
#![expect(unsafe_code, reason = "blocks are raw memory, see the proofs")]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    reason = "offsets in a range of at most 2^38 bytes; sizes are checked against it first; run classes below NR_RUNS"
)]

mod crowd;
mod entry;
mod grow;
mod huge;
mod keep;
mod open;
mod place;
#[cfg(all(test, target_os = "linux", not(any(miri, loom, oubliette_portable))))]
mod testing;
mod touched;

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::canary;
use super::corruption::Corruption;
use super::geometry::{GUARD_BYTES, LARGE_ENTRY_BYTES, UNIT_BYTES};
use super::index_stack::IndexStack;
use super::parked::ParkedRuns;
use super::shared::{Shared, pages};
use crate::{Error, Flush, Fork, wipe};
use entry::{Entry, FREE, KIND, LIVE};

use place::{NR_RUNS, Place, run_class, run_units, units_for};

/// A page of the table: entries committed at once.
const ENTRIES_PER_PAGE: usize = GUARD_BYTES / LARGE_ENTRY_BYTES;
/// Pages that one `mincore` call of the wipe asks for.
const WINDOW_PAGES: usize = 512;

/// The runs of the large zone.
#[derive(Debug)]
pub(crate) struct LargeZone {
    /// Units below it were handed out; numbers are unit indexes in the zone plus one.
    watermark: AtomicU32,
    /// Free runs by length class; a run is known by the number of its first unit.
    free: [IndexStack; NR_RUNS],
    /// The same for runs that keep their pages, and the bytes of all these.
    kept: [IndexStack; NR_RUNS],
    kept_bytes: AtomicUsize,
    /// Runs that keep their pages and are accessible, and the bytes of these.
    open: ParkedRuns,
    open_bytes: AtomicUsize,
    /// Blocks in use.
    nr_live: AtomicU32,
    /// Runs that pages were moved to (`grow`).
    nr_moved: AtomicU32,
}

/// A run that a thread took: its first unit's number, its length class, and its length.
#[derive(Clone, Copy, Debug)]
struct Run {
    number: u32,
    class: usize,
    bytes: usize,
}

impl Run {
    /// The run of this number; `None` if there is no such class.
    fn of(number: u32, class: usize) -> Option<Self> {
        Some(Self { number, class, bytes: run_units(class)? * UNIT_BYTES })
    }

    /// Offset in the large zone.
    const fn offset(self) -> usize {
        (self.number as usize - 1) * UNIT_BYTES
    }

    /// Where its pages end: at the guard.
    const fn data_end(self) -> usize {
        self.offset() + self.bytes - GUARD_BYTES
    }
}

impl LargeZone {
    pub(crate) fn new() -> Self {
        Self {
            watermark: AtomicU32::new(0),
            free: core::array::from_fn(|_| IndexStack::new()),
            kept: core::array::from_fn(|_| IndexStack::new()),
            kept_bytes: AtomicUsize::new(0),
            open: ParkedRuns::new(),
            open_bytes: AtomicUsize::new(0),
            nr_live: AtomicU32::new(0),
            nr_moved: AtomicU32::new(0),
        }
    }

    /// In a forked child, free runs of the parent are given up: they are neither known nor locked alike.
    pub(crate) fn forget_after_fork(&self) {
        for stack in self.free.iter().chain(&self.kept) {
            stack.clear();
        }
        self.kept_bytes.store(0, Ordering::Relaxed);
        self.open.clear();
        self.open_bytes.store(0, Ordering::Relaxed);
    }

    /// Units ever handed out.
    pub(crate) fn watermark(&self) -> u32 {
        self.watermark.load(Ordering::Acquire)
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
        let bytes = run_units * UNIT_BYTES;
        // Blocks aligned to more than a page do not end where the kept pages do.
        if layout.align() <= GUARD_BYTES {
            if let Some(ptr) = self.reuse_open(class, layout) {
                return Ok(ptr);
            }
            if let Some(run) = self.take_kept_for(class) {
                if let Ok(ptr) = self.open_block(run, layout, 0) {
                    return Ok(ptr);
                }
                self.close_run(run);
                self.give_run(run);
            }
        }
        let mut run = Run { number: self.take_run(class, run_units)?, class, bytes };
        if layout.align() > GUARD_BYTES && self.is_crowded(run) {
            // Its guard would be in the wrong place.
            let fresh = self.take_fresh_run(class, run_units);
            self.give_run(run);
            run.number = fresh?;
        }
        match self.open_block(run, layout, 0) {
            // Pages that are kept count against the limits, too.
            Err(_) if self.drop_kept() => self.open_block(run, layout, 0),
            opened => opened,
        }
        .inspect_err(|_| {
            if !self.is_crowded(run) {
                self.close_run(run);
            }
            self.give_run(run);
        })
    }

    fn take_run(&self, class: usize, units: usize) -> Result<u32, Error> {
        if let Some(run) = self.large.free[class].pop(|number| &self.entry(number).link) {
            return Ok(run);
        }
        self.take_fresh_run(class, units)
    }

    fn take_fresh_run(&self, class: usize, units: usize) -> Result<u32, Error> {
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
        if self.drop_kept() {
            return self.take_longer_run(class);
        }
        Err(Error::HeapFull { reserved_bytes: self.geometry.large_bytes })
    }

    fn give_run(&self, run: Run) {
        self.large.free[run.class].push(run.number, |number| &self.entry(number).link);
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

    /// Makes a block in a run, of which `open_bytes` at the end are accessible. On an error none are any more, and
    /// pages may have been added to its extent.
    fn open_block(&self, run: Run, layout: Layout, open_bytes: usize) -> Result<NonNull<u8>, Error> {
        let zone_address = self.large_address(0).addr().get();
        let place = Place::new(run.offset(), run.bytes, zone_address, layout).ok_or(Error::TooLarge)?;
        // Before anything else: whichever way a block is made here, and at whatever try.
        self.end_asking(run)?;
        if self.is_to_be_crowded(run, layout) && self.crowd(run, place)? {
            return Ok(self.publish(run, place));
        }
        self.grant(place, open_bytes)?;
        self.check_unchecked(run, place);
        if let Err(error) = self.extend(run, place) {
            // SAFETY: no block was made in it yet.
            let _ = unsafe { self.close_data(place) };
            return Err(error);
        }
        Ok(self.publish(run, place))
    }

    /// Makes a block known whose pages are usable.
    fn publish(&self, run: Run, place: Place) -> NonNull<u8> {
        let ptr = self.large_address(place.block);
        for i in 0..place.slack() {
            // SAFETY: the slack lies on the block's own pages, which are usable now.
            let at = unsafe { ptr.add(place.size + i) };
            // SAFETY: as above; nobody else knows the block.
            unsafe { at.write(canary::byte(self.key, i)) };
        }
        let entry = self.entry((place.block / UNIT_BYTES) as u32 + 1);
        entry.run.store(u64::from(run.number) << 8 | run.class as u64, Ordering::Relaxed);
        entry.place.store(place.block as u64, Ordering::Relaxed);
        entry.size.store(place.size as u64, Ordering::Relaxed);
        entry.generation.store(self.generation(), Ordering::Relaxed);
        // Release: a walker that sees the block sees where it is.
        entry.state.store(LIVE, Ordering::Release);
        self.counters.committed_bytes.fetch_add(place.data_bytes(), Ordering::Relaxed);
        self.counters.take(place.data_bytes());
        self.large.nr_live.fetch_add(1, Ordering::Relaxed);
        ptr
    }

    /// The live block that starts at `ptr`, taken out of use: its entry is `BUSY` now.
    fn claim_block(&self, ptr: *const u8) -> Result<(&Entry, Place), Corruption> {
        let offset = ptr.addr().wrapping_sub(self.large_address(0).addr().get());
        let unit = offset / UNIT_BYTES;
        if unit >= self.large.watermark() as usize {
            return Err(Corruption::InvalidFree);
        }
        let entry = self.entry(unit as u32 + 1);
        let is_here = |entry: &Entry| entry.offset() == offset;
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
        if size.is_some_and(|size| size != place.size) {
            return Err(Corruption::WrongLayout);
        }
        let run = self.run_of(entry).ok_or(Corruption::Metadata)?;
        if self.is_inherited_large(entry) {
            // Its memory is gone, or zero, in this process; the run is not trusted with new secrets.
            entry.state.store(FREE, Ordering::Release);
            self.counters.inherited_frees.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        // SAFETY: the block's pages are usable until they are given back below.
        unsafe { self.check_large(place) }?;
        // In a forked child, locks and pins are not what the records say.
        let is_own = self.is_of_this_process(&entry.generation);
        if !is_own {
            self.forget_lock_and_pin(run);
        }
        // SAFETY: as above, and nobody uses the block, as the caller promises.
        unsafe { self.wipe_large(run, place, flush) };
        entry.close();
        let is_crowded = self.is_crowded(run);
        let is_open = is_own && !is_crowded && self.stays_open(run, place);
        let is_kept = is_own && !is_crowded && !is_open && self.keep(run, place);
        if is_crowded {
            // SAFETY: the block is not in use any more, and is wiped.
            unsafe { self.discard_data(run, place) };
        } else if !is_kept && !is_open {
            // SAFETY: the block is not in use any more, and is wiped.
            let _ = unsafe { self.close_data(place) };
            self.close_run(run);
        }
        subtract(&self.counters.committed_bytes, place.data_bytes());
        subtract(&self.counters.in_use_bytes, place.data_bytes());
        self.large.nr_live.fetch_sub(1, Ordering::Relaxed);
        entry.state.store(FREE, Ordering::Release);
        if is_open {
            self.put_open(run, place);
        } else if is_kept {
            self.put_kept(run);
        } else {
            self.give_run(run);
        }
        Ok(())
    }

    /// The run of a block in use.
    fn run_of(&self, entry: &Entry) -> Option<Run> {
        let record = entry.run.load(Ordering::Relaxed);
        let class = (record & 0xff) as usize;
        let number = u32::try_from(record >> 8).ok()?;
        if number > 0 { Run::of(number, class) } else { None }
    }

    /// Whether a block was made by a process that forked since, and is gone here.
    fn is_inherited_large(&self, entry: &Entry) -> bool {
        self.policy.fork() != Fork::Inherit && !self.is_of_this_process(&entry.generation)
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
        // It may be the first that a child does with the heap, which has to know that the block is gone.
        self.notice_fork();
        let (entry, place) = self.claim_block(ptr)?;
        if old != place.size {
            return Err(Corruption::WrongLayout);
        }
        let is_stale = !self.is_of_this_process(&entry.generation);
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

    /// The size of the live large block that starts at `ptr`. Only reads, since any number of threads may ask at
    /// the same time.
    pub(crate) fn large_size(&self, ptr: *const u8) -> Option<usize> {
        let offset = ptr.addr().wrapping_sub(self.large_address(0).addr().get());
        let unit = offset / UNIT_BYTES;
        if unit >= self.large.watermark() as usize {
            return None;
        }
        let entry = self.entry(unit as u32 + 1);
        // Acquire pairs with Release in `publish`.
        let is_live = entry.state.load(Ordering::Acquire) & KIND == LIVE && entry.offset() == offset;
        is_live.then(|| entry.size.load(Ordering::Relaxed) as usize)
    }

    /// Hands every live large block to `see`: where its pages start in the memory range and how many bytes they are, those
    /// included that its run keeps in front of it; and the bytes of the block itself.
    pub(crate) fn visit_large(&self, mut see: impl FnMut(usize, usize, usize)) {
        for number in 1..=self.large.watermark() {
            let entry = self.entry(number);
            // Acquire pairs with Release in `open_block`.
            if entry.state.load(Ordering::Acquire) & KIND == LIVE && !self.is_inherited_large(entry) {
                let place = entry.place();
                let in_front = match self.run_of(entry) {
                    Some(run) if self.extent_end(run) == place.data_end => {
                        self.extent_bytes(run).saturating_sub(place.data_bytes())
                    }
                    _ => 0,
                };
                let start = (self.geometry.slab_bytes + place.data_start).saturating_sub(in_front);
                see(start, in_front + place.data_bytes(), place.size);
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
