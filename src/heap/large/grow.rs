//! A large block grows by having its pages moved, not copied.
//!
//! A block that outgrows its run needs another. To copy it takes a fault for every page of the new place, a copy, a wipe
//! of the old place, and for as long both places hold the secret. `mremap(2)` moves the entries of the page table: each
//! page exists once, at any time, and there is nothing to wipe. Two ways were weighed:
//!
//! 1. From the old place to the new one in one call. The old addresses belong to nobody then, until they are reserved
//!    again, and another thread's `mmap` may get them: a foreign mapping in the middle of the heap. Linux 5.7 can leave
//!    the old mapping where it is (`MREMAP_DONTUNMAP`), but only for pages that do not grow in the same call. New pages
//!    put behind them would be a second mapping, and what is more than one mapping cannot be moved the next time.
//! 2. In two calls, over addresses of the kernel's choice: out of the old place, which stays mapped, then into the new
//!    one, with the growth. This is what is done: none of our addresses is ever free, but those of the new place if the
//!    second call fails halfway. Then the block is copied back, the new place is given up for good, and this heap tries
//!    no more.
//!
//! It is done only where it costs no protection, and elsewhere blocks are copied as ever:
//!
//! - Not where the run is locked: Linux 6.18 counts locked pages moved so twice against the limit. So it is for heaps
//!   with `Lock::Off`, and for blocks beyond the share of the limit that `Lock::BestEffort` may use. A block that could
//!   be locked at its new place is copied there, to be locked.
//! - Not for memory that is pinned, hidden or sealed by a key, and not in crowded runs.
//! - Only if the block starts at the same place in its page as before, since its end stays against the guard.
//! - Not when it shrinks.
//!
//! What remains: a child forked by another thread between the two calls does not know of such a block, as of any other
//! that its parent was about to move; with `Fork::Inherit` its bytes stay in the child, and a purge there misses them.

// UNSAFETY: moves the pages of a block that the calling thread has claimed.
#![expect(unsafe_code, reason = "acts on a claimed block and on a run that the calling thread has taken")]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "offsets in a range of at most 2^38 bytes, checked where they come from sizes"
)]

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

use super::entry::{Entry, FREE, LIVE, MOVED};
use super::place::{Place, run_class, units_for};
use super::{Corruption, Run, subtract};
use crate::heap::class;
use crate::heap::geometry::{GUARD_BYTES, UNIT_BYTES};
use crate::heap::shared::{Shared, pages};
use crate::os::{self, LockState};
use crate::pages::Moved;
use crate::{Backing, Error, Lock, wipe};

/// The shortest block whose pages are moved. Half of that still pays where every page is new (five times faster), but
/// hardly where the new place is a run that kept its pages.
const LEAST_BYTES: usize = 256 << 10;

/// The most runs that pages are moved to: their mappings never merge with those beside them, so each costs two of the
/// 65,530 that a process has.
const MOST_MOVED: u32 = 4096;

impl Shared {
    /// Lets a large block grow without copying it. `None`: it is as it was. Ends the process if it is not in order.
    ///
    /// # Safety
    /// - As for [`Heap::reallocate`](crate::heap::Heap::reallocate).
    pub(crate) unsafe fn grow_in(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new_size: usize,
    ) -> Option<NonNull<u8>> {
        if class::of(old.size(), old.align()).is_some() || new_size <= old.size() {
            return None;
        }
        // SAFETY: forwarded.
        match os::preserve_errno(|| unsafe { self.grow_large(ptr.as_ptr(), old, new_size) }) {
            Ok(moved) => moved,
            Err(crime) => crime.abort(),
        }
    }

    /// Lets a block grow by moving its pages to a longer run. `None`: nothing has changed, and it is to be copied.
    ///
    /// # Safety
    /// - If a live block starts at `ptr`, nobody else uses it; after success nobody uses it there any more.
    #[cold]
    pub(crate) unsafe fn grow_large(
        &self,
        ptr: *const u8,
        old: Layout,
        new_size: usize,
    ) -> Result<Option<NonNull<u8>>, Corruption> {
        let Ok(layout) = Layout::from_size_align(new_size, old.align()) else { return Ok(None) };
        if old.size() < LEAST_BYTES
            || new_size <= old.size()
            || old.align() > GUARD_BYTES
            || self.policy.backing() != Backing::Locked
            || self.policy.lock() == Lock::Required
            || self.large.nr_moved.load(Ordering::Relaxed) >= MOST_MOVED
            || self.counters.purging.load(Ordering::SeqCst) != 0
        {
            return Ok(None);
        }
        self.notice_fork();
        let Some((run, place)) = self.take_place(layout) else { return Ok(None) };
        // SAFETY: forwarded; the run was taken just now.
        let moved = unsafe { self.grow_into(ptr, old.size(), run, place) };
        if !matches!(moved, Ok(Moved::There | Moved::Back)) {
            self.give_run(run);
        }
        Ok((moved? == Moved::There).then(|| self.large_address(place.block)))
    }

    /// A run without pages, and the place of such a block in it.
    fn take_place(&self, layout: Layout) -> Option<(Run, Place)> {
        let (class, units) = run_class(units_for(layout)?)?;
        if units > self.geometry.nr_large_units() {
            return None;
        }
        let run = Run { number: self.take_run(class, units).ok()?, class, bytes: units * UNIT_BYTES };
        let zone_address = self.large_address(0).addr().get();
        match Place::new(run.offset(), run.bytes, zone_address, layout) {
            Some(place) if !self.is_crowded(run) && self.extent_bytes(run) == 0 => Some((run, place)),
            _ => {
                self.give_run(run);
                None
            }
        }
    }

    /// # Safety
    /// - As for [`Shared::grow_large`]; this thread has taken `run`, in which `to` lies.
    unsafe fn grow_into(
        &self,
        ptr: *const u8,
        old_size: usize,
        run: Run,
        to: Place,
    ) -> Result<Moved, Corruption> {
        let (entry, from) = self.claim_block(ptr)?;
        if from.size != old_size {
            return Err(Corruption::WrongLayout);
        }
        let old_run = self.run_of(entry).ok_or(Corruption::Metadata)?;
        if !self.is_movable(entry, old_run, from, to) {
            entry.unclaim();
            return Ok(Moved::Refused);
        }
        // SAFETY: the block's pages are usable.
        unsafe { self.check_large(from) }?;
        if self.open_place(to).is_err() {
            entry.unclaim();
            return Ok(Moved::Refused);
        }
        let purges = self.counters.purges.load(Ordering::SeqCst);
        entry.close();
        // SAFETY: claimed and closed, so that nobody uses the block, not even a purge; no block is in the new run.
        let moved = unsafe { self.move_data(from, to) };
        if moved == Moved::There {
            self.publish_moved(entry, old_run, run, from, to);
        } else {
            // Release: as in `publish`.
            entry.state.store(LIVE, Ordering::Release);
        }
        if matches!(moved, Moved::Refused | Moved::Unsupported) {
            // SAFETY: no block was made in it.
            let _ = unsafe { self.close_data(to) };
        }
        if matches!(moved, Moved::Back | Moved::Unsupported) {
            // No more of this: what was learnt holds for the life of the process.
            self.large.nr_moved.store(MOST_MOVED, Ordering::Relaxed);
        }
        // A purge that found the block closed left it alone: either it is seen here, or it sees the block (SeqCst, as
        // in `Shared::purge`).
        fence(Ordering::SeqCst);
        if self.counters.purges.load(Ordering::SeqCst) != purges {
            let at = if moved == Moved::There { to } else { from };
            // SAFETY: the usable pages of a block, whose owner waits for this call.
            unsafe { wipe::zero_and_flush(self.large_address(at.data_start), at.data_bytes()) };
        }
        Ok(moved)
    }

    /// Whether the pages of a block may be moved, and nothing is lost by it.
    fn is_movable(&self, entry: &Entry, run: Run, from: Place, to: Place) -> bool {
        let is_alone = !self.is_crowded(run)
            // With a page before it without access, and the guard behind it: a mapping of its own.
            && from.data_start > run.offset()
            && from.data_end == run.data_end()
            && self.extent_bytes(run) == from.data_bytes();
        let is_unlocked = self.lock_state(run) == LockState::Unlocked
            && match self.policy.lock() {
                Lock::Off => true,
                // Whether it would be locked at its new place, once it is gone from the old one.
                _ => {
                    let locked = self.counters.locked_bytes.load(Ordering::Relaxed);
                    locked.saturating_add(to.data_bytes()) > self.lock_share.bytes()
                }
            };
        is_alone
            && is_unlocked
            && self.is_of_this_process(&entry.generation)
            && from.block % GUARD_BYTES == to.block % GUARD_BYTES
            && from.data_bytes() < to.data_bytes()
    }

    /// Makes the new place usable: here the limits that a longer block may hit say so, while all is as it was.
    fn open_place(&self, to: Place) -> Result<(), Error> {
        let start = self.geometry.slab_bytes + to.data_start;
        self.memory.commit(pages(start)?, pages(to.data_bytes())?)
    }

    /// # Safety
    /// - Nobody uses the pages of either place.
    unsafe fn move_data(&self, from: Place, to: Place) -> Moved {
        let zone = self.geometry.slab_bytes;
        let (Ok(old), Ok(len), Ok(new), Ok(new_len)) = (
            pages(zone + from.data_start),
            pages(from.data_bytes()),
            pages(zone + to.data_start),
            pages(to.data_bytes()),
        ) else {
            return Moved::Refused;
        };
        // SAFETY: the data pages of a block are usable, and of unlocked heaps none is pinned; forwarded.
        unsafe { self.memory.move_pages(old, len, new, new_len) }
    }

    /// Makes a block known whose pages were moved, and gives its old run back.
    fn publish_moved(&self, entry: &Entry, old_run: Run, run: Run, from: Place, to: Place) {
        // What was slack is block.
        let slack = self.large_address(to.block + from.size);
        // SAFETY: the end of the pages that were moved; nobody knows the block yet.
        unsafe { wipe::zero(slack, from.slack()) };
        // SAFETY: the block is not in use there any more, and the pages are gone.
        let _ = unsafe { self.close_data(from) };
        self.entry(old_run.number).extent_pages.store(0, Ordering::Relaxed);
        self.entry(old_run.number).forget_pages();
        subtract(&self.counters.committed_bytes, from.data_bytes());
        subtract(&self.counters.in_use_bytes, from.data_bytes());
        self.large.nr_live.fetch_sub(1, Ordering::Relaxed);
        if self.policy.lock() != Lock::Off {
            self.counters.lock_refused.fetch_add(1, Ordering::Relaxed);
            let growth = to.data_bytes() - from.data_bytes();
            self.counters.unlocked_bytes.fetch_add(growth, Ordering::Relaxed);
        }
        let record = self.entry(run.number);
        record.extent_end.store(((to.data_end - run.offset()) / GUARD_BYTES) as u32, Ordering::Relaxed);
        record.extent_pages.store((to.data_bytes() / GUARD_BYTES) as u32, Ordering::Relaxed);
        record.is_locked.store(0, Ordering::Relaxed);
        if record.crowded_units.swap(MOVED, Ordering::Relaxed) != MOVED {
            self.large.nr_moved.fetch_add(1, Ordering::Relaxed);
        }
        self.publish(run, to);
        entry.state.store(FREE, Ordering::Release);
        self.give_run(old_run);
    }
}

#[cfg(all(test, target_os = "linux", not(any(miri, loom, oubliette_portable))))]
mod tests;
