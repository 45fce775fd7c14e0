//! Empty units that keep their pages for a while.
//!
//! Giving the pages of a slab to the kernel and taking others from it costs some sixty times as much as carving the
//! slab anew: two system calls to give, three to lock, and a page fault for each page. So a unit that a thread gives
//! back stays as it is: zero, guarded, locked, pinned. What was not asked for in a whole [`PERIOD_MS`] is given back
//! then, neighbours together.
//!
//! Two designs were weighed:
//! - by amount: keep as much as is in use, or a part of it. A program that builds a tree, drops it and builds the next
//!   falls from all to nothing each time, so whatever the part, it pays for every tree; one that shrank for good keeps
//!   it for ever.
//! - by time, which is built here: the lowest number of warm units in a period is what the period could have done
//!   without. It needs a clock, read once for each slab given back, and gives back nothing while a program
//!   allocates nothing; `trim` does.
//!
//! A heap that must lock every page keeps none: its pages count against a limit that others need.

// UNSAFETY: gives back the memory of units that nobody uses.
#![expect(unsafe_code, reason = "acts on units that the calling thread has just taken for itself")]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "numbers of units are below 2^22; a batch has at most 64 units"
)]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::index_stack::IndexStack;
use super::shared::Shared;
use super::tables::Unit;
use crate::os;
use crate::{Backing, Lock};

/// How long a unit may lie idle before its pages are given back; twice that in the worst case.
const PERIOD_MS: u64 = 500;
/// Units that are given back together.
const BATCH: usize = 64;

/// The warm units of a heap.
///
/// # Invariants
/// 1. Every unit on the stack is guarded, accessible, of this process, all zero, and locked or not as its header
///    says; nobody uses it.
/// 2. `count` is at least the number of units on the stack.
#[derive(Debug)]
pub(crate) struct Warm {
    stack: IndexStack,
    count: AtomicU32,
    /// The lowest `count` since `period`.
    lowest: AtomicU32,
    /// When the period began, in milliseconds of the coarse clock.
    period: AtomicU64,
}

impl Warm {
    pub(crate) fn new() -> Self {
        Self {
            stack: IndexStack::new(),
            count: AtomicU32::new(0),
            lowest: AtomicU32::new(0),
            period: AtomicU64::new(0),
        }
    }

    /// In a forked child: see [`Units::forget_after_fork`](super::units::Units::forget_after_fork).
    pub(crate) fn forget_after_fork(&self) {
        self.stack.clear();
        self.count.store(0, Ordering::Relaxed);
        self.lowest.store(0, Ordering::Relaxed);
    }
}

impl Shared {
    /// Keeps an empty unit of this process with its pages, if the policy lets it. Tells whether it did.
    pub(crate) fn keep_warm(&self, unit: Unit) -> bool {
        if self.policy.lock() == Lock::Required || self.policy.backing() == Backing::Hidden {
            return false;
        }
        let warm = &self.units.warm;
        // Before the push (invariant 2). Relaxed: the stack orders what matters.
        warm.count.fetch_add(1, Ordering::Relaxed);
        warm.stack.push(unit.number(), |number| self.unit_link(number));
        self.return_idle();
        true
    }

    /// Takes a warm unit: see [`choose_unit`](Self::choose_unit).
    pub(crate) fn take_warm(&self, crowd: impl Fn(u32) -> u32) -> Option<Unit> {
        let warm = &self.units.warm;
        let number = self.choose_unit(&warm.stack, crowd)?;
        let left = warm.count.fetch_sub(1, Ordering::Relaxed) - 1;
        if left < warm.lowest.load(Ordering::Relaxed) {
            warm.lowest.fetch_min(left, Ordering::Relaxed);
        }
        // SAFETY: only numbers of units are pushed.
        Some(unsafe { self.unit_in_list(number) })
    }

    /// At the end of a period, gives back the pages of as many units as it could have done without.
    fn return_idle(&self) {
        let warm = &self.units.warm;
        let now = os::coarse_milliseconds();
        let began = warm.period.load(Ordering::Relaxed);
        if now.wrapping_sub(began) < PERIOD_MS
            || warm.period.compare_exchange(began, now, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return;
        }
        let idle = warm.lowest.swap(warm.count.load(Ordering::Relaxed), Ordering::Relaxed);
        self.return_warm(idle);
    }

    /// Gives the pages of every warm unit back. Tells whether there were any.
    pub(crate) fn drop_warm(&self) -> bool {
        self.return_warm(u32::MAX)
    }

    /// Gives the pages of up to `most` warm units back.
    fn return_warm(&self, most: u32) -> bool {
        let mut left = most as usize;
        let mut any = false;
        while left > 0 {
            let mut batch = [0; BATCH];
            let mut taken = 0;
            for place in batch.iter_mut().take(left) {
                let Some(unit) = self.take_warm(|_| 0) else { break };
                *place = unit.number();
                taken += 1;
            }
            if taken == 0 {
                break;
            }
            any = true;
            left -= taken;
            let (numbers, _) = batch.split_at_mut(taken);
            numbers.sort_unstable();
            // Where discarding means writing, the guards between them must be left out.
            for row in numbers.chunk_by(|a, b| a + 1 == *b && os::DISCARDS_WITHOUT_ACCESS) {
                self.return_row(row);
            }
        }
        any
    }
}
