//! The pool of units: where slabs come from and go back to.
//!
//! | state | guard | access | lock | found |
//! |---|---|---|---|---|
//! | fresh | no | none | no | above the watermark |
//! | bare | maybe | maybe | no | on the stack `bare`: something could not be made, or the lock was given back |
//! | ready | yes | yes | as the policy says | on the stack `ready`; its memory was given back or never touched |
//! | slab | yes | yes | as the policy says | owned by a thread heap |
//! | warm | yes | yes | as before | was a slab, and keeps its pages: see [`warm`](super::warm) |
//!
//! Hidden memory (`Backing::Hidden`) is put in the place of a unit's slots when it would be locked, and reserved
//! addresses in the place of that when the unit is given back. Its guard is never part of it.

// UNSAFETY: makes guards in and gives back units that nobody uses.
#![expect(unsafe_code, reason = "acts on units that the calling thread has just taken for itself")]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "numbers of units are below 2^22"
)]

use core::num::NonZeroU64;
use core::ops::Range;
use core::sync::atomic::Ordering;

use super::geometry::{GUARD_BYTES, PAYLOAD_BYTES, UNIT_BYTES};
use super::index_stack::IndexStack;
use super::large::subtract;
use super::shared::{Shared, pages};
use super::tables::Unit;
use super::warm::Warm;
use super::watermark::Watermark;
use crate::os::{self, Access, LockState, Support};
use crate::pages::{GuardKind, PageBytes, PinId};
use crate::{Backing, Error, Lock};

/// Units made ready at once where a lock may fail without harm: fewer system calls a unit.
const BATCH: u32 = 16;

/// Free units to look at for one that lies well.
const CHOICE: usize = 4;

/// What was made of a unit, as kept in its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Prepared {
    /// Nothing, or not all of it.
    Nothing = 0,
    /// Guard and access; not locked.
    Unlocked = 1,
    /// Guard, access and lock.
    Locked = 2,
}

/// The pool.
#[derive(Debug)]
pub(crate) struct Units {
    /// Units below it were handed out at least once. Unit 0 never is.
    watermark: Watermark,
    ready: IndexStack,
    bare: IndexStack,
    pub(crate) warm: Warm,
}

impl Units {
    pub(crate) fn new() -> Self {
        Self {
            watermark: Watermark::new(1),
            ready: IndexStack::new(),
            bare: IndexStack::new(),
            warm: Warm::new(),
        }
    }

    /// Units below it were handed out at least once.
    pub(crate) fn watermark(&self) -> u32 {
        self.watermark.get()
    }

    /// In a forked child: units are neither guarded nor locked there any more, so they are given up. A heap
    /// that is inherited has its guards still, but free units keep only what the child can trust.
    pub(crate) fn forget_after_fork(&self) {
        self.ready.clear();
        self.bare.clear();
        self.warm.forget_after_fork();
    }
}

impl Shared {
    /// Takes a unit for a slab: guarded, usable, locked and pinned as the policy says, all zero. `crowd` tells how many
    /// slabs of the caller's are where one should not be too: see `Pending`.
    pub(crate) fn acquire_unit(&self, crowd: impl Fn(u32) -> u32) -> Result<Unit, Error> {
        let link = |number| self.unit_link(number);
        let unit = if let Some(unit) = self.take_warm(&crowd) {
            unit
        } else if let Some(number) = self.choose_unit(&self.units.ready, &crowd) {
            // SAFETY: only numbers of units are pushed.
            unsafe { self.unit_in_list(number) }
        } else if let Some(number) = self.units.bare.pop(link) {
            // SAFETY: as above.
            let unit = unsafe { self.unit_in_list(number) };
            self.prepare(unit, 1).inspect_err(|_| self.units.bare.push(unit.number(), link))?;
            unit
        } else {
            self.acquire_fresh()?
        };
        self.pin(unit);
        self.counters.take(UNIT_BYTES);
        Ok(unit)
    }

    /// Takes one of the [`CHOICE`] units on top of a stack: the first without a crowd, or that with the least.
    ///
    /// Others do not find those that it looks at meanwhile. Where a unit more or less matters, since each takes its part of
    /// a limit, or since few are left that were never used, it takes the first: nobody is to be told that the heap is full
    /// because of units that somebody looks at. (Who began to look before that is done long before the rest is used.)
    pub(crate) fn choose_unit(&self, stack: &IndexStack, crowd: impl Fn(u32) -> u32) -> Option<u32> {
        let link = |number| self.unit_link(number);
        let mut best = stack.pop(link)?;
        let is_short = self.policy.lock() == Lock::Required || self.is_nearly_used_up();
        let mut least = if is_short { 0 } else { crowd(best) };
        let mut others = [0; CHOICE - 1];
        for place in &mut others {
            if least == 0 {
                break;
            }
            let Some(other) = stack.pop(link) else { break };
            *place = other;
            let its = crowd(other);
            if its < least {
                least = its;
                core::mem::swap(&mut best, place);
            }
        }
        for other in others.into_iter().rev().filter(|&other| other != 0) {
            stack.push(other, link);
        }
        Some(best)
    }

    /// Whether less than an eighth of the units was never used.
    fn is_nearly_used_up(&self) -> bool {
        let all = self.geometry.nr_units();
        self.units.watermark() as usize > all - all / 8
    }

    /// Takes units that nobody had before: one, and some more for the pool.
    fn acquire_fresh(&self) -> Result<Unit, Error> {
        let wanted = if self.policy.lock() == Lock::Required { 1 } else { BATCH };
        let limit = u32::try_from(self.geometry.nr_units()).unwrap_or(u32::MAX);
        let claimed =
            self.units.watermark.claim(wanted, limit, |range| self.commit_metadata(range.end as usize))?;
        let Some(Range { start: first, end }) = claimed else {
            return Err(Error::HeapFull { reserved_bytes: self.geometry.slab_bytes });
        };
        let count = end - first;
        let link = |number| self.unit_link(number);
        // SAFETY: its metadata was committed above.
        let unit = unsafe { Unit::new(first) };
        let made = self.prepare(unit, count);
        let (pool, kept) = match made {
            Ok(()) => (&self.units.ready, 1),
            Err(_) => (&self.units.bare, 0),
        };
        for number in (first + kept..end).rev() {
            pool.push(number, link);
        }
        made.map(|()| unit)
    }

    /// Makes guard, access and lock of `count` units that the caller took.
    fn prepare(&self, first: Unit, count: u32) -> Result<(), Error> {
        let is_fresh = self.header_state(first) == Prepared::Nothing as u32;
        let has_markers = os::features().guard_install == Support::Yes;
        if !is_fresh && has_markers && self.policy.backing() != Backing::Hidden {
            // Guard and access were made before and outlast all that was done since: only the lock is missing.
            let locked = self.lock_units(first, count, GuardKind::Marker)?;
            self.tables.header(first).prepared.store(locked as u32, Ordering::Relaxed);
            return Ok(());
        }
        let offset = pages(first.offset())?;
        let bytes = pages(count as usize * UNIT_BYTES)?;
        self.memory.commit(offset, bytes)?;
        // SAFETY: the last page of each unit holds no slot, so nobody has a reference into it.
        let kind = unsafe {
            self.memory.guard_each(
                pages(first.offset() + PAYLOAD_BYTES)?,
                pages(GUARD_BYTES)?,
                pages(UNIT_BYTES)?,
                count as usize,
            )
        }?;
        if kind == GuardKind::NoAccess && is_fresh {
            self.counters.guards_by_mprotect.fetch_add(count as usize, Ordering::Relaxed);
        }
        let locked = self.lock_units(first, count, kind)?;
        if is_fresh {
            self.counters.committed_bytes.fetch_add(bytes.get(), Ordering::Relaxed);
        }
        for number in first.number()..first.number() + count {
            // SAFETY: the caller's units are committed, all `count` of them.
            let unit = unsafe { Unit::new(number) };
            self.tables.header(unit).prepared.store(locked as u32, Ordering::Relaxed);
        }
        Ok(())
    }

    fn header_state(&self, unit: Unit) -> u32 {
        self.tables.header(unit).prepared.load(Ordering::Relaxed)
    }

    fn lock_units(&self, first: Unit, count: u32, kind: GuardKind) -> Result<Prepared, Error> {
        let bytes = count as usize * UNIT_BYTES;
        if self.policy.backing() == Backing::Hidden {
            // One unit (`acquire_fresh`): its slots, and not the guard.
            return self.lock_part(first.offset(), PAYLOAD_BYTES).map(|()| Prepared::Locked);
        }
        if self.policy.lock() == Lock::Off {
            return Ok(Prepared::Unlocked);
        }
        // Kernels without `mlock2` fault the pages in and stumble over guards without access.
        let is_piecewise =
            kind == GuardKind::NoAccess && !matches!(os::features().lock_on_fault, Support::Yes);
        let locked = if is_piecewise {
            (0..count as usize)
                .try_for_each(|i| self.lock_part(first.offset() + i * UNIT_BYTES, PAYLOAD_BYTES))
        } else {
            self.lock_part(first.offset(), bytes)
        };
        match locked {
            Ok(()) => Ok(Prepared::Locked),
            Err(error) if self.policy.lock() == Lock::Required => Err(error),
            Err(_) => {
                self.counters.lock_refused.fetch_add(1, Ordering::Relaxed);
                self.counters.unlocked_bytes.fetch_add(bytes, Ordering::Relaxed);
                Ok(Prepared::Unlocked)
            }
        }
    }

    /// Locks a part of the memory range and counts it. A heap that can do without leaves half of the limit to
    /// those that cannot.
    pub(crate) fn lock_part(&self, offset: usize, bytes: usize) -> Result<(), Error> {
        if self.policy.lock() == Lock::BestEffort
            && let share = self.lock_share.bytes()
            && self.counters.locked_bytes.load(Ordering::Relaxed) + bytes > share
        {
            return Err(Error::LockLimit { needed_bytes: bytes, limit_bytes: share });
        }
        self.lock_or_hide(pages(offset)?, pages(bytes)?).inspect_err(|_| self.lock_share.forget())?;
        self.counters.locked_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Locks pages that no block uses yet, or puts hidden memory in their place.
    fn lock_or_hide(&self, offset: PageBytes, bytes: PageBytes) -> Result<(), Error> {
        if self.policy.backing() == Backing::Hidden {
            // Of a slab that was here, other threads may still remember lines: see `release_unit`.
            let is_slab = offset.get() < self.geometry.slab_bytes;
            let refused = if is_slab { Access::Read } else { Access::None };
            // SAFETY: the pages were taken for a block that is still to be made.
            return unsafe { self.memory.hide(offset, bytes, refused) };
        }
        self.memory.lock(offset, bytes)
    }

    /// Ends what `lock_part` did for pages that no block uses, and gives their memory back. Hidden memory stays if
    /// the kernel refuses; it is zero.
    pub(crate) fn unhide_part(&self, offset: usize, bytes: usize, access: Access) {
        if let (Ok(offset), Ok(len)) = (pages(offset), pages(bytes))
            // SAFETY: no block uses the pages.
            && unsafe { self.memory.unhide(offset, len, access) }.is_ok()
        {
            subtract(&self.counters.locked_bytes, bytes);
        }
    }

    /// Pins a unit where the policy asks for it. What cannot be pinned stays locked and is counted.
    fn pin(&self, unit: Unit) {
        let header = self.tables.header(unit);
        if self.policy.backing() != Backing::Auto || header.pin.load(Ordering::Relaxed) != 0 {
            return;
        }
        // SAFETY: the slots of a unit that this thread has just taken: mapped, readable and writable; they
        // stay so until `unpin`.
        match unsafe { self.pins.pin(self.unit_address(unit), PAYLOAD_BYTES) } {
            Ok(id) => {
                header.pin.store(id.into_bits().get(), Ordering::Relaxed);
                self.counters.pinned_bytes.fetch_add(PAYLOAD_BYTES, Ordering::Relaxed);
            }
            Err(errno) => {
                self.counters.pin_refused.fetch_add(1, Ordering::Relaxed);
                self.counters.pin_errno.store(errno.0.cast_unsigned(), Ordering::Relaxed);
            }
        }
    }

    /// Takes an empty slab back: its unit stays warm, or its memory is given back. Its slots are all zero, and its
    /// lines written back.
    pub(crate) fn release_unit(&self, unit: Unit) {
        let header = self.tables.header(unit);
        let is_own = self.is_of_this_process(&header.generation);
        self.tables.home(unit).store(0, Ordering::Relaxed);
        // SeqCst, as the load of `purging` below: see `Shared::purge`.
        header.owner_class.store(0, Ordering::SeqCst);
        header.is_second_hand.store(1, Ordering::Relaxed);
        self.counters.give(UNIT_BYTES);
        if is_own && self.keep_warm(unit) {
            return;
        }
        if is_own
            && self.policy.backing() == Backing::Hidden
            && self.counters.purging.load(Ordering::SeqCst) != 0
        {
            // A purge may be wiping it, and hidden pages go with their mapping: kept as they are, zero, for the next
            // slab.
            return self.give_unit(unit);
        }
        if self.policy.backing() == Backing::Hidden {
            self.unpin_unit(unit);
            header.touched.store(0, Ordering::Relaxed);
            if is_own {
                // Other threads may still remember lines of it, to be written back: that needs a mapping that can be
                // read, at any moment.
                self.unhide_part(unit.offset(), PAYLOAD_BYTES, Access::Read);
            }
            header.prepared.store(Prepared::Unlocked as u32, Ordering::Relaxed);
            self.units.bare.push(unit.number(), |number| self.unit_link(number));
            return;
        }
        if !is_own {
            // What its parent locked is not locked in a child: locked anew, or counted anew, when it is used again.
            header.prepared.store(Prepared::Unlocked as u32, Ordering::Relaxed);
        }
        self.return_row(&[unit.number()]);
    }

    /// Gives the pages of neighbouring units that nobody uses back in one call, guards between them included: these
    /// outlast it (madvise(2): `MADV_DONTNEED` leaves lightweight guards in place). Then the units go to the pool.
    pub(crate) fn return_row(&self, row: &[u32]) {
        // SAFETY: only numbers of units come here, those that were on a stack and one that was a slab.
        let unit = |&number: &u32| unsafe { self.unit_in_list(number) };
        let header = |number: &u32| self.tables.header(unit(number));
        let Some(first) = row.first().map(unit) else { return };
        for number in row {
            self.unpin_unit(unit(number));
            header(number).touched.store(0, Ordering::Relaxed);
        }
        let is_locked =
            |number: &&u32| header(number).prepared.load(Ordering::Relaxed) == Prepared::Locked as u32;
        let nr_locked = row.iter().filter(is_locked).count();
        let bytes = row.len() * UNIT_BYTES;
        if let (Ok(offset), Ok(payload)) = (pages(first.offset()), pages(bytes - GUARD_BYTES)) {
            let state = if nr_locked > 0 { LockState::Locked } else { LockState::Unlocked };
            // SAFETY: no slot of the units is in use, and they were unpinned. If the kernel refuses, the pages stay,
            // all zero: nothing is lost but their memory.
            let _ = unsafe { self.memory.discard(offset, payload, state) };
        }
        let unlock = || self.memory.unlock(pages(first.offset())?, pages(bytes)?);
        let is_unlocked = nr_locked == 0 || unlock().is_ok();
        if is_unlocked {
            // What the units took of the limit is for other heaps to use meanwhile.
            subtract(&self.counters.locked_bytes, nr_locked * UNIT_BYTES);
            if self.policy.lock() != Lock::Off {
                subtract(&self.counters.unlocked_bytes, (row.len() - nr_locked) * UNIT_BYTES);
            }
        }
        for number in row {
            if is_unlocked {
                header(number).prepared.store(Prepared::Unlocked as u32, Ordering::Relaxed);
            }
            self.give_unit(unit(number));
        }
    }

    /// Ends the pin of a unit, if it has one.
    fn unpin_unit(&self, unit: Unit) {
        let header = self.tables.header(unit);
        if let Some(bits) = NonZeroU64::new(header.pin.swap(0, Ordering::Relaxed)) {
            // A pin that a parent process made is no pin here, and its table says so.
            let _ = self.pins.unpin(PinId::from_bits(bits));
            if self.is_of_this_process(&header.generation) {
                subtract(&self.counters.pinned_bytes, PAYLOAD_BYTES);
            }
        }
    }

    /// Puts a unit without pages into the pool.
    fn give_unit(&self, unit: Unit) {
        let prepared = self.tables.header(unit).prepared.load(Ordering::Relaxed);
        let is_ready = self.policy.lock() == Lock::Off || prepared == Prepared::Locked as u32;
        let pool = if is_ready { &self.units.ready } else { &self.units.bare };
        pool.push(unit.number(), |number| self.unit_link(number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Policy;
    use crate::heap::geometry::Constraints;
    use core::cell::Cell;

    /// A thread that looks at several units to choose one of them does not make another find none.
    #[test]
    fn nobody_is_told_that_the_heap_is_full_while_another_chooses() {
        let policy = Policy::SECRET.with_backing(Backing::Locked).with_lock(Lock::Off);
        let constraints = Constraints { memory_bytes: 16 << 20, max_threads: 2 };
        let shared = Shared::create(policy, constraints).expect("a small heap");
        let nr_looks = Cell::new(0);
        let nr_refused = Cell::new(0);
        // What another thread finds at each look.
        let look = |_: u32| {
            nr_looks.set(nr_looks.get() + 1);
            match shared.acquire_unit(|_| 0) {
                Ok(unit) => shared.release_unit(unit),
                Err(_) => nr_refused.set(nr_refused.get() + 1),
            }
            1
        };
        let first = shared.acquire_unit(|_| 0).expect("one of many");
        let second = shared.acquire_unit(look).expect("one of many");
        assert!(nr_looks.get() > 1, "the control: it looks at several");
        let others: Vec<_> = core::iter::from_fn(|| shared.acquire_unit(|_| 0).ok()).collect();
        assert!(others.len() > 50, "{}", others.len());
        for unit in [first, second] {
            shared.release_unit(unit);
        }
        shared.acquire_unit(look).expect("one of two");
        assert_eq!(nr_refused.get(), 0);
        // SAFETY: made above, and nothing was made in it.
        unsafe { shared.destroy() };
    }
}
