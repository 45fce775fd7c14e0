//! The free slots of one class that a thread has at hand.

// UNSAFETY: skips bounds checks in the hottest path.
#![expect(unsafe_code, reason = "table accesses without a bounds check, by the invariants of `Bin`")]

use core::cell::Cell;

use super::class::{Class, HELD_BACK, STASH_MAX};
use super::rng::Rng;
use crate::{Fork, Policy};

/// Which of the free slots at hand comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// One drawn by lot out of the oldest `held_back + 1`, so that nobody knows which: in heaps of secrets.
    Lot,
    /// The oldest, so that blocks that are made one after the other lie one after the other, and a program that goes
    /// through them in that order is not slowed down: in heaps of whole programs. (Measured: Python's garbage
    /// collector takes 1.9 times its time where neighbours are shuffled, even within 1 KiB.) Where a slab begins is
    /// by lot.
    Runs,
}

/// The free slots of one class that a thread has at hand: those to draw from, and those that were freed since.
///
/// ```text
/// one half of the stash: drawn drawn  next ... last  0     the run: drawn from, one after the other
/// the other:             first ... fill           fill_end  freed: becomes the run when that is used up
/// ```
/// So slots come back in the order in which they were freed, after as many others as are held back at least; or, drawn by
/// lot, each as one of the oldest. A ring, which did the same, takes twice the instructions: two places and their distance
/// to look at for each.
///
/// # Invariants
/// 1. `next` and `fill` are below `STASH_LEN`, in one half each, at most `RUN_MAX` behind its start; while the thread
///    heap is not set up all is 0.
/// 2. Behind the last slot of the run is a zero, and where slots are drawn by lot `HELD_BACK + 1` of them.
/// 3. `fill_end` is `Class::limit`, which is below `STASH_MAX`, behind the start of the half that `fill` is in.
#[repr(C, align(64))]
pub(crate) struct Bin {
    next: Cell<u32>,
    fill: Cell<u32>,
    fill_end: Cell<u32>,
    /// The shape of the class, as far as the hot paths need it; zeros while the thread heap is not set up.
    slot_bytes: Cell<u32>,
    usable_bytes: Cell<usize>,
    limit: Cell<u32>,
    held_back: Cell<u16>,
    /// Not zero for [`Order::Lot`].
    is_by_lot: Cell<u16>,
    stash: [Cell<u32>; STASH_LEN],
}

/// Most slots in a run: as many as can be freed, and what is left of the run before.
const RUN_MAX: u32 = STASH_MAX + HELD_BACK;
/// Places of a half of the stash.
const HALF: u32 = RUN_MAX + HELD_BACK + 2;
#[expect(clippy::as_conversions, reason = "widens")]
const STASH_LEN: usize = 2 * HALF as usize;

impl Order {
    /// The order in heaps of this policy.
    #[inline(always)]
    pub(crate) const fn of(policy: Policy) -> Self {
        match policy.fork() {
            Fork::Inherit => Self::Runs,
            Fork::Wipe | Fork::Exclude => Self::Lot,
        }
    }
}

#[expect(
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    reason = "places stay below STASH_LEN by the invariants of `Bin`"
)]
impl Bin {
    /// Fills in what never changes, in an empty bin.
    pub(crate) fn set_up(&self, class: &Class, order: Order) {
        self.slot_bytes.set(class.slot_bytes);
        self.usable_bytes.set(class.usable_bytes());
        self.limit.set(class.limit());
        self.held_back.set(u16::try_from(class.held_back).unwrap_or(0));
        self.is_by_lot.set(u16::from(order == Order::Lot));
        self.fill_from(HALF);
    }

    /// Bytes of a slot.
    #[inline(always)]
    pub(crate) fn slot_bytes(&self) -> usize {
        self.slot_bytes.get() as usize
    }

    /// Bytes of the largest block.
    #[inline(always)]
    pub(crate) fn usable_bytes(&self) -> usize {
        self.usable_bytes.get()
    }

    /// Takes the slot that is next: the granule that it starts with. `None` if the run is used up: then
    /// [`renew`](Self::renew). `order` is that of the heap.
    #[inline(always)]
    pub(crate) fn draw(&self, rng: &Cell<Rng>, held_back: u32, order: Order) -> Option<u32> {
        let next = self.next.get();
        if order == Order::Runs {
            let slot = self.place(next).get();
            if slot == 0 {
                return None;
            }
            self.next.set(next + 1);
            return Some(slot);
        }
        if self.place(next + held_back).get() == 0 {
            return None;
        }
        let random = rng.get().stepped();
        rng.set(random);
        let oldest = self.place(next).get();
        self.next.set(next + 1);
        // The oldest takes the place of the one that is drawn.
        Some(self.place(next + (random.of_sixteen() & held_back)).replace(oldest))
    }

    /// The same for any class. Of those that hold nothing back, whose slots are large, the one that is still in the
    /// caches.
    #[inline(always)]
    pub(crate) fn draw_any(&self, rng: &Cell<Rng>) -> Option<u32> {
        match self.held_back() {
            0 => self.draw_last(),
            held_back => self.draw(rng, held_back, self.order()),
        }
    }

    #[inline(always)]
    fn held_back(&self) -> u32 {
        u32::from(self.held_back.get()).min(HELD_BACK)
    }

    /// A place of the stash: `next` or `fill`, or up to [`HELD_BACK`] behind.
    #[inline(always)]
    fn place(&self, place: u32) -> &Cell<u32> {
        debug_assert!((place as usize) < STASH_LEN, "a place of the stash");
        // SAFETY: by invariant 1 and the length of a half.
        unsafe { self.stash.get_unchecked(place as usize) }
    }

    /// Takes the slot that was freed last, or the next, whether it is held back or not.
    pub(crate) fn draw_last(&self) -> Option<u32> {
        let fill = self.fill.get();
        if fill != self.fill_start() {
            self.fill.set(fill - 1);
            return Some(self.place(fill - 1).get());
        }
        let next = self.next.get();
        let slot = self.place(next).get();
        if slot == 0 {
            return None;
        }
        self.next.set(next + 1);
        Some(slot)
    }

    /// Puts a slot that was freed into the stash. Tells whether there was room.
    #[inline(always)]
    #[must_use]
    pub(crate) fn push(&self, granule: u32) -> bool {
        let fill = self.fill.get();
        if fill == self.fill_end.get() {
            return false;
        }
        self.place(fill).set(granule);
        self.fill.set(fill + 1);
        true
    }

    /// Makes a run of what is left of the old one and of what was freed, in this order, if both are more than is held
    /// back. Tells whether it did.
    pub(crate) fn renew(&self) -> bool {
        let (start, fill, next) = (self.fill_start(), self.fill.get(), self.next.get());
        let left = self.nr_left();
        // No more are left where a draw came to nothing.
        if fill == start || left > HELD_BACK || fill - start + left <= self.held_back() {
            return false;
        }
        if left != 0 {
            for at in (start..fill).rev() {
                self.place(at + left).set(self.place(at).get());
            }
            for at in 0..left {
                self.place(start + at).set(self.place(next + at).get());
            }
        }
        self.end_run(fill + left);
        self.next.set(start);
        self.fill_from(HALF - start);
        true
    }

    /// Moves what is left of the run to the start of its half. Gives the place behind it.
    pub(crate) fn compact(&self) -> u32 {
        let (start, next, left) = (HALF - self.fill_start(), self.next.get(), self.nr_left());
        for at in 0..left {
            self.place(start + at).set(self.place(next + at).get());
        }
        self.next.set(start);
        self.end_run(start + left);
        start + left
    }

    /// Puts a slot at the end of a run that was made compact, and will be ended. Gives the place behind it; `None` if
    /// there is no room.
    pub(crate) fn append(&self, end: u32, slot: u32) -> Option<u32> {
        if end >= self.next.get() + RUN_MAX {
            return None;
        }
        self.place(end).set(slot);
        Some(end + 1)
    }

    /// Ends a run before a place.
    pub(crate) fn end_run(&self, end: u32) {
        // Only who draws by lot looks ahead.
        let nr_zeros = if self.order() == Order::Lot { HELD_BACK + 1 } else { 1 };
        for at in end..end + nr_zeros {
            self.place(at).set(0);
        }
    }

    /// The half that is filled starts here.
    fn fill_start(&self) -> u32 {
        // While nothing is set up this is 0 as well.
        if self.fill.get() >= HALF { HALF } else { 0 }
    }

    /// Fills a half from its start.
    fn fill_from(&self, start: u32) {
        self.fill.set(start);
        self.fill_end.set(start + self.limit.get());
    }

    /// Whether the stash has no room.
    pub(crate) fn is_full(&self) -> bool {
        self.fill.get() == self.fill_end.get()
    }

    /// Slots left in the run.
    pub(crate) fn nr_left(&self) -> u32 {
        let mut left = 0;
        while self.place(self.next.get() + left).get() != 0 {
            left += 1;
        }
        left
    }

    /// Slots in the stash.
    pub(crate) fn len(&self) -> u32 {
        self.nr_left() + self.fill.get() - self.fill_start()
    }

    /// Hands out the `n` slots that were freed first and keeps the others.
    pub(crate) fn spill(&self, n: u32, mut give: impl FnMut(u32)) {
        let (start, fill) = (self.fill_start(), self.fill.get());
        let n = n.min(fill - start);
        for at in start..start + n {
            give(self.place(at).get());
        }
        for at in start + n..fill {
            self.place(at - n).set(self.place(at).get());
        }
        self.fill.set(fill - n);
    }

    /// Hands out every slot.
    pub(crate) fn empty(&self, mut give: impl FnMut(u32)) {
        while let Some(slot) = self.draw_last() {
            give(slot);
        }
    }

    /// Brings the run into a random order, if slots are drawn by lot.
    pub(crate) fn shuffle(&self, rng: &Cell<Rng>) {
        if self.order() == Order::Runs {
            return;
        }
        let mut random = rng.get();
        let next = self.next.get();
        for i in (1..self.nr_left()).rev() {
            let j = random.below(i + 1);
            self.place(next + i).swap(self.place(next + j));
        }
        rng.set(random);
    }

    /// Which slot comes next.
    #[inline(always)]
    pub(crate) fn order(&self) -> Order {
        if self.is_by_lot.get() == 0 { Order::Runs } else { Order::Lot }
    }

    /// Every slot at hand.
    pub(crate) fn visit(&self, mut see: impl FnMut(u32)) {
        let run = (0..self.nr_left()).map(|at| self.next.get() + at);
        for at in run.chain(self.fill_start()..self.fill.get()) {
            see(self.place(at).get());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::class::CLASSES;
    use crate::heap::thread::ThreadHeap;
    use std::collections::{BTreeSet, VecDeque};

    /// A bin of a class, with the numbers from 1 to `n` in its run.
    fn bin(class: usize, order: Order, n: u32) -> Box<ThreadHeap> {
        // SAFETY: valid when all its bytes are zero.
        let heap: Box<ThreadHeap> = unsafe { Box::new_zeroed().assume_init() };
        heap.set_up_bins(order);
        let bin = heap.bin(class);
        let end = (1..=n).fold(bin.compact(), |end, slot| bin.append(end, slot).unwrap());
        bin.end_run(end);
        heap
    }

    #[test]
    fn slots_come_back_in_their_order_and_not_before_others_are_used() {
        let heap = bin(0, Order::Runs, 39);
        let bin = heap.bin(0);
        let mut model: VecDeque<u32> = (1..=39).collect();
        let mut rng = Rng::new(5);
        let mut in_use = Vec::new();
        for _ in 0..20_000 {
            if rng.below(2) == 0 && !in_use.is_empty() {
                let slot = in_use.swap_remove(rng.below(in_use.len() as u32) as usize);
                assert!(bin.push(slot));
                model.push_back(slot);
            } else {
                let mut drawn = bin.draw(&heap.rng, HELD_BACK, Order::Runs);
                if drawn.is_none() {
                    let is_enough = model.len() as u32 > HELD_BACK;
                    assert_eq!(bin.renew(), is_enough, "{} left", model.len());
                    drawn = bin.draw(&heap.rng, HELD_BACK, Order::Runs);
                }
                match drawn {
                    Some(slot) => {
                        assert_eq!(Some(slot), model.pop_front());
                        in_use.push(slot);
                    }
                    None => assert!(model.len() as u32 <= HELD_BACK),
                }
            }
            assert_eq!(bin.len() as usize, model.len());
        }
    }

    #[test]
    fn by_lot_one_of_the_oldest_comes_back() {
        // Small slots, and some of which fewer are held back.
        for class in [0, 20] {
            let held_back = CLASSES[class].held_back;
            let heap = bin(class, Order::Lot, CLASSES[class].limit());
            let bin = heap.bin(class);
            let mut model: VecDeque<u32> = (1..=bin.len()).collect();
            let mut rng = Rng::new(7);
            let mut in_use = Vec::new();
            let mut nr_renewed = 0;
            for _ in 0..20_000 {
                if rng.below(2) == 0 && !in_use.is_empty() {
                    let slot = in_use.swap_remove(rng.below(in_use.len() as u32) as usize);
                    if bin.push(slot) {
                        model.push_back(slot);
                    } else {
                        in_use.push(slot);
                    }
                    continue;
                }
                let mut drawn = bin.draw_any(&heap.rng);
                if drawn.is_none() && bin.renew() {
                    nr_renewed += 1;
                    drawn = bin.draw_any(&heap.rng);
                }
                let Some(slot) = drawn else { continue };
                // The oldest takes its place.
                let at = model.iter().take(held_back as usize + 1).position(|&old| old == slot);
                model.swap(at.expect("a slot that is not one of the oldest"), 0);
                model.pop_front();
                in_use.push(slot);
            }
            assert!(nr_renewed > 100, "class {class}: {nr_renewed}");
        }
    }

    #[test]
    fn no_slot_is_lost_or_doubled() {
        for (order, class) in [(Order::Lot, 0), (Order::Lot, 20), (Order::Runs, 19), (Order::Runs, 36)] {
            let shape = CLASSES[class];
            let heap = bin(class, order, shape.held_back + shape.stash_len / 2);
            let bin = heap.bin(class);
            let mut free: BTreeSet<u32> = (1..=bin.len()).collect();
            let mut in_use: Vec<u32> = Vec::new();
            let mut rng = Rng::new(9);
            let mut nr_renewed = 0;
            for round in 0..20_000 {
                match rng.below(9) {
                    0..=3 => {
                        let mut drawn = bin.draw_any(&heap.rng);
                        if drawn.is_none() && bin.renew() {
                            nr_renewed += 1;
                            drawn = bin.draw_any(&heap.rng);
                            assert!(drawn.is_some(), "{order:?} {class}: nothing in a new run");
                        }
                        in_use.extend(drawn);
                        assert!(drawn.is_none_or(|slot| free.remove(&slot)), "{order:?} {class}");
                    }
                    4..=7 if !in_use.is_empty() => {
                        let slot = in_use.swap_remove(rng.below(in_use.len() as u32) as usize);
                        if bin.push(slot) {
                            assert!(free.insert(slot));
                        } else {
                            assert!(bin.is_full());
                            in_use.push(slot);
                            bin.spill(shape.stash_len / 2, |slot| {
                                assert!(free.remove(&slot), "{order:?} {class}");
                                in_use.push(slot);
                            });
                        }
                    }
                    _ if round % 50 == 0 => {
                        let last = bin.draw_last();
                        in_use.extend(last);
                        assert!(last.is_none_or(|slot| free.remove(&slot)));
                    }
                    _ => {}
                }
                let mut seen = BTreeSet::new();
                bin.visit(|slot| assert!(seen.insert(slot), "{order:?} {class}: {slot} twice"));
                assert_eq!(seen, free, "{order:?} {class}");
            }
            assert!(nr_renewed > 100 || shape.held_back == 0, "{order:?} {class}: {nr_renewed}");
            bin.empty(|slot| assert!(free.remove(&slot)));
            assert!(free.is_empty() && bin.len() == 0);
        }
    }
}
