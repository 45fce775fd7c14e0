//! Size classes: which slot a request gets. Pure arithmetic, all of it computed at compile time.
//!
//! A slot holds the block, its slack and a canary in its last eight bytes, so a slot of `n` bytes serves
//! requests of up to `n - 8`. Sizes go up in steps of an eighth to a quarter and sit 16 bytes above the
//! powers of two, because requests of exactly a power of two are the commonest of all.
//!
//! Slots whose size is a multiple of 32 or 64 bytes start on such a multiple, so that they lie in as few cache lines as
//! they can. Those of 128 bytes would then all begin in an even line, so that a program which goes through the
//! beginnings of its blocks has half of the caches for them: in half of the slabs they begin in an odd one
//! ([`Class::first_bytes_in`]).

#![cfg_attr(
    not(test),
    expect(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        clippy::as_conversions,
        reason = "evaluated at compile time, or on values bounded by the tables checked there"
    )
)]

use super::geometry::{GRANULE_BYTES, PAYLOAD_BYTES};
use super::shadow;

/// Bytes of canary behind every block.
pub(crate) const CANARY_BYTES: usize = 8;

/// How the slots of one class lie in a slab.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Class {
    /// Bytes of a slot, canary included: a multiple of 16.
    pub(crate) slot_bytes: u32,
    /// Offset of the first slot in its slab: at least 16, so that eight bytes before any block can be read.
    first_bytes: u32,
    /// What half of the slabs add to it.
    shift_bytes: u32,
    /// Slots in a slab.
    pub(crate) nr_slots: u32,
    /// Free slots that a thread takes to hand at a time, twice; it keeps twice as many, beside those that it must have.
    pub(crate) stash_len: u32,
    /// A power of two less one: which of as many free slots and one more comes next is drawn by lot in heaps of secrets
    /// (`bin::Order`), and as many and one more that were freed last are not drawn from.
    pub(crate) held_back: u32,
}

impl Class {
    /// The largest block.
    #[inline(always)]
    pub(crate) const fn usable_bytes(&self) -> usize {
        self.slot_bytes as usize - CANARY_BYTES
    }

    /// Offset of the first slot in the slab of this number: at least 16.
    pub(crate) const fn first_bytes_in(&self, unit: u32) -> u32 {
        // By the number's bits, since a class may come to have every other unit.
        self.first_bytes + self.shift_bytes * (unit.count_ones() & 1)
    }
}

/// Classes for alignments up to 16.
const NR_PLAIN: usize = 37;
/// Classes whose slots are aligned to their own size.
const NR_ALIGNED: usize = 8;
/// Bytes of a cache line.
const LINE_BYTES: u32 = 64;
/// All classes.
pub(crate) const NR_CLASSES: usize = NR_PLAIN + NR_ALIGNED;
/// The largest `stash_len`.
pub(crate) const STASH_MAX: u32 = 48;
/// [`Class::held_back`] of every class up to [`MID_MAX_BYTES`].
pub(crate) const HELD_BACK: u32 = 15;
/// Blocks up to this size take the shortest ways: slots of 32, 48 and 64 bytes.
pub(crate) const SMALL_MAX_BYTES: usize = 56;
/// Classes of these: the first ones.
pub(crate) const NR_SMALL: usize = 3;
/// Blocks up to this size, that are not small, take the next shortest ways: slots of 80 to 144 bytes.
pub(crate) const SHORT_MAX_BYTES: usize = 136;
/// Classes of these, the small ones included: the first ones.
pub(crate) const NR_SHORT: usize = 8;
/// Blocks up to this size find their class by a table in the thread heap. Their slots are checked at every use,
/// since a check costs less than asking whether the slot was used before; they are checked and wiped without a call,
/// and their slack fits into the state of a block (`shadow::tight`).
pub(crate) const MID_MAX_BYTES: usize = 1032;
/// Classes of these, the small ones included: the first ones.
pub(crate) const NR_MID: usize = 20;

const PLAIN_SLOTS: [u32; NR_PLAIN] = [
    32, 48, 64, 80, 96, 112, 128, 144, 176, 208, 240, 272, 336, 400, 464, 528, 656, 784, 912, 1040, 1296,
    1552, 1808, 2064, 2576, 3088, 3600, 4112, 5104, 6128, 7664, 8768, 10224, 12272, 15344, 20448, 30688,
];
const ALIGNED_SLOTS: [u32; NR_ALIGNED] = [64, 128, 256, 512, 1024, 2048, 4096, 8192];

/// Largest block that lives in a slab, for alignments up to 16.
pub(crate) const SLAB_MAX_BYTES: usize = PLAIN_SLOTS[NR_PLAIN - 1] as usize - CANARY_BYTES;
/// Alignment that every block has.
pub(crate) const PLAIN_ALIGN: usize = GRANULE_BYTES;

/// The shapes. A constant and no static, so that other crates' compilations see through it.
pub(crate) const CLASSES: &[Class; NR_CLASSES] = &classes();

const fn classes() -> [Class; NR_CLASSES] {
    let mut all = [plain_class(32); NR_CLASSES];
    let mut i = 0;
    while i < NR_PLAIN {
        all[i] = plain_class(PLAIN_SLOTS[i]);
        i += 1;
    }
    while i < NR_CLASSES {
        let slot = ALIGNED_SLOTS[i - NR_PLAIN];
        all[i] = class(slot, slot, 0);
        i += 1;
    }
    all
}

const fn plain_class(slot_bytes: u32) -> Class {
    let power = slot_bytes & slot_bytes.wrapping_neg();
    let first_bytes = if power < LINE_BYTES { power } else { LINE_BYTES };
    class(slot_bytes, first_bytes, if power > LINE_BYTES { LINE_BYTES } else { 0 })
}

const fn class(slot_bytes: u32, first_bytes: u32, shift_bytes: u32) -> Class {
    let nr_slots = (PAYLOAD_BYTES as u32 - first_bytes - shift_bytes) / slot_bytes;
    let by_bytes = 16_384 / slot_bytes;
    let stash_len = if by_bytes > STASH_MAX {
        STASH_MAX
    } else if by_bytes < 4 {
        4
    } else {
        by_bytes
    };
    let held_back = if slot_bytes as usize <= MID_MAX_BYTES + CANARY_BYTES {
        HELD_BACK
    } else if slot_bytes <= 4112 {
        3
    } else {
        0
    };
    Class { slot_bytes, first_bytes, shift_bytes, nr_slots, stash_len, held_back }
}

/// One entry for each multiple of 16 that a slot may need.
const LOOKUP_LEN: usize = PLAIN_SLOTS[NR_PLAIN - 1] as usize / GRANULE_BYTES + 1;
const LOOKUP: &[u8; LOOKUP_LEN] = &lookup();

const fn lookup() -> [u8; LOOKUP_LEN] {
    let mut table = [0; LOOKUP_LEN];
    let mut i = 0;
    let mut class = 0;
    while i < LOOKUP_LEN {
        if i * GRANULE_BYTES > PLAIN_SLOTS[class] as usize {
            class += 1;
        }
        table[i] = class as u8;
        i += 1;
    }
    table
}

/// Entries of the table for sizes up to [`MID_MAX_BYTES`].
pub(crate) const NR_STEPS: usize = step(MID_MAX_BYTES) + 1;

/// The place of a size in a table of classes.
#[inline(always)]
pub(crate) const fn step(size: usize) -> usize {
    (size + CANARY_BYTES).div_ceil(GRANULE_BYTES)
}

/// The class for `size` bytes aligned to 16 or less, or `None` if it is too large for a slab.
#[inline(always)]
pub(crate) fn plain(size: usize) -> Option<usize> {
    if size > SLAB_MAX_BYTES {
        return None;
    }
    Some(LOOKUP[step(size)] as usize)
}

/// The class for `size` bytes aligned to `align`, or `None` if no slab can hold that.
#[inline(always)]
pub(crate) fn of(size: usize, align: usize) -> Option<usize> {
    if align <= PLAIN_ALIGN { plain(size) } else { aligned(size, align) }
}

#[cold]
fn aligned(size: usize, align: usize) -> Option<usize> {
    let need = size.checked_add(CANARY_BYTES)?.max(align);
    let position = ALIGNED_SLOTS.iter().position(|&slot| slot as usize >= need)?;
    Some(NR_PLAIN + position)
}

const _: () = {
    // The first of the aligned classes has slots of 64 bytes too, and is none of the small ones.
    let mut i = 0;
    while i < NR_PLAIN {
        assert!((CLASSES[i].usable_bytes() <= SMALL_MAX_BYTES) == (i < NR_SMALL));
        assert!((CLASSES[i].usable_bytes() <= SHORT_MAX_BYTES) == (i < NR_SHORT));
        assert!((CLASSES[i].usable_bytes() <= MID_MAX_BYTES) == (i < NR_MID));
        let step = if i == 0 { 0 } else { CLASSES[i].slot_bytes - CLASSES[i - 1].slot_bytes };
        assert!(i >= NR_MID || step as usize <= shadow::LONGEST_SHORT + 1);
        i += 1;
    }
    let mut i = 0;
    while i < NR_CLASSES {
        let class = CLASSES[i];
        assert!(class.slot_bytes.is_multiple_of(GRANULE_BYTES as u32));
        assert!(class.first_bytes >= GRANULE_BYTES as u32 && class.first_bytes.is_multiple_of(16));
        assert!(class.nr_slots >= 1);
        let end = class.first_bytes + class.shift_bytes + class.nr_slots * class.slot_bytes;
        assert!(end as usize <= PAYLOAD_BYTES && class.shift_bytes.is_multiple_of(16));
        assert!(class.stash_len <= STASH_MAX && class.stash_len >= 2);
        assert!((class.held_back + 1).is_power_of_two() && class.held_back <= HELD_BACK);
        assert!(class.slot_bytes as usize > MID_MAX_BYTES + CANARY_BYTES || class.held_back == HELD_BACK);
        i += 1;
    }
    assert!(NR_CLASSES < 256);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_gets_the_smallest_slot_that_holds_it() {
        for size in 0..=SLAB_MAX_BYTES {
            let class = plain(size).unwrap();
            let slot = CLASSES[class].slot_bytes as usize;
            assert!(slot >= size + CANARY_BYTES, "size {size}");
            assert!(class == 0 || (PLAIN_SLOTS[class - 1] as usize) < size + CANARY_BYTES, "size {size}");
        }
        assert_eq!(plain(SLAB_MAX_BYTES + 1), None);
        assert_eq!(plain(usize::MAX), None);
    }

    #[test]
    fn slots_lie_in_as_few_lines_as_they_can() {
        for class in &CLASSES[..NR_PLAIN] {
            for unit in 1..9 {
                let mut lines = 0;
                for i in 0..class.nr_slots {
                    let start = class.first_bytes_in(unit) + i * class.slot_bytes;
                    lines += (start + class.slot_bytes).div_ceil(64) - start / 64;
                }
                // The best of all places for the first slot.
                let best = (0..4).map(|granule| {
                    let start = |i| granule * 16 + i * class.slot_bytes;
                    (0..class.nr_slots).map(|i| start(i + 1).div_ceil(64) - start(i) / 64).sum::<u32>()
                });
                // Of slots with an odd number of granules each place is as good, but for the last few.
                assert!(lines <= best.min().unwrap() + 3, "slots of {} bytes: {lines}", class.slot_bytes);
            }
        }
    }

    #[test]
    fn slots_of_two_lines_begin_in_every_line() {
        let class = CLASSES[plain(120).unwrap()];
        assert_eq!(class.slot_bytes, 128);
        // All units, and every other of them.
        for step in [1, 2, 4, 7] {
            let odd = (0..1000).filter(|n| class.first_bytes_in(n * step) / 64 % 2 == 1).count();
            assert!((400..=600).contains(&odd), "{odd} of 1,000 by steps of {step}");
        }
    }

    #[test]
    fn aligned_slots_hold_size_and_alignment() {
        for shift in 5..=13 {
            let align = 1_usize << shift;
            for size in [0, 1, align / 2, align - 8, align, align * 2, 8184, 8185, usize::MAX] {
                match of(size, align) {
                    Some(class) => {
                        let class = CLASSES[class];
                        assert!(class.slot_bytes as usize >= size + CANARY_BYTES);
                        assert!((class.slot_bytes as usize).is_multiple_of(align));
                        assert!((class.first_bytes_in(size as u32) as usize).is_multiple_of(align));
                    }
                    None => assert!(size.checked_add(CANARY_BYTES).is_none_or(|n| n.max(align) > 8192)),
                }
            }
        }
    }
}
