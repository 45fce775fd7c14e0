//! Where a large block lies in its run, and how long runs are. Pure arithmetic.

#![cfg_attr(
    not(test),
    expect(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        reason = "offsets in a range of at most 2^38 bytes, checked where they come from sizes"
    )
)]

use core::alloc::Layout;

use crate::heap::geometry::{GRANULE_BYTES, GUARD_BYTES, UNIT_BYTES};

/// Lengths of runs: every number of units up to eight, then four for each doubling, up to 2^22 units.
pub(super) const NR_RUNS: usize = 8 + 4 * 19;

/// Where a block lies: offsets in the large zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) block: usize,
    pub(super) size: usize,
    pub(super) data_start: usize,
    pub(super) data_end: usize,
}

impl Place {
    /// The place of a block in the run of `run_bytes` at `run_offset`, in a zone at `zone_address`. Its end lies
    /// against the guard that ends the run, as far as the alignment allows; aligned to more than a page, it
    /// starts at the first such place instead.
    pub(super) fn new(
        run_offset: usize,
        run_bytes: usize,
        zone_address: usize,
        layout: Layout,
    ) -> Option<Self> {
        let size = layout.size().max(1);
        let align = layout.align().max(GRANULE_BYTES);
        if align <= GUARD_BYTES {
            let padded = size.checked_next_multiple_of(align)?;
            let data_end = run_offset.checked_add(run_bytes)?.checked_sub(GUARD_BYTES)?;
            let block = data_end.checked_sub(padded)?;
            return Some(Self {
                block,
                size: layout.size(),
                data_start: block - block % GUARD_BYTES,
                data_end,
            });
        }
        let address = zone_address.checked_add(run_offset)?.checked_next_multiple_of(align)?;
        let block = address - zone_address;
        let data_end = block.checked_add(size)?.checked_next_multiple_of(GUARD_BYTES)?;
        Some(Self { block, size: layout.size(), data_start: block, data_end })
    }

    /// The place of a block in use, from what its entry says.
    pub(super) fn of(block: usize, size: usize) -> Self {
        let data_end = (block + size.max(1)).next_multiple_of(GUARD_BYTES);
        Self { block, size, data_start: block - block % GUARD_BYTES, data_end }
    }

    pub(super) fn data_bytes(self) -> usize {
        self.data_end - self.data_start
    }

    pub(super) fn slack(self) -> usize {
        self.data_end - self.block - self.size
    }
}

/// Units that a run must have for a block of this layout, guard included. `None` if that is absurd.
pub(super) fn units_for(layout: Layout) -> Option<usize> {
    let size = layout.size().max(1).checked_next_multiple_of(GUARD_BYTES)?;
    let extra = if layout.align() > GUARD_BYTES { layout.align() } else { 0 };
    Some(size.checked_add(extra)?.checked_add(GUARD_BYTES)?.div_ceil(UNIT_BYTES))
}

/// The smallest class of runs with `units` units, and its exact length.
pub(super) fn run_class(units: usize) -> Option<(usize, usize)> {
    if units <= 8 {
        return Some((units.max(1) - 1, units.max(1)));
    }
    let shift = (units - 1).ilog2() - 2;
    let quarters = units.div_ceil(1 << shift);
    let class = 8 + (shift as usize - 1) * 4 + (quarters - 5);
    if class < NR_RUNS { Some((class, quarters << shift)) } else { None }
}

/// The length of the runs of a class.
pub(super) fn run_units(class: usize) -> Option<usize> {
    if class >= NR_RUNS {
        return None;
    }
    let Some(above) = class.checked_sub(8) else { return Some(class + 1) };
    Some((5 + above % 4) << (above / 4 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn run_classes_grow_without_gaps() {
        let mut last = (0, 1);
        for units in 1..300_000 {
            let (class, length) = run_class(units).unwrap();
            assert!(length >= units && length <= units + units / 4);
            assert!(class == last.0 && length == last.1 || class == last.0 + 1 && length > last.1, "{units}");
            assert_eq!(run_class(length), Some((class, length)));
            assert_eq!(run_units(class), Some(length));
            last = (class, length);
        }
        assert_eq!(run_class(1 << 22).map(|run| run.1), Some(1 << 22));
        assert_eq!(run_class((1 << 22) + 1), None);
    }

    proptest! {
        #[test]
        fn a_block_lies_in_its_run_and_ends_at_a_guard(size in 0_usize..(1 << 24), shift in 0_u32..=30, unit in 0_usize..1000) {
            let layout = Layout::from_size_align(size, 1 << shift).unwrap();
            let run_offset = unit * UNIT_BYTES;
            let zone = 0x7000_0000_0000 + UNIT_BYTES * 3;
            let run_bytes = run_class(units_for(layout).unwrap()).unwrap().1 * UNIT_BYTES;
            let place = Place::new(run_offset, run_bytes, zone, layout).unwrap();
            prop_assert_eq!((zone + place.block) % layout.align(), 0);
            prop_assert!(place.data_start >= run_offset && place.data_start <= place.block);
            prop_assert!(place.block + size <= place.data_end);
            prop_assert!(place.data_end + GUARD_BYTES <= run_offset + run_bytes);
            prop_assert_eq!(Place::of(place.block, size), place);
            if layout.align() <= GRANULE_BYTES { prop_assert!(place.slack() < GRANULE_BYTES.max(2 * usize::from(size == 0) * 8)); }
        }
    }
}
