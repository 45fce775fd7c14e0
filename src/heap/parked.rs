//! Which runs are open: a few words, each of which a thread puts or takes by one exchange.
//!
//! A list by age would need links that two threads change at a time. There are so few that looking at each is quicker,
//! and the age can stand in the word.

#![expect(clippy::as_conversions, reason = "fields of a word, each within its bits")]

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// How many runs a heap leaves open. A `deflate` has four blocks of the same size, an `inflate` two.
#[cfg(not(all(test, loom)))]
const NR_OPEN: usize = 8;
#[cfg(all(test, loom))]
const NR_OPEN: usize = 2;

/// An open run: no block is in it, and the pages at its end are accessible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parked {
    /// The run, by the number of its first unit.
    pub(crate) number: u32,
    /// Its length class.
    pub(crate) class: usize,
    /// How many pages: at most [`Parked::MOST_PAGES`].
    pub(crate) pages: usize,
}

impl Parked {
    pub(crate) const MOST_PAGES: usize = 0xff;

    /// Number, class, pages, and when it was put: 32, 8, 8 and 16 bits. Never 0, since numbers are not.
    fn word(self, stamp: u32) -> u64 {
        u64::from(self.number) << 32
            | (self.class as u64 & 0xff) << 24
            | (self.pages as u64 & 0xff) << 16
            | u64::from(stamp & 0xffff)
    }

    fn of(word: u64) -> Self {
        Self {
            number: (word >> 32) as u32,
            class: (word >> 24 & 0xff) as usize,
            pages: (word >> 16 & 0xff) as usize,
        }
    }
}

/// The open runs of a heap.
///
/// # Invariants
/// 1. A word is 0 or stands for a run that belongs to nobody else. Who exchanges a word for another one owns its run
///    from then on. A run that was taken and put again between a thread's look and its exchange is the same run in
///    the same state if its word is the same.
#[derive(Debug)]
pub(crate) struct ParkedRuns {
    words: [AtomicU64; NR_OPEN],
    /// How many were put: the stamp of the next one. Wraps, and then an old one may pass for a young one.
    nr_put: AtomicU32,
}

impl ParkedRuns {
    pub(crate) fn new() -> Self {
        Self { words: core::array::from_fn(|_| AtomicU64::new(0)), nr_put: AtomicU32::new(0) }
    }

    /// Puts a run that the caller owns. With no room left, the oldest one is the caller's in exchange.
    pub(crate) fn put(&self, run: Parked) -> Option<Parked> {
        let stamp = self.nr_put.fetch_add(1, Ordering::Relaxed);
        let word = run.word(stamp);
        loop {
            let (at, old) = self.oldest(stamp, Room::Empty);
            // Release pairs with Acquire in `take`: the wiped pages are seen by who takes the run. Acquire as there.
            if at.compare_exchange(old, word, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return (old != 0).then(|| Parked::of(old));
            }
        }
    }

    /// Takes a run of a class, which the caller then owns: the youngest that has so many pages accessible, else the
    /// youngest.
    pub(crate) fn take(&self, class: usize, pages: usize) -> Option<Parked> {
        let now = self.nr_put.load(Ordering::Relaxed);
        loop {
            let (at, word) = self
                .words
                .iter()
                .map(|at| (at, at.load(Ordering::Relaxed)))
                .filter(|&(_, word)| word != 0 && Parked::of(word).class == class)
                .min_by_key(|&(_, word)| (Parked::of(word).pages != pages, age(word, now)))?;
            // Acquire pairs with Release in `put`.
            if at.compare_exchange(word, 0, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return Some(Parked::of(word));
            }
        }
    }

    /// Takes the run that was put first.
    pub(crate) fn take_oldest(&self) -> Option<Parked> {
        let now = self.nr_put.load(Ordering::Relaxed);
        loop {
            let (at, word) = self.oldest(now, Room::Taken);
            if word == 0 {
                return None;
            }
            // Acquire as in `take`.
            if at.compare_exchange(word, 0, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return Some(Parked::of(word));
            }
        }
    }

    /// Forgets every run. Only for a process that has just been forked.
    pub(crate) fn clear(&self) {
        for word in &self.words {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// The place of the oldest run, and its word; before that a place of the kind that is preferred.
    fn oldest(&self, now: u32, first: Room) -> (&AtomicU64, u64) {
        let mut best = (&self.words[0], self.words[0].load(Ordering::Relaxed));
        for at in &self.words[1..] {
            let word = at.load(Ordering::Relaxed);
            if (first.is(word), age(word, now)) > (first.is(best.1), age(best.1, now)) {
                best = (at, word);
            }
        }
        best
    }
}

/// What a place holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Empty,
    Taken,
}

impl Room {
    fn is(self, word: u64) -> bool {
        (word == 0) == (self == Self::Empty)
    }
}

/// How many runs were put since this one.
fn age(word: u64, now: u32) -> u16 {
    (now as u16).wrapping_sub(word as u16)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(number: u32, class: usize, pages: usize) -> Parked {
        Parked { number, class, pages }
    }

    #[test]
    fn the_same_size_comes_first_then_the_youngest() {
        let runs = ParkedRuns::new();
        for (number, pages) in [(1, 16), (2, 17), (3, 16), (4, 18)] {
            assert_eq!(runs.put(run(number, 1, pages)), None);
        }
        assert_eq!(runs.put(run(5, 2, 16)), None);
        assert_eq!(runs.take(0, 16), None);
        assert_eq!(runs.take(1, 16), Some(run(3, 1, 16)));
        assert_eq!(runs.take(1, 16), Some(run(1, 1, 16)));
        assert_eq!(runs.take(1, 20), Some(run(4, 1, 18)));
        assert_eq!(runs.take_oldest(), Some(run(2, 1, 17)));
        assert_eq!(runs.take_oldest(), Some(run(5, 2, 16)));
        assert_eq!(runs.take_oldest(), None);
    }

    #[test]
    fn the_oldest_makes_room() {
        let runs = ParkedRuns::new();
        for number in 1..=NR_OPEN as u32 {
            assert_eq!(runs.put(run(number, 255, Parked::MOST_PAGES)), None);
        }
        assert_eq!(runs.put(run(u32::MAX, 0, 1)), Some(run(1, 255, Parked::MOST_PAGES)));
        // A place in the middle is free again: nobody has to go.
        assert_eq!(runs.take(0, 1), Some(run(u32::MAX, 0, 1)));
        assert_eq!(runs.put(run(77, 0, 2)), None);
        assert_eq!(runs.take_oldest(), Some(run(2, 255, Parked::MOST_PAGES)));
        runs.clear();
        assert_eq!(runs.take_oldest(), None);
    }

    proptest! {
        /// Against a list, youngest last.
        #[test]
        fn as_a_list(steps in prop::collection::vec((0_u8..4, 0_usize..3, 1_usize..4), 1..300)) {
            let runs = ParkedRuns::new();
            let mut list: Vec<Parked> = Vec::new();
            for (number, (what, class, pages)) in (1..).zip(steps) {
                match what {
                    0 => {
                        let found = list.iter().rposition(|r| r.class == class && r.pages == pages)
                            .or_else(|| list.iter().rposition(|r| r.class == class));
                        prop_assert_eq!(runs.take(class, pages), found.map(|at| list.remove(at)));
                    }
                    1 if number % 5 == 0 => {
                        let oldest = (!list.is_empty()).then(|| list.remove(0));
                        prop_assert_eq!(runs.take_oldest(), oldest);
                    }
                    _ => {
                        let out = (list.len() == NR_OPEN).then(|| list.remove(0));
                        list.push(run(number, class, pages));
                        prop_assert_eq!(runs.put(run(number, class, pages)), out);
                    }
                }
            }
        }
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::sync::Arc;

    /// Two threads put and take: no run has two owners, and none is lost.
    #[test]
    fn a_run_has_one_owner() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let runs = Arc::new(ParkedRuns::new());
            runs.put(Parked { number: 1, class: 0, pages: 1 });
            let other = Arc::clone(&runs);
            let bit = |run: Option<Parked>| run.map_or(0, |run| 1_u32 << run.number);
            let thread = loom::thread::spawn(move || {
                bit(other.put(Parked { number: 2, class: 0, pages: 1 })) | bit(other.take(0, 1))
            });
            let mut here = bit(runs.put(Parked { number: 3, class: 0, pages: 1 }));
            let taken = bit(runs.take_oldest());
            assert_eq!(here & taken, 0);
            here |= taken;
            let there = thread.join().unwrap();
            let mut seen = here | there;
            assert_eq!(here & there, 0, "two owners");
            while let Some(run) = runs.take_oldest() {
                assert_eq!(seen & 1 << run.number, 0, "two owners");
                seen |= 1 << run.number;
            }
            assert_eq!(seen, 0b1110, "lost");
        });
    }
}
