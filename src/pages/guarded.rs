//! A guarded run: one block on pages of its own, with a guard before and behind.

// UNSAFETY: hands out memory that it maps itself, and wipes it by address.
#![expect(unsafe_code, reason = "owns a mapping and lends it as slices, see UNSAFETY above")]

use core::alloc::Layout;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use core::slice;

use super::hints::{Hints, Measure};
use super::layout::{RunConstraints, RunLayout, guarded_run};
use super::{GuardKind, PageBytes, PinId, Reservation, pins};
use crate::os::{self, Errno};
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
pub(crate) struct GuardedPages {
    range: ManuallyDrop<Reservation>,
    layout: RunLayout,
    block_bytes: usize,
    policy: Policy,
    owner: u32,
    pin: Option<PinId>,
    protection: Protection,
}

/// What a guarded run got of what its policy asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Protection {
    /// What its guards are made of.
    pub(crate) guards: GuardKind,
    /// Locked in RAM.
    pub(crate) locked: Measure,
    /// Pinned to its frames.
    pub(crate) pinned: Measure,
    /// The rest.
    pub(crate) hints: Hints,
}

impl GuardedPages {
    /// Maps a run for a block of this size and alignment, all zero.
    ///
    /// Fails where the policy is not met: [`Lock::Required`] and it cannot be locked, no addresses, no memory.
    /// What may be missing without an error is told by [`protection`](Self::protection).
    pub(crate) fn new(block: Layout, policy: Policy) -> Result<Self, Error> {
        let constraints = RunConstraints {
            block_bytes: block.size(),
            block_align: block.align(),
            page_bytes: os::page_size(),
        };
        let layout = guarded_run(constraints).ok_or(Error::TooLarge)?;
        let total = PageBytes::round_down(layout.total);
        let align = PageBytes::round_down(layout.base_align);
        let range = Reservation::new_aligned(total, total, align)?;
        match protect(&range, layout, policy) {
            Ok((protection, pin)) => Ok(Self {
                range: ManuallyDrop::new(range),
                layout,
                block_bytes: block.size(),
                policy,
                owner: os::process_id(),
                pin,
                protection,
            }),
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

    /// What it got of what its policy asks for.
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

impl Drop for GuardedPages {
    fn drop(&mut self) {
        if self.protection.hints.fork == Fork::Exclude && self.owner != os::process_id() {
            // A child has no such mapping; by now something else may be there.
            return;
        }
        self.check_slack();
        let RunLayout { data_start, data_end, .. } = self.layout;
        let data = self.at(data_start);
        let data_bytes = data_end.wrapping_sub(data_start);
        if self.policy.flush() == Flush::Off {
            // SAFETY: the data is mapped and writable (invariant 2), and `&mut self` keeps everybody else out.
            unsafe { wipe::zero(data, data_bytes) };
        } else {
            // Also for `Flush::Bounded`: what is to be flushed later must be flushed before it is unmapped.
            // SAFETY: as above.
            unsafe { wipe::zero_and_flush(data, data_bytes) };
        }
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

impl GuardedPages {
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

/// Hints, access, guards, lock and pin, in the order that the kernel needs.
fn protect(
    range: &Reservation,
    layout: RunLayout,
    policy: Policy,
) -> Result<(Protection, Option<PinId>), Error> {
    let page = PageBytes::one();
    let data_start = PageBytes::round_down(layout.data_start);
    let data_end = PageBytes::round_down(layout.data_end);
    let front = data_start.saturating_sub(page);
    let data_bytes = data_end.saturating_sub(data_start);

    let hints = range.hint_all(policy.fork())?;
    // SAFETY: nothing refers to the range yet.
    let guards = unsafe { range.guard_each(front, page, data_end.saturating_sub(front), 2) }?;
    // Markers keep guarding with access given to them, so that all of it is one mapping.
    let (start, len) = match guards {
        GuardKind::Marker => (front, range.len().saturating_sub(front)),
        GuardKind::NoAccess => (data_start, data_bytes),
    };
    range.commit(start, len)?;
    let locked = match policy.lock() {
        Lock::Off => Measure::NotWanted,
        lock => match lock_data(range, (data_start, data_bytes), (start, len)) {
            Ok(()) => Measure::InForce,
            Err(error) if lock == Lock::Required => return Err(error),
            Err(error) => Measure::Refused(reason(error)),
        },
    };
    let (pinned, pin) = match policy.backing() {
        Backing::Locked => (Measure::NotWanted, None),
        Backing::Auto => {
            // SAFETY: `data_start` lies within the range.
            let data = unsafe { range.base().add(data_start.get()) };
            // SAFETY: the data is reserved, and unpinned before it is released.
            match unsafe { pins().pin(data, data_bytes.get()) } {
                Ok(pin) => (Measure::InForce, Some(pin)),
                Err(errno) => (Measure::Refused(errno), None),
            }
        }
    };
    Ok((Protection { guards, locked, pinned, hints }, pin))
}

/// Locks the data, and where no limit counts them the guards too: the run is one mapping then, not three.
fn lock_data(
    range: &Reservation,
    data: (PageBytes, PageBytes),
    mapping: (PageBytes, PageBytes),
) -> Result<(), Error> {
    if os::memlock_limit().soft.is_none() && range.lock(mapping.0, mapping.1).is_ok() {
        return Ok(());
    }
    range.lock(data.0, data.1)
}

/// The system's word for a lock that failed.
const fn reason(error: Error) -> Errno {
    match error {
        Error::Os { errno, .. } => Errno(errno),
        _ => Errno::NOMEM,
    }
}

#[cfg(test)]
mod tests;
