//! The pending-line table: how every free is flushed at nearly no cost.
//!
//! A freed block is zero in the cache at once, but memory may hold the old bytes until the line is written
//! back. Writing each line back at each free costs several times what the free does. Most lines are freed,
//! reused and freed again within microseconds, though, and need to be written back only once in the end.
//! So each thread remembers the lines that it freed in a small direct-mapped table:
//!
//! ```text
//! entry         | bit for each of its 32 lines | number of the group |    group: 2 KiB, in place number modulo 4,096
//!                 a bit stands for its line and the one behind it
//!
//! free a range: its group is there   -> set its bits
//!               place is empty       -> put the group there
//!               place is taken       -> write the lines of the older group back, put the new one there
//! every 64 MiB  -> write all of the table back, fence once, empty it
//! ```
//! **Bound.** Lines that are freed and not yet past the caches: at most [`PENDING_LINES`] (8.3 MiB) for each thread that
//! stand in its table, and those pushed out of it since its last fence, for which the write-back is already under way.
//! What memory held of a line before is gone when [`BYTES_PER_FENCE`] more were freed, at the latest.
//!
//! Two designs were measured, by what a free of the mix of `benches/peers` takes beyond one that flushes nothing. A
//! table of single lines (16,384 of them, the bound 1 MiB) costs an entry for each 64 bytes that are freed and spreads
//! over 64 KiB, more than the nearest cache holds. With a group an entry, a kilobyte is one store, and half the room
//! remembers eight times as much, so that fewer lines are written back that are freed again soon.
//!
//! Slabs a multiple of 8 MiB apart have the same places. So a thread that wants a slab takes, out of the next few free
//! units, one that shares its places with the fewest of its slabs ([`Pending::crowd`]). Without that, two threads that take
//! units in turn each have half of every 8 MiB, and twice as many of them: in the mix of `benches/peers` two threads wrote
//! back 2.7 lines for each free that were freed again soon, where one wrote back none (when the table had half its length).
//!
//! A bit stands for two lines so that a small block, which may reach into the next line, and that of another group,
//! needs one look at one bit. What that costs is a line more to write back for each row of them.
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

use super::geometry::{PAYLOAD_BYTES, UNIT_BYTES};

/// Freed bytes after which a thread writes everything back.
pub(crate) const BYTES_PER_FENCE: usize = 64 << 20;
/// log2 of the bytes of a line.
pub(crate) const LINE_SHIFT: u32 = 6;
/// Most lines that a thread remembers: those of all groups, and the one behind each.
pub(crate) const PENDING_LINES: usize = ENTRIES * (LINES as usize + 1);

/// Groups that a thread remembers.
const ENTRIES: usize = 4096;
/// Lines of a group: as many as an entry has bits beside the number of the group.
const LINES: u32 = 32;
/// Places that share a bit.
const SHARE: usize = ENTRIES / 64;
/// Slabs whose lines have places of their own.
const WINDOWS: usize = ENTRIES * LINES as usize / UNIT_LINES as usize;
/// Lines of a unit, and how many of them are a slab's slots: behind these is a guard.
const UNIT_LINES: u32 = (UNIT_BYTES >> LINE_SHIFT) as u32;
const PAYLOAD_LINES: u32 = (PAYLOAD_BYTES >> LINE_SHIFT) as u32;

/// The lines that one thread freed lately. A line is its offset in the memory range divided by 64; the first group
/// lies in the unused unit 0, so that an entry without bits stands for none.
///
/// # Invariants
/// 1. The bit of every place that is not empty is set in `used`. Only the thread that owns the table reads it.
/// 2. A bit is that of a line of a slab, before its guard.
#[repr(C, align(64))]
pub(crate) struct Pending {
    bytes_left: Cell<isize>,
    used: Cell<u64>,
    entries: [AtomicU64; ENTRIES],
    /// Slabs of the thread heap, by the places that their lines have.
    slabs: [Cell<u32>; WINDOWS],
}

/// A group of lines, its number in the lower half, and which of them are remembered, in the upper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry(u64);

impl Entry {
    /// Bits `first` to `last` of one group.
    #[inline(always)]
    const fn of(first: u32, last: u32) -> Self {
        let bits = (u32::MAX << (first % LINES)) & (u32::MAX >> (LINES - 1 - last % LINES));
        Self((bits as u64) << 32 | (first / LINES) as u64)
    }

    #[inline(always)]
    const fn group(self) -> u32 {
        self.0 as u32
    }

    /// Hands out every line.
    #[inline(always)]
    fn visit(self, mut see: impl FnMut(u32)) {
        let first = self.group() * LINES;
        let bits = self.0 >> 32;
        let mut lines = bits | bits << 1;
        while lines != 0 {
            let line = first + lines.trailing_zeros();
            lines &= lines - 1;
            // By `Pending` 2 no other line than this can be behind the slots of a slab.
            if line % UNIT_LINES != PAYLOAD_LINES {
                see(line);
            }
        }
    }
}

impl Pending {
    /// Remembers `line` and the one behind it, if their group has its place already. Tells whether it did.
    #[inline(always)]
    pub(crate) fn remember_one_again(&self, line: u32) -> bool {
        let group = line / LINES;
        let entry = self.entry(group);
        if entry.group() != group {
            return false;
        }
        // Whether the bit is set already is not asked: that could not be foretold.
        let bit = 1 << ((line % LINES) | 32);
        self.entries[group as usize % ENTRIES].store(entry.0 | bit, Ordering::Relaxed);
        true
    }

    /// Remembers `line` and the two behind it, if their group has its place already. Tells whether it did; not where two
    /// groups meet.
    #[inline(always)]
    pub(crate) fn remember_three_again(&self, line: u32) -> bool {
        let group = line / LINES;
        let entry = self.entry(group);
        if entry.group() != group || line % LINES == LINES - 1 {
            return false;
        }
        let bits = 3 << ((line % LINES) | 32);
        self.entries[group as usize % ENTRIES].store(entry.0 | bits, Ordering::Relaxed);
        true
    }

    /// Whether `line` and the one behind it are remembered.
    #[cfg(test)]
    fn has(&self, line: u32) -> bool {
        let entry = self.entry(line / LINES);
        entry.group() == line / LINES && entry.0 >> ((line % LINES) | 32) & 1 != 0
    }

    /// Remembers lines `first` to `last` of a slab; hands those that lose their place to `write_back`.
    #[inline(always)]
    pub(crate) fn remember(&self, first: u32, last: u32, mut write_back: impl FnMut(u32)) {
        // The last is the one behind the one before.
        let last = first.max(last.wrapping_sub(1));
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

    /// Remembers lines `first` to `last` of a slab, a group's at most, if their groups have their places already. Tells
    /// whether it did. Two groups or one, it takes the same steps: which it is cannot be foretold.
    #[inline(always)]
    pub(crate) fn remember_again(&self, first: u32, last: u32) -> bool {
        debug_assert!(last - first <= LINES, "a group's lines, and the one behind");
        let bits = (u64::from(u32::MAX) >> (LINES - (last - first).max(1))) << (first % LINES);
        let group = first / LINES;
        let (low, high) = (bits << 32, bits & !u64::from(u32::MAX));
        // Where none is in the next group, those of the first a second time.
        let (group_2, bits_2) = if high == 0 { (group, low) } else { (group + 1, high) };
        let (entry, entry_2) = (self.entry(group), self.entry(group_2));
        if entry.group() != group || entry_2.group() != group_2 {
            return false;
        }
        self.entries[group as usize % ENTRIES].store(entry.0 | low, Ordering::Relaxed);
        let entry_2 = self.entry(group_2);
        self.entries[group_2 as usize % ENTRIES].store(entry_2.0 | bits_2, Ordering::Relaxed);
        true
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

    /// Hands every remembered line to `write_back`, some of them twice, and forgets it. Only for the thread that owns it.
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

    /// Hands the lines of a slab, from `first` on to below `end`, to `write_back` and forgets them.
    pub(crate) fn empty_range(&self, first: u32, end: u32, mut write_back: impl FnMut(u32)) {
        for group in first / LINES..end / LINES {
            let entry = self.entry(group);
            if entry.group() == group && entry.0 != 0 {
                self.entries[group as usize % ENTRIES].store(0, Ordering::Relaxed);
                entry.visit(&mut write_back);
            }
        }
    }

    /// Slabs of the thread heap that share the places of a unit.
    pub(crate) fn crowd(&self, unit: u32) -> u32 {
        self.slabs[unit as usize % WINDOWS].get()
    }

    /// Notes that the thread heap has a unit more.
    pub(crate) fn join(&self, unit: u32) {
        self.slabs[unit as usize % WINDOWS].update(|n| n + 1);
    }

    /// Notes that the thread heap has a unit less.
    pub(crate) fn leave(&self, unit: u32) {
        self.slabs[unit as usize % WINDOWS].update(|n| n.wrapping_sub(1));
    }

    /// Lines remembered. Those where two groups meet may be counted twice.
    pub(crate) fn len(&self) -> usize {
        let mut len = 0;
        self.visit(|_| len += 1);
        len
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
            slabs: [const { Cell::new(0) }; WINDOWS],
        };
        table.empty(|_| panic!("a line of an empty table"));
        table
    }

    #[test]
    fn every_line_is_written_back_or_remembered() {
        let table = table();
        let mut owed = BTreeSet::new();
        let mut rng = crate::heap::rng::Rng::new(1);
        let mut nr_written = 0;
        for round in 0..20_000 {
            // More groups than there are places, and ranges of one line to those of several groups.
            let unit = UNIT_LINES * (1 + rng.below(3 * PENDING_LINES as u32 / UNIT_LINES));
            let first = rng.below(PAYLOAD_LINES);
            let last = first + if round % 8 == 0 { rng.below(500) } else { rng.below(3) };
            let (first, last) = (unit + first, unit + last.min(PAYLOAD_LINES - 1));
            let mut pushed_out = BTreeSet::new();
            table.remember(first, last, |line| _ = pushed_out.insert(line));
            nr_written += pushed_out.len();
            owed.extend(first..=last);
            // What was just freed may be pushed out by its own other end.
            for line in pushed_out {
                owed.remove(&line);
            }
            // Now and then, since it looks at every place.
            if round % 1000 == 0 {
                assert!(table.len() <= PENDING_LINES, "more than it has places for");
            }
        }
        assert!(nr_written > 0);
        let is_before_a_guard = |line: u32| line % UNIT_LINES < PAYLOAD_LINES;
        let mut seen = BTreeSet::new();
        table.visit(|line| _ = seen.insert(line));
        assert!(seen.is_superset(&owed) && seen.iter().all(|&line| is_before_a_guard(line)));
        table.empty_range(UNIT_LINES, 2 * UNIT_LINES, |line| _ = owed.remove(&line));
        assert!(owed.range(UNIT_LINES..2 * UNIT_LINES).next().is_none() && !owed.is_empty());
        table.empty(|line| _ = owed.remove(&line));
        assert!(owed.is_empty() && table.len() == 0, "forgotten: {owed:?}");
    }

    #[test]
    fn tells_which_lines_it_has() {
        let table = table();
        let at = UNIT_LINES;
        table.remember(at + 4, at + 44, |_| panic!("pushed out of an empty table"));
        let far = ENTRIES as u32 * LINES;
        for (line, has) in [(4, true), (31, true), (32, true), (43, true), (3, false), (44, false)] {
            assert_eq!(table.has(at + line), has, "{line}");
            assert!(!table.has(at + line + far), "of another group with that place");
        }
        table.remember(at + 4 + far, at + 4 + far, |line| assert!((at + 4..=at + 32).contains(&line)));
        assert!(!table.has(at + 4) && table.has(at + 4 + far) && table.has(at + 32));
    }

    #[test]
    fn remembers_again_what_has_a_place() {
        let (table, other) = (table(), table());
        for first in 2 * UNIT_LINES..2 * UNIT_LINES + 3 * LINES {
            for last in first..=first + LINES {
                if !table.remember_again(first, last) {
                    assert!(!table.has(first) || !table.has(last.max(first + 1) - 1), "{first} to {last}");
                    table.remember(first, last, |_| panic!("pushed out"));
                }
                other.remember(first, last, |_| panic!("pushed out"));
                let bits =
                    |table: &Pending| table.entries.each_ref().map(|entry| entry.load(Ordering::Relaxed));
                assert!(bits(&table) == bits(&other), "{first} to {last}");
            }
            table.empty(|_| ());
            other.empty(|_| ());
        }
        table.remember(UNIT_LINES, UNIT_LINES + 1, |_| panic!("pushed out"));
        let far = UNIT_LINES + ENTRIES as u32 * LINES;
        assert!(!table.remember_again(far, far + 1), "another has its place");
        assert!(!table.remember_one_again(far) && !table.has(UNIT_LINES + 1));
        assert!(
            table.remember_one_again(UNIT_LINES + 1) && table.has(UNIT_LINES + 1) && table.has(UNIT_LINES)
        );
        assert!(!table.has(UNIT_LINES + 2));
        assert!(table.remember_three_again(UNIT_LINES + 4) && !table.has(UNIT_LINES + 3));
        assert!(table.has(UNIT_LINES + 4) && table.has(UNIT_LINES + 5) && !table.has(UNIT_LINES + 6));
        assert!(table.remember_three_again(UNIT_LINES + LINES - 2) && table.has(UNIT_LINES + LINES - 1));
        assert!(!table.remember_three_again(UNIT_LINES + LINES - 1), "its third line is in the next group");
        assert!(!table.remember_three_again(far), "another has its place");
    }

    #[test]
    fn a_line_before_a_guard_stands_for_itself_only() {
        let table = table();
        let last = UNIT_LINES + PAYLOAD_LINES - 1;
        table.remember(last, last, |_| panic!("pushed out of an empty table"));
        table.visit(|line| assert_eq!(line, last));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn slabs_that_are_no_crowd_push_each_other_out_of_no_place() {
        let table = table();
        for unit in 1..=WINDOWS as u32 {
            assert_eq!(table.crowd(unit + 7 * WINDOWS as u32), 0);
            table.join(unit);
            let first = unit * UNIT_LINES;
            table.remember(first, first + PAYLOAD_LINES - 1, |_| panic!("pushed out"));
            assert_eq!(table.crowd(unit + WINDOWS as u32), 1);
        }
        let next = WINDOWS as u32 + 1;
        let mut nr_pushed_out = 0;
        table.remember(next * UNIT_LINES, next * UNIT_LINES + 1, |_| nr_pushed_out += 1);
        assert!(nr_pushed_out > 0, "the control: a crowd of two");
        table.leave(1);
        assert_eq!((table.crowd(next), table.crowd(2)), (0, 1));
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
