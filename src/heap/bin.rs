//! The free slots of one class that a thread has at hand.

// UNSAFETY: skips bounds checks, and moves several places at once, in the hottest path.
#![expect(unsafe_code, reason = "table accesses without a bounds check, by the invariants of `Bin`")]

use core::cell::Cell;

use super::canary;
use super::class::{Class, HELD_BACK, STASH_MAX};
use super::rng::Rng;
use crate::{Fork, Policy};

/// Which of the free slots at hand comes next. None of the [`Bin::delay`] that were freed last, so that what is written to
/// a block after its free lands in a free slot, and shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// One drawn by lot out of `held_back + 1`, so that nobody knows which: in heaps of secrets.
    Lot,
    /// The one that was freed last before those, which is likely to be in the caches still: in heaps of whole programs.
    /// Slots that were never used come in the order of their addresses, so that blocks that are made one after the
    /// other lie one after the other, and a program that goes through them in that order is not slowed down. (Measured:
    /// Python's garbage collector takes 1.9 times its time where neighbours are shuffled, even within 1 KiB.) Where
    /// a slab begins is by lot.
    Runs,
}

/// The free slots of one class that a thread has at hand: a stack.
///
/// ```text
/// stash: 0 0 0 ... 0 | oldest ...      drawn from      | freed last |
///        PAD         | 0 ...            held_back + 1  |   delay    | fill
/// ```
/// A free puts its slot on top. A draw takes one from below the `delay` on top, and these move down to close the gap.
///
/// Two designs were measured by the mix of `benches/peers`. Taking slots in the order in which they were freed, out of
/// two halves, one filled while the other is emptied, leaves each unused for as long as there are others: it takes 6
/// percent more time, since what it hands out has left the caches; python3 (`cargo bench --bench programs`) takes 1.18 of
/// its time with the C library then, and 0.80 like this. A stack without a delay would be no quarantine at all: two slots
/// on top cost two instructions a draw and 1 percent, four 3 percent.
///
/// # Invariants
/// 1. `fill` is `full` at most, and that `MOST`; while the thread heap is not set up both are 0.
/// 2. The first `PAD` places of the stash are zero at all times, and none of the `fill` behind them is.
/// 3. `delay` and `held_back` together are less than `PAD`.
#[repr(C, align(64))]
pub(crate) struct Bin {
    fill: Cell<u32>,
    full: Cell<u32>,
    /// The shape of the class, as far as the hot paths need it; zeros while the thread heap is not set up.
    slot_bytes: Cell<u32>,
    usable_bytes: Cell<u32>,
    canary_step: Cell<u64>,
    delay: Cell<u16>,
    held_back: Cell<u16>,
    /// Not zero for [`Order::Lot`].
    is_by_lot: Cell<u32>,
    stash: [Cell<u32>; STASH_LEN],
}

/// Places that are always zero: a draw that looks for a slot where none is finds them.
const PAD: u32 = DELAY_LOT + HELD_BACK + 1;
/// Most slots at hand.
const MOST: u32 = 2 * STASH_MAX + PAD;
#[expect(clippy::as_conversions, reason = "widens")]
const STASH_LEN: usize = (PAD + MOST) as usize;
/// [`Bin::delay`] of classes up to `MID_MAX_BYTES`, in either order.
const DELAY_RUNS: u32 = 2;
const DELAY_LOT: u32 = HELD_BACK + 1;

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
        let (delay, held_back) = match (order, class.held_back) {
            // Of large slots the one that is still in the caches.
            (_, 0) => (0, 0),
            (Order::Runs, held_back) => (DELAY_RUNS.min(held_back), 0),
            (Order::Lot, held_back) => (held_back + 1, held_back),
        };
        self.slot_bytes.set(class.slot_bytes);
        self.usable_bytes.set(class.usable_bytes() as u32);
        self.canary_step.set(canary::step(class.slot_bytes as usize));
        self.delay.set(delay as u16);
        self.held_back.set(held_back as u16);
        self.full.set(2 * class.stash_len + delay + held_back);
        self.is_by_lot.set(u32::from(order == Order::Lot));
    }

    /// Bytes of a slot.
    #[inline(always)]
    pub(crate) fn slot_bytes(&self) -> usize {
        self.slot_bytes.get() as usize
    }

    /// Bytes of the largest block.
    #[inline(always)]
    pub(crate) fn usable_bytes(&self) -> usize {
        self.usable_bytes.get() as usize
    }

    /// [`canary::step`] of its slots.
    #[inline(always)]
    pub(crate) fn canary_step(&self) -> u64 {
        self.canary_step.get()
    }

    /// Takes the slot that is next, of a class of up to `MID_MAX_BYTES`: the granule that it starts with. `None` if too few
    /// are at hand. `order` is that of the heap.
    #[inline(always)]
    pub(crate) fn draw(&self, rng: &Cell<Rng>, order: Order) -> Option<u32> {
        match order {
            Order::Runs => self.draw_from::<{ DELAY_RUNS as usize }>(0, rng),
            Order::Lot => self.draw_from::<{ DELAY_LOT as usize }>(HELD_BACK, rng),
        }
    }

    #[inline(always)]
    fn draw_from<const DELAY: usize>(&self, held_back: u32, rng: &Cell<Rng>) -> Option<u32> {
        let fill = self.fill.get();
        let top = self.top(fill, DELAY as u32);
        let drawn = self.take_from(top, held_back, rng)?;
        // From the whole stash: a pointer made of one place is good for that place only.
        let stash = self.stash.as_ptr().cast_mut();
        let gap = stash.wrapping_add(top as usize).cast::<[u32; DELAY]>();
        let newest = stash.wrapping_add(top as usize + 1).cast::<[u32; DELAY]>();
        // SAFETY: the `DELAY` places above `top` end at the last that is filled, which is in the stash (invariants 1
        // and 3). They are cells, which this thread alone uses.
        let newest = unsafe { newest.read_unaligned() };
        // SAFETY: as above, one place below.
        unsafe { gap.write_unaligned(newest) };
        self.fill.set(fill - 1);
        Some(drawn)
    }

    /// The same for any class.
    pub(crate) fn draw_any(&self, rng: &Cell<Rng>) -> Option<u32> {
        let (fill, delay) = (self.fill.get(), self.delay());
        let top = self.top(fill, delay);
        let drawn = self.take_from(top, self.held_back(), rng)?;
        for at in top..top + delay {
            self.place(at).set(self.place(at + 1).get());
        }
        self.fill.set(fill - 1);
        Some(drawn)
    }

    /// Of the slots that may be drawn, the place of that which was freed last.
    #[inline(always)]
    fn top(&self, fill: u32, delay: u32) -> u32 {
        fill + PAD - 1 - delay
    }

    /// Takes the slot at `top`, or in place of it one of the `held_back` below.
    #[inline(always)]
    fn take_from(&self, top: u32, held_back: u32, rng: &Cell<Rng>) -> Option<u32> {
        let last = self.place(top).get();
        if held_back == 0 {
            return (last != 0).then_some(last);
        }
        if self.place(top - held_back).get() == 0 {
            return None;
        }
        let random = rng.get().stepped();
        rng.set(random);
        Some(self.place(top - (random.of_sixteen() & held_back)).replace(last))
    }

    /// Slots on top that are not drawn.
    #[inline(always)]
    fn delay(&self) -> u32 {
        u32::from(self.delay.get()).min(DELAY_LOT)
    }

    /// Slots below the top of those that may be drawn of which any may be drawn as well.
    #[inline(always)]
    fn held_back(&self) -> u32 {
        u32::from(self.held_back.get()).min(HELD_BACK)
    }

    /// Slots that must be at hand for one to be drawn.
    pub(crate) fn least(&self) -> u32 {
        self.delay() + self.held_back() + 1
    }

    /// A place of the stash.
    #[inline(always)]
    fn place(&self, place: u32) -> &Cell<u32> {
        debug_assert!((place as usize) < STASH_LEN, "a place of the stash");
        // SAFETY: below `PAD + MOST`, since callers start from `fill`, which is `MOST` at most (1), or less; and from less
        // than `PAD` below that (3).
        unsafe { self.stash.get_unchecked(place as usize) }
    }

    /// Takes the slot that was freed last, for want of others.
    pub(crate) fn draw_last(&self) -> Option<u32> {
        let fill = self.fill.get().checked_sub(1)?;
        self.fill.set(fill);
        Some(self.place(PAD + fill).get())
    }

    /// Puts a slot that was freed on top. Tells whether there was room.
    #[inline(always)]
    #[must_use]
    pub(crate) fn push(&self, granule: u32) -> bool {
        let fill = self.fill.get();
        if fill == self.full.get() {
            return false;
        }
        self.place(PAD + fill).set(granule);
        self.fill.set(fill + 1);
        true
    }

    /// Makes room for `n` slots below all others, which the caller fills in by [`set`](Self::set) at once. Tells whether
    /// there is.
    #[must_use]
    pub(crate) fn raise(&self, n: u32) -> bool {
        let fill = self.fill.get();
        if n > self.full.get() - fill {
            return false;
        }
        for at in (PAD..PAD + fill).rev() {
            self.place(at + n).set(self.place(at).get());
        }
        self.fill.set(fill + n);
        true
    }

    /// Fills in the slot that has `below` others below it.
    pub(crate) fn set(&self, below: u32, slot: u32) {
        debug_assert!(below < self.fill.get(), "a place that is filled");
        self.place(PAD + below.min(MOST - 1)).set(slot);
    }

    /// Whether the stash has no room.
    pub(crate) fn is_full(&self) -> bool {
        self.fill.get() == self.full.get()
    }

    /// Slots in the stash.
    pub(crate) fn len(&self) -> u32 {
        self.fill.get()
    }

    /// Hands out the `n` slots at the bottom and keeps the others.
    pub(crate) fn spill(&self, n: u32, mut give: impl FnMut(u32)) {
        let fill = self.fill.get();
        let n = n.min(fill);
        for at in PAD..PAD + n {
            give(self.place(at).get());
        }
        for at in PAD + n..PAD + fill {
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

    /// Brings the slots into a random order, if they are drawn by lot, but for those that were freed last.
    pub(crate) fn shuffle(&self, rng: &Cell<Rng>) {
        if self.order() == Order::Runs {
            return;
        }
        let mut random = rng.get();
        for i in 1..self.fill.get().saturating_sub(self.delay()) {
            let j = random.below(i + 1);
            self.place(PAD + i).swap(self.place(PAD + j));
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
        for at in PAD..PAD + self.fill.get() {
            see(self.place(at).get());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::class::CLASSES;
    use crate::heap::thread::ThreadHeap;
    use std::collections::BTreeSet;

    /// The bins of a heap, that of one class with the numbers from 1 to `n` at hand, of which 1 comes first.
    fn bin(class: usize, order: Order, n: u32) -> Box<ThreadHeap> {
        // SAFETY: valid when all its bytes are zero.
        let heap: Box<ThreadHeap> = unsafe { Box::new_zeroed().assume_init() };
        heap.set_up_bins(order);
        heap.rng.set(Rng::new(3));
        let bin = heap.bin(class);
        assert!(bin.raise(n));
        (0..n).for_each(|below| bin.set(below, n - below));
        heap
    }

    /// Draws and frees at random, and hands each draw to `expect` with what was at hand before, oldest first; a draw
    /// that came to nothing as well.
    fn draw_and_free(class: usize, order: Order, n: u32, mut expect: impl FnMut(&mut Vec<u32>, Option<u32>)) {
        let heap = bin(class, order, n);
        let bin = heap.bin(class);
        let mut model: Vec<u32> = (1..=n).rev().collect();
        let mut rng = Rng::new(5);
        let mut in_use = Vec::new();
        for _ in 0..20_000 {
            if rng.below(2) == 0 && !in_use.is_empty() {
                let slot = in_use.swap_remove(rng.below(in_use.len() as u32) as usize);
                assert!(bin.push(slot));
                model.push(slot);
            } else {
                let drawn =
                    if rng.below(2) == 0 { bin.draw(&heap.rng, order) } else { bin.draw_any(&heap.rng) };
                expect(&mut model, drawn);
                in_use.extend(drawn);
            }
            let mut seen = Vec::new();
            bin.visit(|slot| seen.push(slot));
            assert_eq!(seen, model);
        }
    }

    #[test]
    fn the_slot_freed_last_comes_back_but_for_the_newest() {
        let mut nr_refused = 0;
        draw_and_free(0, Order::Runs, 40, |model, drawn| {
            match model.len().checked_sub(1 + DELAY_RUNS as usize) {
                Some(at) => assert_eq!(Some(model.remove(at)), drawn),
                None => nr_refused += usize::from(drawn.is_none()),
            }
        });
        assert!(nr_refused > 0);
    }

    #[test]
    fn by_lot_one_of_sixteen_comes_back_and_none_of_the_newest() {
        let mut places = [0; 16];
        draw_and_free(0, Order::Lot, 60, |model, drawn| {
            let Some(top) = model.len().checked_sub(17).filter(|&top| top >= 15) else {
                return assert_eq!(drawn, None);
            };
            let drawn = drawn.expect("a slot");
            let place =
                (0..16).find(|below| model[top - below] == drawn).expect("one of those below the newest");
            places[place] += 1;
            model.swap(top, top - place);
            model.remove(top);
        });
        assert!(places.iter().all(|&n| n > 100), "{places:?}");
    }

    #[test]
    fn of_large_slots_the_last_comes_back() {
        let class = CLASSES.iter().position(|class| class.held_back == 0).expect("large slots");
        let heap = bin(class, Order::Lot, 3);
        let bin = heap.bin(class);
        assert!(bin.push(9));
        let drawn: Vec<_> = (0..5).map(|_| bin.draw_any(&heap.rng)).collect();
        assert_eq!(drawn, [Some(9), Some(1), Some(2), Some(3), None]);
    }

    #[test]
    fn slots_are_put_below_those_at_hand() {
        let heap = bin(0, Order::Runs, 3);
        let bin = heap.bin(0);
        assert!(bin.raise(2));
        bin.set(1, 4);
        bin.set(0, 5);
        let mut seen = Vec::new();
        bin.visit(|slot| seen.push(slot));
        assert_eq!(seen, [5, 4, 3, 2, 1]);
        assert!(!bin.raise(2 * STASH_MAX), "more than there is room for");
        let mut spilt = Vec::new();
        bin.spill(2, |slot| spilt.push(slot));
        assert_eq!((spilt, bin.len()), (vec![5, 4], 3));
    }

    #[test]
    fn nothing_is_at_hand_before_it_is_set_up() {
        // SAFETY: valid when all its bytes are zero.
        let heap: Box<ThreadHeap> = unsafe { Box::new_zeroed().assume_init() };
        let bin = heap.bin(0);
        let drawn = [Order::Runs, Order::Lot].map(|order| bin.draw(&heap.rng, order));
        assert_eq!((drawn, bin.draw_any(&heap.rng), bin.draw_last()), ([None; 2], None, None));
        assert!(bin.is_full() && !bin.push(1) && !bin.raise(1));
    }

    #[test]
    fn no_slot_is_lost_or_doubled() {
        for (order, class) in [(Order::Lot, 0), (Order::Lot, 20), (Order::Runs, 19), (Order::Runs, 36)] {
            let shape = CLASSES[class];
            let heap = bin(class, order, shape.stash_len);
            let bin = heap.bin(class);
            let mut free: BTreeSet<u32> = (1..=bin.len()).collect();
            let mut in_use: Vec<u32> = Vec::new();
            let mut rng = Rng::new(9);
            let mut nr_spilt = 0;
            for round in 0..20_000 {
                match rng.below(9) {
                    0..=3 => {
                        let drawn = bin.draw_any(&heap.rng);
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
                                nr_spilt += 1;
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
                    _ if round % 7 == 0 && in_use.len() > 2 && bin.raise(2) => {
                        for below in 0..2 {
                            let slot = in_use.pop().unwrap();
                            bin.set(below, slot);
                            assert!(free.insert(slot));
                        }
                        bin.shuffle(&heap.rng);
                    }
                    _ => {}
                }
                let mut seen = BTreeSet::new();
                bin.visit(|slot| assert!(seen.insert(slot), "{order:?} {class}: {slot} twice"));
                assert_eq!(seen, free, "{order:?} {class}");
            }
            assert!(nr_spilt > 0 || !bin.is_full(), "{order:?} {class}");
            bin.empty(|slot| assert!(free.remove(&slot)));
            assert!(free.is_empty() && bin.len() == 0);
        }
    }
}
