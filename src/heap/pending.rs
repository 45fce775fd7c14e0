//! The pending-line table: how every free is flushed at nearly no cost.
//!
//! A freed block is zero in the cache at once, but memory may hold the old bytes until the line is written
//! back. Writing each line back at each free costs several times what the free does. Most lines are freed,
//! reused and freed again within microseconds, though, and need to be written back only once in the end.
//! So each thread remembers the lines that it freed in a small direct-mapped table:
//!
//! ```text
//! free a line:  there already   -> nothing
//!               place is empty  -> remember it
//!               place is taken  -> write the older line back, remember the new one
//! every 16,384 frees            -> write all of the table back, fence once, empty it
//! ```
//! **Bound.** Freed lines that are not yet past the caches: at most 16,384 (1 MiB) for each thread that
//! stand in its table, and those pushed out of it since its last fence, for which the write-back is already
//! under way. The bound was 2,048 before: what a program has in use at a time is more than that, so that nearly every
//! line was pushed out, and a free that another thread made cost six times what it does without a flush.
//!
//! So that emptying the table costs what was put into it, and not its length, a bit for each 64 places tells
//! whether anything may stand there.
//!
//! A line that is in use again when it is written back reaches memory with its new content, which erases
//! the old all the same. Write-back is coherent, so any thread may do it for another: `flush_all` reads
//! every table. Lines of the slab zone stay mapped and readable for the life of the process, which makes it
//! safe to write back a line at any later time.

#![cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        clippy::as_conversions,
        clippy::arithmetic_side_effects,
        reason = "indexes are masked by the table's length; u32 to usize widens here"
    )
)]

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, Ordering};

/// Lines that a thread remembers.
pub(crate) const PENDING_LINES: usize = 16_384;
/// Frees after which a thread writes everything back.
pub(crate) const FREES_PER_FENCE: u32 = 16_384;
/// log2 of the bytes of a line.
pub(crate) const LINE_SHIFT: u32 = 6;

/// Places that share a bit.
const GROUP: usize = 64;

/// The lines that one thread freed lately. A line is its offset in the memory range divided by 64; line 0
/// lies in the unused unit 0 and stands for none.
///
/// # Invariant
/// 1. The bit of every place that is not empty is set in `groups`. Only the thread that owns the table reads these.
#[repr(C, align(64))]
pub(crate) struct Pending {
    frees_left: Cell<u32>,
    groups: [Cell<u64>; PENDING_LINES / GROUP / 64],
    lines: [AtomicU32; PENDING_LINES],
}

impl Pending {
    /// Remembers `line`; gives the line that had its place, which the caller writes back, or 0.
    #[inline(always)]
    pub(crate) fn remember(&self, line: u32) -> u32 {
        let at = line as usize % PENDING_LINES;
        let place = &self.lines[at];
        // Relaxed: other threads only read the table, to write lines back, which is right for any line.
        let old = place.load(Ordering::Relaxed);
        if old == line {
            return 0;
        }
        let group = &self.groups[at / GROUP / 64];
        group.set(group.get() | 1 << (at / GROUP % 64));
        place.store(line, Ordering::Relaxed);
        old
    }

    /// Whether `line` is remembered.
    #[inline(always)]
    pub(crate) fn has(&self, line: u32) -> bool {
        self.lines[line as usize % PENDING_LINES].load(Ordering::Relaxed) == line
    }

    /// Counts a free and says whether it is time to write everything back.
    #[inline(always)]
    pub(crate) fn is_due(&self) -> bool {
        // Not zero before: `empty` follows where it becomes zero, and precedes the first free.
        let left = self.frees_left.get().wrapping_sub(1);
        self.frees_left.set(left);
        left == 0
    }

    /// Hands every remembered line to `write_back` and forgets it. Only for the thread that owns it.
    pub(crate) fn empty(&self, mut write_back: impl FnMut(u32)) {
        for (groups, lines) in self.groups.iter().zip(self.lines.chunks(GROUP * 64)) {
            let mut bits = groups.replace(0);
            while bits != 0 {
                let group = bits.trailing_zeros() as usize;
                bits &= bits - 1;
                for place in lines.iter().skip(group * GROUP).take(GROUP) {
                    let line = place.load(Ordering::Relaxed);
                    if line != 0 {
                        write_back(line);
                        place.store(0, Ordering::Relaxed);
                    }
                }
            }
        }
        self.frees_left.set(FREES_PER_FENCE);
    }

    /// Hands every remembered line to `write_back` and keeps it: for any thread.
    pub(crate) fn visit(&self, mut write_back: impl FnMut(u32)) {
        for place in &self.lines {
            let line = place.load(Ordering::Relaxed);
            if line != 0 {
                write_back(line);
            }
        }
    }

    /// Hands the lines from `first` on to below `end` to `write_back` and forgets them.
    pub(crate) fn empty_range(&self, first: u32, end: u32, mut write_back: impl FnMut(u32)) {
        // Lines that follow each other have places that do.
        for line in first..end {
            let place = &self.lines[line as usize % PENDING_LINES];
            if place.load(Ordering::Relaxed) == line {
                write_back(line);
                place.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Lines remembered.
    pub(crate) fn len(&self) -> usize {
        self.lines.iter().filter(|place| place.load(Ordering::Relaxed) != 0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Pending {
        Pending {
            frees_left: Cell::new(FREES_PER_FENCE),
            groups: [const { Cell::new(0) }; PENDING_LINES / GROUP / 64],
            lines: [const { AtomicU32::new(0) }; PENDING_LINES],
        }
    }

    #[test]
    fn every_line_is_written_back_or_remembered() {
        let table = table();
        let mut owed = std::collections::BTreeSet::new();
        let mut rng = crate::heap::rng::Rng::new(1);
        for _ in 0..100_000 {
            let line = 1 + rng.below(40_000);
            owed.insert(line);
            let pushed_out = table.remember(line);
            if pushed_out != 0 {
                assert!(owed.remove(&pushed_out), "written back without being owed");
            }
            assert!(owed.len() <= PENDING_LINES, "the bound does not hold");
        }
        assert_eq!(owed.len(), table.len());
        table.empty_range(1000, 2024, |line| assert!(owed.remove(&line)));
        assert!(owed.range(1000..2024).next().is_none());
        table.empty(|line| assert!(owed.remove(&line)));
        assert!(owed.is_empty() && table.len() == 0);
    }

    #[test]
    fn falls_due_every_so_many_frees() {
        let table = table();
        let due = (0..3 * FREES_PER_FENCE).filter(|_| {
            let due = table.is_due();
            if due {
                table.empty(|_| ());
            }
            due
        });
        assert_eq!(due.count(), 3);
    }
}
