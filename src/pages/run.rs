//! A guarded run: one block on pages of its own, with a guard before and behind.

// UNSAFETY: hands out memory that it maps itself, and wipes it by address.
#![expect(unsafe_code, reason = "owns a mapping and lends it as slices, see UNSAFETY above")]

use core::alloc::Layout;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use core::slice;

mod protect;

pub(super) use protect::lock_data;
use protect::{Protection, protect};

use super::hints::Measure;
use super::layout::{RunConstraints, RunLayout, guarded_run};
use super::{HugePages, PageBytes, PinId, Reservation, pins};
use crate::os::{self, Errno, Hint, LockState};
use crate::{Backing, Error, Flush, Fork, Lock, Policy, wipe};

/// One block of zeros on locked pages of its own. It ends as close to the guard behind it as its alignment
/// allows. Dropping it wipes, flushes, unpins and unmaps, in this order.
///
/// # Invariants
///
/// 1. `range` is laid out by `layout`, and is mapped until the drop; where `protection.hints.fork` is
///    `Fork::Exclude`, only in the process that made it.
/// 2. `[data_start, data_end)` is readable and writable, and all of it but the block is zero unless somebody
///    wrote out of bounds. `[block_start, block_start + block_bytes)` is lent out as `&self` or `&mut self` says.
/// 3. `pin`, if there is one, pins `[data_start, data_end)`.
#[derive(Debug)]
pub(crate) struct GuardedRun {
    range: ManuallyDrop<Reservation>,
    layout: RunLayout,
    block_bytes: usize,
    kind: Kind,
    owner: u32,
    pin: Option<PinId>,
    protection: Protection,
}

/// Where a run lies, compared with where it was wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Placement {
    /// No address was asked for.
    Anywhere,
    /// At the address that was asked for.
    Granted,
    /// Somewhere else: what was asked for is in use, or no place for such a run.
    Elsewhere,
}

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Secrets: hinted, locked and pinned as the policy says, wiped at the end.
    Secret(Policy),
    /// Anything else: guarded, and otherwise as the kernel makes it.
    Ordinary,
}

impl Kind {
    /// How it is to be kept.
    const fn policy(self) -> Policy {
        const ORDINARY: Policy =
            Policy::PROGRAM.with_lock(Lock::Off).with_fork(Fork::Inherit).with_flush(Flush::Off);
        match self {
            Self::Secret(policy) => policy,
            Self::Ordinary => ORDINARY,
        }
    }
}

impl GuardedRun {
    /// Maps a run for a block of this size and alignment, all zero.
    ///
    /// Fails where the policy is not met: [`Lock::Required`] and it cannot be locked, no addresses, no memory.
    /// What may be missing without an error is told by [`protection`](Self::protection).
    #[cfg(test)]
    pub(crate) fn new(block: Layout, kind: Kind) -> Result<Self, Error> {
        Self::new_near(block, kind, HugePages::Off, None).map(|(run, _)| run)
    }

    /// The same with the data on these pages, if nothing else is there. Tells whether it is.
    pub(crate) fn new_near(
        block: Layout,
        kind: Kind,
        pages: HugePages,
        near: Option<usize>,
    ) -> Result<(Self, Placement), Error> {
        let constraints = RunConstraints {
            block_bytes: block.size(),
            block_align: block.align(),
            page_bytes: match pages {
                HugePages::Off => os::page_size(),
                // The guards as well, as far as the layout goes: what is not needed of them stays reserved.
                HugePages::Transparent | HugePages::Explicit => os::HUGE_PAGE_BYTES.max(os::page_size()),
            },
        };
        let layout = guarded_run(constraints).ok_or(Error::TooLarge)?;
        let total = PageBytes::round_down(layout.total);
        let align = PageBytes::round_down(layout.base_align);
        let wish = near.map(|near| PageBytes::round_down(near).get().checked_sub(layout.data_start));
        let wish = wish.map(|start| start.filter(|start| start & align.get().wrapping_sub(1) == 0));
        let granted = wish.map(|start| start.and_then(|start| Reservation::new_at(start, total).ok()));
        let (range, placement) = match granted {
            Some(Some(range)) => (range, Placement::Granted),
            Some(None) => (Reservation::new_aligned(total, total, align)?, Placement::Elsewhere),
            None => (Reservation::new_aligned(total, total, align)?, Placement::Anywhere),
        };
        match protect(&range, layout, kind, pages) {
            Ok((protection, pin)) => {
                let run = Self {
                    range: ManuallyDrop::new(range),
                    layout,
                    block_bytes: block.size(),
                    kind,
                    owner: os::incarnation(),
                    pin,
                    protection,
                };
                Ok((run, placement))
            }
            Err(error) => {
                // SAFETY: reserved above, not pinned since pinning comes last and cannot fail, and nothing
                // knows its addresses. It holds no secret yet, so a failure leaves only addresses behind.
                let _ = unsafe { range.release() };
                Err(error)
            }
        }
    }

    /// The block.
    pub(crate) fn block(&self) -> &[u8] {
        // SAFETY: the block is mapped and readable (invariants 1 and 2), its bytes were zero at first and
        // only ever written as bytes, and `&self` keeps writers out while the result lives.
        unsafe { slice::from_raw_parts(self.at(self.layout.block_start).as_ptr(), self.block_bytes) }
    }

    /// The block, to be written.
    pub(crate) fn block_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `block`, it is writable too, and `&mut self` keeps everybody else out.
        unsafe { slice::from_raw_parts_mut(self.at(self.layout.block_start).as_ptr(), self.block_bytes) }
    }

    /// The pages that hold the block: the first byte, and how many.
    pub(crate) fn data(&self) -> (NonNull<u8>, usize) {
        let RunLayout { data_start, data_end, .. } = self.layout;
        (self.at(data_start), data_end.wrapping_sub(data_start))
    }

    /// Tells the kernel how to treat the data.
    pub(crate) fn advise(&mut self, hint: Hint) -> Result<(), Errno> {
        if self.is_hidden() && hint == Hint::DoFork {
            // A child would not get zeros, as of other secrets, but the secret itself.
            return Err(Errno::OPNOTSUPP);
        }
        let (data, bytes) = self.data();
        // SAFETY: reserved (invariant 1), and `&mut self` says that nobody uses a reference across this.
        unsafe { os::advise(data, bytes, hint) }?;
        match hint {
            // From now on a child has no such mapping, or has one again.
            Hint::DontFork => self.protection.hints.fork = Fork::Exclude,
            Hint::DoFork => self.protection.hints.fork = self.kind.policy().fork(),
            _ => {}
        }
        Ok(())
    }

    /// Wipes a secret, then gives the memory of the data back: it reads as zeros. The pin, if there is one,
    /// is ended before and made anew; if that fails the data is locked only, as
    /// [`is_pinned`](Self::is_pinned) then says.
    pub(crate) fn discard(&mut self) -> Result<(), Errno> {
        let is_secret = matches!(self.kind, Kind::Secret(_));
        if is_secret {
            self.check_slack();
            self.wipe();
        }
        if self.is_hidden() {
            // The kernel has no such call for it.
            return Err(Errno::OPNOTSUPP);
        }
        let (data, bytes) = self.data();
        let was_pinned = self.pin.take().map(|pin| pins().unpin(pin)).transpose()?.is_some();
        let locked = self.protection.locked == Measure::InForce;
        let state = if locked { LockState::Locked } else { LockState::Unlocked };
        // SAFETY: reserved (invariant 1), not pinned any more, and `&mut self` says that nobody uses a reference
        // across this.
        let discarded = unsafe { os::discard(data, bytes, state) };
        if was_pinned {
            // SAFETY: reserved, and unpinned before it is released.
            match unsafe { pins().pin(data, bytes) } {
                Ok(pin) => self.pin = Some(pin),
                Err(errno) => self.protection.pinned = Measure::Refused(errno),
            }
        }
        discarded
    }

    /// Whether it lies in hidden memory.
    pub(crate) fn is_hidden(&self) -> bool {
        self.kind.policy().backing() == Backing::Hidden
    }

    /// What it got of what its policy asks for.
    #[cfg(test)]
    pub(crate) const fn protection(&self) -> Protection {
        self.protection
    }

    /// Whether it is pinned at this moment: a pin can be lost.
    pub(crate) fn is_pinned(&self) -> bool {
        self.pin.as_ref().is_some_and(|pin| pins().holds(pin))
    }

    /// The address at an offset of the layout.
    fn at(&self, offset: usize) -> NonNull<u8> {
        // SAFETY: every caller's offset is one of the layout, so the sum lies in the range (invariant 1).
        unsafe { self.range.base().add(offset) }
    }
}

impl Drop for GuardedRun {
    fn drop(&mut self) {
        if !self.is_mapped_here() {
            return;
        }
        self.clear();
        if let Some(pin) = self.pin.take() {
            // After a failure the frames stay, wiped, until the table of pins is closed.
            let _ = pins().unpin(pin);
        }
        // SAFETY: a value is dropped once, and nothing below uses the field.
        let range = unsafe { ManuallyDrop::take(&mut self.range) };
        // Unmapping ends the lock too. After a failure the pages stay, wiped, locked and guarded.
        // SAFETY: nobody borrows the block any more, and the pin is gone.
        let _ = unsafe { range.release() };
    }
}

impl GuardedRun {
    /// Whether this process has the run: a child may have no such mapping, and by now something else there.
    fn is_mapped_here(&self) -> bool {
        self.protection.hints.fork != Fork::Exclude || self.owner == os::incarnation()
    }

    /// Checks a secret's bounds and turns all of it to zeros.
    pub(crate) fn clear(&mut self) {
        if matches!(self.kind, Kind::Secret(_)) && self.is_mapped_here() {
            self.check_slack();
            self.wipe();
        }
    }

    /// Turns all of it to zeros.
    fn wipe(&mut self) {
        let (data, data_bytes) = self.data();
        if self.kind.policy().flush() == Flush::Off {
            // SAFETY: the data is mapped and writable (invariant 2), and `&mut self` keeps everybody else out.
            unsafe { wipe::zero(data, data_bytes) };
        } else {
            // Also for `Flush::Bounded`: what is to be flushed later must be flushed before it is unmapped.
            // SAFETY: as above.
            unsafe { wipe::zero_and_flush(data, data_bytes) };
        }
    }

    /// Aborts if somebody wrote in front of the block, or between it and the guard.
    fn check_slack(&self) {
        let RunLayout { data_start, block_start, data_end, .. } = self.layout;
        let block_end = block_start.wrapping_add(self.block_bytes);
        for (start, end) in [(data_start, block_start), (block_end, data_end)] {
            // SAFETY: both lie in the data, which is mapped and readable (invariant 2).
            if !unsafe { wipe::is_zero(self.at(start), end.wrapping_sub(start)) } {
                os::abort_with("memory corruption: write out of the bounds of guarded pages");
            }
        }
    }
}

#[cfg(test)]
mod tests;
