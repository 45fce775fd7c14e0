//! The pending-line table: how every free is flushed at nearly no cost.
//!
//! A freed block is zero in the cache at once, but memory may hold the old bytes until the line is written
//! back. Writing each line back at each free costs several times what the free does. Most lines are freed,
//! reused and freed again within microseconds, though, and need to be written back only once in the end.
//! So each thread remembers the lines that it freed in a small direct-mapped table:
//!
//! ```text
//! entry         | number of the group | bit for each of its 32 lines |    group: 2 KiB, in place number modulo 2,048
//!
//! free a range: its group is there   -> set the bits of its lines
//!               place is empty       -> put the group there
//!               place is taken       -> write the lines of the older group back, put the new one there
//! every 16 MiB  -> write all of the table back, fence once, empty it
//! ```
//! **Bound.** Lines that are freed and not yet past the caches: at most [`PENDING_LINES`] (4 MiB) for each thread that
//! stand in its table, and those pushed out of it since its last fence, for which the write-back is already under way.
//! What memory held of a line before is gone when [`BYTES_PER_FENCE`] more were freed, at the latest.
//!
//! Two designs were measured, by what a free of the mix of `benches/peers` takes beyond one that flushes nothing. A
//! table of single lines (16,384 of them, the bound 1 MiB) costs an entry for each 64 bytes that are freed and spreads
//! over 64 KiB, more than the nearest cache holds. With a group an entry, a kilobyte is one store, and a quarter of
//! the room remembers four times as much, so that fewer lines are written back that are freed again soon.
//!
//! So that emptying the table costs what was put into it, and not its length, a bit for each 32 places tells
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
        reason = "indexes are masked by the table's length; u32 to usize widens here; bits are counted below 64"
    )
)]

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

/// Freed bytes after which a thread writes everything back.
pub(crate) const BYTES_PER_FENCE: usize = 16 << 20;
/// log2 of the bytes of a line.
pub(crate) const LINE_SHIFT: u32 = 6;
/// Most lines that a thread remembers.
pub(crate) const PENDING_LINES: usize = ENTRIES * LINES as usize;

/// Groups that a thread remembers.
const ENTRIES: usize = 2048;
/// Lines of a group: as many as an entry has bits beside the number of the group.
const LINES: u32 = 32;
/// Places that share a bit.
const SHARE: usize = ENTRIES / 64;

/// The lines that one thread freed lately. A line is its offset in the memory range divided by 64; the first group
/// lies in the unused unit 0, so that an entry without bits stands for none.
///
/// # Invariant
/// 1. The bit of every place that is not empty is set in `used`. Only the thread that owns the table reads it.
#[repr(C, align(64))]
pub(crate) struct Pending {
    bytes_left: Cell<isize>,
    used: Cell<u64>,
    entries: [AtomicU64; ENTRIES],
}

/// A group of lines and which of them are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry(u64);

impl Entry {
    /// Lines `first` to `last` of one group.
    #[inline(always)]
    const fn of(first: u32, last: u32) -> Self {
        let bits = (u32::MAX << (first % LINES)) & (u32::MAX >> (LINES - 1 - last % LINES));
        Self(((first / LINES) as u64) << 32 | bits as u64)
    }

    #[inline(always)]
    const fn group(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether every line of `other` is in it.
    #[inline(always)]
    const fn has(self, other: Self) -> bool {
        // A group of another number differs in the upper half.
        (self.0 ^ other.0) >> 32 == 0 && other.0 & !self.0 == 0
    }

    /// Hands out every line.
    #[inline(always)]
    fn visit(self, mut see: impl FnMut(u32)) {
        let first = self.group() * LINES;
        let mut bits = self.0 as u32;
        while bits != 0 {
            see(first + bits.trailing_zeros());
            bits &= bits - 1;
        }
    }
}

impl Pending {
    /// Whether lines `first` to `last` are remembered. May say no of lines in two groups.
    #[inline(always)]
    pub(crate) fn has(&self, first: u32, last: u32) -> bool {
        first / LINES == last / LINES && self.entry(first / LINES).has(Entry::of(first, last))
    }

    /// Remembers lines `first` to `last`; hands those that lose their place to `write_back`.
    #[inline(always)]
    pub(crate) fn remember(&self, first: u32, last: u32, mut write_back: impl FnMut(u32)) {
        let mut from = first;
        loop {
            let end = last.min(from | (LINES - 1));
            self.put(Entry::of(from, end), &mut write_back);
            if end == last {
                return;
            }
            from = end + 1;
        }
    }

    #[inline(always)]
    fn put(&self, new: Entry, write_back: impl FnMut(u32)) {
        let at = new.group() as usize % ENTRIES;
        // Relaxed: other threads only read the table, to write lines back, which is right for any line.
        let old = Entry(self.entries[at].load(Ordering::Relaxed));
        if old.group() == new.group() {
            self.entries[at].store(old.0 | new.0, Ordering::Relaxed);
            return;
        }
        self.used.set(self.used.get() | 1 << (at / SHARE));
        self.entries[at].store(new.0, Ordering::Relaxed);
        old.visit(write_back);
    }

    #[inline(always)]
    fn entry(&self, group: u32) -> Entry {
        Entry(self.entries[group as usize % ENTRIES].load(Ordering::Relaxed))
    }

    /// Counts a free and says whether it is time to write everything back.
    #[inline(always)]
    pub(crate) fn is_due(&self, bytes: usize) -> bool {
        // More than 0 before: `empty` follows where it is not, and precedes the first free.
        let left = self.bytes_left.get().wrapping_sub_unsigned(bytes);
        self.bytes_left.set(left);
        left <= 0
    }

    /// Hands every remembered line to `write_back` and forgets it. Only for the thread that owns it.
    pub(crate) fn empty(&self, mut write_back: impl FnMut(u32)) {
        let mut used = self.used.replace(0);
        while used != 0 {
            let share = used.trailing_zeros() as usize;
            used &= used - 1;
            for place in self.entries.iter().skip(share * SHARE).take(SHARE) {
                let entry = Entry(place.load(Ordering::Relaxed));
                if entry.0 != 0 {
                    place.store(0, Ordering::Relaxed);
                    entry.visit(&mut write_back);
                }
            }
        }
        self.bytes_left.set(BYTES_PER_FENCE as isize);
    }

    /// Hands every remembered line to `write_back` and keeps it: for any thread.
    pub(crate) fn visit(&self, mut write_back: impl FnMut(u32)) {
        for place in &self.entries {
            Entry(place.load(Ordering::Relaxed)).visit(&mut write_back);
        }
    }

    /// Hands the lines from `first` on to below `end`, both the first of a group, to `write_back` and forgets them.
    pub(crate) fn empty_range(&self, first: u32, end: u32, mut write_back: impl FnMut(u32)) {
        for group in first / LINES..end / LINES {
            let entry = self.entry(group);
            if entry.group() == group && entry.0 != 0 {
                self.entries[group as usize % ENTRIES].store(0, Ordering::Relaxed);
                entry.visit(&mut write_back);
            }
        }
    }

    /// Lines remembered.
    pub(crate) fn len(&self) -> usize {
        let bits = |place: &AtomicU64| (place.load(Ordering::Relaxed) as u32).count_ones() as usize;
        self.entries.iter().map(bits).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn table() -> Pending {
        let table = Pending {
            bytes_left: Cell::new(0),
            used: Cell::new(0),
            entries: [const { AtomicU64::new(0) }; ENTRIES],
        };
        table.empty(|_| panic!("a line of an empty table"));
        table
    }

    #[test]
    fn every_line_is_written_back_or_remembered() {
        let table = table();
        let mut owed = BTreeSet::new();
        let mut rng = crate::heap::rng::Rng::new(1);
        for round in 0..20_000 {
            // More groups than there are places, and ranges of one line to those of several groups.
            let first = LINES + rng.below(3 * ENTRIES as u32 * LINES);
            let last = first + if round % 8 == 0 { rng.below(500) } else { rng.below(3) };
            let mut pushed_out = Vec::new();
            table.remember(first, last, |line| pushed_out.push(line));
            owed.extend(first..=last);
            for line in pushed_out {
                assert!(owed.remove(&line), "written back without being owed");
            }
            assert!((first..=last).all(|line| table.has(line, line)), "forgotten");
            assert!(owed.len() <= PENDING_LINES, "more than it has places for");
        }
        assert_eq!(owed.len(), table.len());
        let mut seen = BTreeSet::new();
        table.visit(|line| assert!(seen.insert(line), "twice"));
        assert_eq!(seen, owed);
        table.empty_range(1024, 2048, |line| assert!(owed.remove(&line)));
        assert!(owed.range(1024..2048).next().is_none());
        table.empty(|line| assert!(owed.remove(&line)));
        assert!(owed.is_empty() && table.len() == 0);
    }

    #[test]
    fn tells_which_lines_it_has() {
        let table = table();
        table.remember(100, 140, |_| panic!("pushed out of an empty table"));
        let far = PENDING_LINES as u32;
        for (first, last, has) in [(100, 100, true), (100, 127, true), (128, 140, true), (99, 100, false)] {
            assert_eq!(table.has(first, last), has, "{first} to {last}");
            assert!(!table.has(first + far, last + far), "of another group with that place");
        }
        assert!(!table.has(140, 141) && !table.has(127, 128), "of two groups nothing is said");
        table.remember(100 + far, 100 + far, |line| assert!((100..=127).contains(&line)));
        assert!(!table.has(100, 100) && table.has(128, 140));
    }

    #[test]
    fn falls_due_every_so_many_bytes() {
        let table = table();
        let due = (0..3 * BYTES_PER_FENCE / 64).filter(|_| {
            let due = table.is_due(64);
            if due {
                table.empty(|_| ());
            }
            due
        });
        assert_eq!(due.count(), 3);
        assert!(table.is_due(usize::MAX / 2) && table.is_due(BYTES_PER_FENCE), "also by one large block");
    }
}
