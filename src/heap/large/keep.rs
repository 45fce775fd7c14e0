//! The pages of a run: locked, pinned, kept for the next block, given back.
//!
//! Taking a page from the kernel costs more than wiping it many times over. So a run whose block is freed may
//! keep its pages: they are zero, inaccessible, and locked and pinned as before. The next block of about that
//! size finds them with one system call. All blocks end at the end of their run, so the pages that a run
//! has, its *extent*, always end there too, and a longer block adds some at their front. Where not even that call is
//! to be made, see [`open`](super::open).

// UNSAFETY: changes access to pages that no block uses, gives them back, pins them by address.
#![expect(unsafe_code, reason = "changes access to pages that no block uses, as `large` does")]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    reason = "offsets in a range of at most 2^38 bytes; run classes below NR_RUNS"
)]

use core::num::NonZeroU64;
use core::sync::atomic::Ordering;

use super::place::Place;
use super::{Run, subtract};
use crate::heap::geometry::GUARD_BYTES;
use crate::heap::shared::{Shared, pages};
use crate::os::{self, Access, LockState};
use crate::pages::PinId;
use crate::{Backing, Error, Fork, Lock, Policy};

/// What a heap keeps.
#[derive(Clone, Copy, Debug)]
struct Kept {
    /// The longest extent.
    extent_bytes: usize,
    /// All of them.
    bytes: usize,
    /// All of them, if that is more: this part of what is in use, the block that is freed included.
    or_part_of_in_use: Option<usize>,
}

const KEPT: Kept = Kept { extent_bytes: 4 << 20, bytes: 16 << 20, or_part_of_in_use: None };
/// One that must lock every page keeps less, for the limit's sake.
const KEPT_REQUIRED: Kept = Kept { bytes: 1 << 20, ..KEPT };
/// That of a whole program as much as the C library, which gives no block of up to 32 MiB back by itself once such a block
/// was freed, and nothing of the end of its heap that is not twice as long (mallopt(3), "dynamic mmap threshold").
/// Programs that plot or parse make and free buffers of some megabytes again and again: with the smaller bounds gnuplot
/// takes 10,000 faults more, and 1.07 times its time with the C library instead of 1.02. One that replaces twenty buffers
/// of 5 to 25 MiB in turn (`malloc-large` of mimalloc-bench) takes 6.3 times that time with 64 MiB for runs of the class
/// asked for alone, 3.8 times with a quarter of what is in use and longer runs, and 2.3 times with half, for 1.17 times its
/// memory.
const KEPT_PROGRAM: Kept = Kept { extent_bytes: 32 << 20, bytes: 64 << 20, or_part_of_in_use: Some(2) };

/// There are four classes for each doubling: a run is at most half as long again as the block needs.
const LONGER_CLASSES: usize = 2;

impl Kept {
    const fn of(policy: Policy) -> Self {
        match (policy.lock(), policy.fork()) {
            (Lock::Required, _) => KEPT_REQUIRED,
            (_, Fork::Inherit) => KEPT_PROGRAM,
            _ => KEPT,
        }
    }
}

impl Shared {
    pub(super) fn extent_bytes(&self, run: Run) -> usize {
        self.entry(run.number).extent_pages.load(Ordering::Relaxed) as usize * GUARD_BYTES
    }

    /// Where the pages of a run end: an offset in the large zone.
    pub(super) fn extent_end(&self, run: Run) -> usize {
        run.offset() + self.entry(run.number).extent_end.load(Ordering::Relaxed) as usize * GUARD_BYTES
    }

    /// Whether the pages of a run are locked.
    pub(super) fn lock_state(&self, run: Run) -> LockState {
        match self.entry(run.number).is_locked.load(Ordering::Relaxed) {
            0 => LockState::Unlocked,
            _ => LockState::Locked,
        }
    }

    /// Makes sure that the extent of a run covers a block: locks and pins as the policy says. The data pages are
    /// usable already.
    pub(super) fn extend(&self, run: Run, place: Place) -> Result<(), Error> {
        let entry = self.entry(run.number);
        let had = self.extent_bytes(run);
        if had == 0 {
            let end = (place.data_end - run.offset()) / GUARD_BYTES;
            entry.extent_end.store(end as u32, Ordering::Relaxed);
        }
        let needed = self.extent_end(run) - place.data_start;
        if needed > had {
            // Counted with the extent that it has so far.
            self.unpin_run(run);
            let was_locked = self.lock_state(run) == LockState::Locked;
            let front = self.geometry.slab_bytes + place.data_start;
            let is_locked = (had == 0 || was_locked) && self.lock_large(front, needed - had)?;
            if had > 0 && !was_locked && self.policy.lock() != Lock::Off {
                self.counters.unlocked_bytes.fetch_add(needed - had, Ordering::Relaxed);
            }
            if was_locked && !is_locked {
                // Half locked is not locked.
                self.unlock_extent(run, had);
                self.counters.unlocked_bytes.fetch_add(had, Ordering::Relaxed);
            }
            entry.is_locked.store(u8::from(is_locked), Ordering::Relaxed);
            entry.extent_pages.store((needed / GUARD_BYTES) as u32, Ordering::Relaxed);
        }
        if had == 0 {
            self.populate(run, place)?;
        }
        if self.policy.backing() == Backing::Auto && entry.pin.load(Ordering::Relaxed) == 0 {
            self.pin_run(run, place);
        }
        Ok(())
    }

    /// Locks pages as the policy says. Tells whether they are locked.
    pub(super) fn lock_large(&self, offset: usize, bytes: usize) -> Result<bool, Error> {
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

    /// In a forked child, for a run of its parent: what is locked and pinned there is neither here.
    pub(super) fn forget_lock_and_pin(&self, run: Run) {
        let entry = self.entry(run.number);
        entry.is_locked.store(0, Ordering::Relaxed);
        entry.pin.store(0, Ordering::Relaxed);
        entry.forget_pages();
    }

    fn unlock_extent(&self, run: Run, bytes: usize) {
        let start = self.geometry.slab_bytes + self.extent_end(run) - bytes;
        if let (Ok(offset), Ok(len)) = (pages(start), pages(bytes))
            && self.memory.unlock(offset, len).is_ok()
        {
            subtract(&self.counters.locked_bytes, bytes);
        }
    }

    /// Pins the extent of a run, if all of it is data pages of this block. (An extent that could not be pinned
    /// when it was longer is not pinned in part: the next block may need the rest.)
    fn pin_run(&self, run: Run, place: Place) {
        if place.data_bytes() != self.extent_bytes(run) {
            self.counters.pin_refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // SAFETY: the data pages were made usable by the caller; before they are given back, they are unpinned.
        match unsafe { self.pins.pin(self.large_address(place.data_start), place.data_bytes()) } {
            Ok(id) => {
                self.entry(run.number).pin.store(id.into_bits().get(), Ordering::Relaxed);
                self.counters.pinned_bytes.fetch_add(self.extent_bytes(run), Ordering::Relaxed);
            }
            Err(errno) => {
                self.counters.pin_refused.fetch_add(1, Ordering::Relaxed);
                self.counters.pin_errno.store(errno.0.cast_unsigned(), Ordering::Relaxed);
            }
        }
    }

    fn unpin_run(&self, run: Run) {
        if let Some(bits) = NonZeroU64::new(self.entry(run.number).pin.swap(0, Ordering::Relaxed)) {
            // A pin that does not exist any more (its ring was closed) needs no unpinning.
            let _ = self.pins.unpin(PinId::from_bits(bits));
            subtract(&self.counters.pinned_bytes, self.extent_bytes(run));
        }
    }

    /// Makes the data pages of a freed block inaccessible and keeps them, if there is room for more. Tells
    /// whether it did.
    pub(super) fn keep(&self, run: Run, place: Place) -> bool {
        place.data_end == run.data_end()
            && self.has_room_to_keep(run)
            // SAFETY: the block is not in use any more.
            && unsafe { self.close_data(place) }.is_ok()
    }

    /// Whether the pages of one more run may be kept.
    pub(super) fn has_room_to_keep(&self, run: Run) -> bool {
        let (bytes, kept) = (self.extent_bytes(run), Kept::of(self.policy));
        let of_in_use = match kept.or_part_of_in_use {
            Some(part) => self.counters.in_use_bytes.load(Ordering::Relaxed) / part,
            None => 0,
        };
        let most = kept.bytes.max(of_in_use);
        bytes <= kept.extent_bytes && self.large.kept_bytes.load(Ordering::Relaxed) + bytes <= most
    }

    /// Takes the access to the data pages of a freed block away. Where that needs a mapping too many, the pages
    /// stay accessible: they are zero.
    ///
    /// # Safety
    /// - Nobody uses the block.
    pub(super) unsafe fn close_data(&self, place: Place) -> Result<(), Error> {
        let offset = pages(self.geometry.slab_bytes + place.data_start)?;
        // SAFETY: forwarded.
        unsafe { self.memory.decommit(offset, pages(place.data_bytes())?) }
    }

    /// Puts a run that keeps its pages where the next block finds it.
    pub(super) fn put_kept(&self, run: Run) {
        self.entry(run.number).is_kept.store(run.class as u8 + 1, Ordering::Relaxed);
        self.large.kept_bytes.fetch_add(self.extent_bytes(run), Ordering::Relaxed);
        self.large.kept[run.class].push(run.number, |number| &self.entry(number).link);
    }

    /// Takes a run that keeps its pages.
    fn take_kept(&self, class: usize) -> Option<Run> {
        let number = self.large.kept.get(class)?.pop(|number| &self.entry(number).link)?;
        let run = Run::of(number, class)?;
        self.entry(number).is_kept.store(0, Ordering::Relaxed);
        subtract(&self.large.kept_bytes, self.extent_bytes(run));
        Some(run)
    }

    /// Takes a run of this class that keeps its pages, or one that is longer by [`LONGER_CLASSES`] at most: what of its
    /// pages the next block does not need stays inaccessible at its front.
    pub(super) fn take_kept_for(&self, class: usize) -> Option<Run> {
        (class..=class + LONGER_CLASSES).find_map(|class| self.take_kept(class))
    }

    /// Gives the pages of a run back: they are zero, and no block is in them. What the kernel refuses costs memory,
    /// not secrecy.
    pub(super) fn close_run(&self, run: Run) {
        let bytes = self.extent_bytes(run);
        if bytes == 0 {
            return;
        }
        self.unpin_run(run);
        let entry = self.entry(run.number);
        if self.policy.backing() == Backing::Hidden {
            if self.lock_state(run) == LockState::Locked {
                let end = self.geometry.slab_bytes + self.extent_end(run);
                self.unhide_part(end - bytes, bytes, Access::None);
            }
            entry.is_locked.store(0, Ordering::Relaxed);
            entry.extent_pages.store(0, Ordering::Relaxed);
            entry.forget_pages();
            return;
        }
        let state = self.lock_state(run);
        if os::DISCARDS_WITHOUT_ACCESS
            && let (Ok(offset), Ok(len)) =
                (pages(self.geometry.slab_bytes + self.extent_end(run) - bytes), pages(bytes))
        {
            // SAFETY: no block is in the run, and it was unpinned above.
            if unsafe { self.memory.discard(offset, len, state) }.is_ok() {
                entry.forget_pages();
            }
        }
        match state {
            LockState::Locked => self.unlock_extent(run, bytes),
            LockState::Unlocked if self.policy.lock() != Lock::Off => {
                subtract(&self.counters.unlocked_bytes, bytes);
            }
            LockState::Unlocked => {}
        }
        entry.is_locked.store(0, Ordering::Relaxed);
        entry.extent_pages.store(0, Ordering::Relaxed);
    }

    /// Gives the pages of every kept run back. Tells whether there were any.
    pub(crate) fn drop_kept(&self) -> bool {
        let mut any = self.drop_open();
        for class in 0..super::NR_RUNS {
            while let Some(run) = self.take_kept(class) {
                self.close_run(run);
                self.give_run(run);
                any = true;
            }
        }
        any
    }

    /// Hands the extent of every kept run to `see`: its offset in the memory range, and its bytes.
    pub(crate) fn visit_kept(&self, mut see: impl FnMut(usize, usize)) {
        for number in 1..=self.large.watermark() {
            let class: usize = self.entry(number).is_kept.load(Ordering::Relaxed).into();
            if let Some(run) = class.checked_sub(1).and_then(|class| Run::of(number, class)) {
                let bytes = self.extent_bytes(run);
                see(self.geometry.slab_bytes + self.extent_end(run) - bytes, bytes);
            }
        }
    }
}
