//! The consistency walker: checks every record of a heap against every other. For tests and fuzzers, which
//! run it after each operation; nobody else may use the heap meanwhile.

// UNSAFETY: reads every slot of a heap by address.
#![expect(unsafe_code, reason = "reads free slots to see that they are zero")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    reason = "test support: a number gone wrong is what it looks for, and a panic is its answer"
)]

use std::collections::BTreeMap;

use core::sync::atomic::Ordering;

use super::canary::canary;
use super::class::{CANARY_BYTES, CLASSES};
use super::geometry::{GRANULE_BYTES, SLOT_WORDS, UNIT_GRANULES};
use super::shadow;
use super::shared::Shared;
use super::tables::{Granule, Unit};
use super::thread::{Keeper, ThreadHeap};
use crate::wipe;

/// What the walk found in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Walked {
    pub(crate) live_blocks: usize,
    pub(crate) slabs: usize,
    pub(crate) empty_slabs: usize,
}

impl Shared {
    /// Panics if any record contradicts another. `heaps` are all thread heaps that hold anything at hand.
    pub(crate) fn walk(&self, heaps: &[&ThreadHeap]) -> Walked {
        let mut at_hand = BTreeMap::new();
        for heap in heaps {
            for (class, _) in CLASSES.iter().enumerate() {
                heap.bin(class).visit(|number| {
                    assert_eq!(
                        at_hand.insert(number, (heap.id.get(), class)),
                        None,
                        "slot {number} twice at hand"
                    );
                });
            }
        }
        let mut walked = Walked::default();
        for number in 1..self.units.watermark() {
            let unit = self.unit(number).expect("metadata of a unit below the watermark");
            self.walk_unit(unit, &mut at_hand, &mut walked);
        }
        assert!(at_hand.is_empty(), "slots at hand that no slab has: {at_hand:?}");
        for heap in heaps {
            self.walk_lists(heap);
        }
        walked
    }

    fn walk_unit(&self, unit: Unit, at_hand: &mut BTreeMap<u32, (u32, usize)>, walked: &mut Walked) {
        let header = self.tables.header(unit);
        let owner_class = header.owner_class.load(Ordering::Relaxed);
        let free = self.tables.free_bits(unit);
        if owner_class == 0 {
            assert!(
                free.iter().all(|word| word.load(Ordering::Relaxed) == 0),
                "free bits in a unit of the pool"
            );
            return;
        }
        walked.slabs += 1;
        let class = (owner_class & 0xff) as usize;
        let shape = &CLASSES[class];
        let is_bit_set = |granule: Granule| {
            let (word, mask) = granule.bit();
            free[word].load(Ordering::Relaxed) & mask != 0
        };
        let first = shape.first_bytes_in(unit.number());
        let mut bits = 0;
        for i in 0..shape.nr_slots {
            let granule = unit.granule((first + i * shape.slot_bytes) as usize);
            let state = self.tables.shadow(granule).load(Ordering::Relaxed);
            let held = at_hand.remove(&granule.number());
            if let Some((owner, of_class)) = held {
                assert_eq!(of_class, class, "a slot in the wrong bin");
                let is_common = self.home_of(granule).is_some_and(|place| place.keeper == Keeper::Freer);
                assert!(owner == owner_class >> 8 || is_common, "a slot at hand in the wrong thread");
            }
            let is_free = is_bit_set(granule) || held.is_some();
            assert!(!(is_bit_set(granule) && held.is_some()), "a slot free and at hand");
            bits += u32::from(is_bit_set(granule));
            self.walk_slot(granule, shape.slot_bytes as usize, state, is_free);
            walked.live_blocks += usize::from(shadow::is_live(state));
        }
        let set: u32 =
            free.iter().take(SLOT_WORDS).map(|word| word.load(Ordering::Relaxed).count_ones()).sum();
        assert_eq!(set, bits, "a free bit where no slot starts");
        assert_eq!(header.nr_free.load(Ordering::Relaxed), bits, "the count of free slots");
        assert_eq!(
            header.listed.load(Ordering::Relaxed) != 0,
            bits != 0,
            "listed if and only if it has free slots"
        );
        walked.empty_slabs += usize::from(bits == shape.nr_slots);
        for i in 0..UNIT_GRANULES {
            let granule = unit.granule(i * GRANULE_BYTES);
            let at = (i * GRANULE_BYTES) as u32;
            let starts_slot = at >= first
                && (at - first).is_multiple_of(shape.slot_bytes)
                && (at - first) / shape.slot_bytes < shape.nr_slots;
            let state = self.tables.shadow(granule).load(Ordering::Relaxed);
            assert!(starts_slot || !shadow::is_live(state), "a live state inside a slot");
        }
    }

    fn walk_slot(&self, granule: Granule, slot_bytes: usize, state: u8, is_free: bool) {
        // SAFETY: a granule lies in the memory range.
        let ptr = unsafe { self.memory.base().add(granule.offset()) };
        if shadow::is_live(state) {
            assert!(!is_free, "a live slot among the free ones");
            // SAFETY: the last eight bytes of a slot of a slab.
            let last = unsafe { ptr.as_ptr().wrapping_add(slot_bytes - CANARY_BYTES).cast::<u64>().read() };
            assert_eq!(last, canary(self.key, granule.number()), "the canary of a live block");
        } else {
            assert!(
                is_free || state == shadow::REMOTE,
                "a slot that is neither live, free nor on its way home"
            );
            assert!(matches!(state, shadow::NEVER | shadow::FREED | shadow::REMOTE), "state {state:#x}");
            if state == shadow::NEVER {
                // Perhaps never touched: it should stay so.
                return;
            }
            // SAFETY: a slot of a slab, which nobody uses while the walker runs.
            assert!(unsafe { wipe::is_zero(ptr, slot_bytes) }, "a free slot that is not all zero");
        }
    }

    fn walk_lists(&self, heap: &ThreadHeap) {
        for (class, first) in heap.partial.iter().enumerate() {
            let (mut prev, mut next) = (0, first.get());
            while next != 0 {
                let unit = self.unit(next).expect("a listed unit");
                let header = self.tables.header(unit);
                assert_eq!(header.prev.load(Ordering::Relaxed), prev, "the list runs both ways");
                assert_eq!(header.owner_class.load(Ordering::Relaxed), heap.id.get() << 8 | class as u32);
                (prev, next) = (next, header.next.load(Ordering::Relaxed));
            }
        }
    }
}
