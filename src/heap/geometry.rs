//! Where everything lies: pure arithmetic over the two ranges of a heap.
//!
//! ```text
//! memory   | slab zone: units of 64 KiB                 | large zone: runs of 64 KiB units |
//!          | (unused) | slots ... |G| slots ... |G| ...  | ......[data|G ......[data|G ...   |
//!
//! metadata | shared | homes  | shadow | headers | free bits | remote bits | large table | thread heaps |
//!            1 page   8 B      1/16     64 B      512 B       512 B         64 B          128 KiB each
//!                     a unit   a byte   a unit    a unit      a unit        a unit
//!                              a granule
//! ```
//! `G` is a guard page. The homes end where the shadow begins, that of unit 0 last: so one pointer serves both. Unit 0 is never used, so granule 0 and unit 0 can stand for "none".

#![cfg_attr(
    not(test),
    expect(
        clippy::arithmetic_side_effects,
        reason = "sizes are bounded by `Geometry::new`, which refuses ranges over 2^48 bytes"
    )
)]

use crate::os::HUGE_PAGE_BYTES;

/// Bytes that one shadow byte and one bitmap bit stand for; every block starts on a multiple of it.
pub(crate) const GRANULE_BYTES: usize = 16;
/// Bytes of a unit, the guard page included.
pub(crate) const UNIT_BYTES: usize = 1 << 16;
/// Granules of a unit.
pub(crate) const UNIT_GRANULES: usize = UNIT_BYTES / GRANULE_BYTES;
/// Bytes of the guard at the end of each unit.
pub(crate) const GUARD_BYTES: usize = 4096;
/// Bytes of a unit that hold slots.
pub(crate) const PAYLOAD_BYTES: usize = UNIT_BYTES - GUARD_BYTES;
/// Bits of a bitmap of one unit: 64 words, of which the last four have no slots.
pub(crate) const BITMAP_WORDS: usize = UNIT_GRANULES / 64;
/// Words of a bitmap that can have slots.
pub(crate) const SLOT_WORDS: usize = PAYLOAD_BYTES / GRANULE_BYTES / 64;
/// Bytes of a unit's home.
pub(crate) const HOME_BYTES: usize = 8;
/// Bytes of a unit's header.
pub(crate) const HEADER_BYTES: usize = 64;
/// Bytes of a large block's entry.
pub(crate) const LARGE_ENTRY_BYTES: usize = 64;
/// Bytes of a thread heap.
pub(crate) const THREAD_HEAP_BYTES: usize = 1 << 17;
/// Units whose metadata is committed in one step.
pub(crate) const STEP_UNITS: usize = 64;
/// Steps whose shadow, a byte for each granule, fills a huge page.
pub(crate) const HUGE_STEPS: usize = HUGE_PAGE_BYTES / (STEP_UNITS * UNIT_GRANULES);

/// What to lay out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Constraints {
    /// Bytes of the whole memory range: a multiple of 1 MiB.
    pub(crate) memory_bytes: usize,
    /// Places for thread heaps.
    pub(crate) max_threads: usize,
}

/// The layout: offsets into the two ranges, all multiples of 64 KiB. The metadata range starts at a multiple of a
/// huge page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Bytes of the slab zone, which starts at offset 0 of the memory range.
    pub(crate) slab_bytes: usize,
    /// Bytes of the large zone, which follows it.
    pub(crate) large_bytes: usize,
    /// Offsets into the metadata range.
    /// The homes end where the shadow begins.
    pub(crate) homes_offset: usize,
    pub(crate) shadow_offset: usize,
    pub(crate) headers_offset: usize,
    pub(crate) free_bits_offset: usize,
    pub(crate) remote_bits_offset: usize,
    pub(crate) large_table_offset: usize,
    pub(crate) threads_offset: usize,
    /// Bytes of the metadata range.
    pub(crate) metadata_bytes: usize,
    /// Places for thread heaps.
    pub(crate) max_threads: usize,
}

impl Geometry {
    /// A quarter of the memory for slabs, the rest for large blocks. `None` if the range is smaller than
    /// 1 MiB, not a multiple of 1 MiB, or over 2^38 bytes (a granule is numbered by 32 bits).
    pub(crate) fn new(constraints: Constraints) -> Option<Self> {
        const MIB: usize = 1 << 20;
        let Constraints { memory_bytes, max_threads } = constraints;
        if memory_bytes < MIB || !memory_bytes.is_multiple_of(MIB) || memory_bytes > 1 << 38 {
            return None;
        }
        if max_threads == 0 || max_threads >= 1 << 24 {
            return None;
        }
        // A whole number of steps of units, so that metadata is committed in whole pages.
        let step_bytes = STEP_UNITS * UNIT_BYTES;
        let slab_bytes = (memory_bytes / 4).next_multiple_of(step_bytes).min(memory_bytes);
        let large_bytes = memory_bytes - slab_bytes;
        let nr_units = slab_bytes / UNIT_BYTES;
        let nr_large = large_bytes / UNIT_BYTES;
        // A unit of no access between tables: an index gone wrong faults instead of reading a neighbour.
        let after = |offset: usize, bytes: usize| (offset + bytes).next_multiple_of(UNIT_BYTES) + UNIT_BYTES;
        // No gap between these two: an index gone wrong meets the entries of the first units.
        let homes_offset = after(0, UNIT_BYTES);
        // Where it is long enough, it starts at the start of a huge page.
        let shadow_align = if slab_bytes >= HUGE_STEPS * step_bytes { HUGE_PAGE_BYTES } else { UNIT_BYTES };
        let shadow_offset = (homes_offset + nr_units * HOME_BYTES).next_multiple_of(shadow_align);
        let headers_offset = after(shadow_offset, slab_bytes / GRANULE_BYTES);
        let free_bits_offset = after(headers_offset, nr_units * HEADER_BYTES);
        let remote_bits_offset = after(free_bits_offset, nr_units * BITMAP_WORDS * 8);
        let large_table_offset = after(remote_bits_offset, nr_units * BITMAP_WORDS * 8);
        let threads_offset = after(large_table_offset, nr_large * LARGE_ENTRY_BYTES);
        let metadata_bytes = after(threads_offset, max_threads * THREAD_HEAP_BYTES);
        Some(Self {
            slab_bytes,
            large_bytes,
            homes_offset,
            shadow_offset,
            headers_offset,
            free_bits_offset,
            remote_bits_offset,
            large_table_offset,
            threads_offset,
            metadata_bytes,
            max_threads,
        })
    }

    /// Units of the slab zone.
    pub(crate) const fn nr_units(&self) -> usize {
        self.slab_bytes / UNIT_BYTES
    }

    /// Units of the large zone.
    pub(crate) const fn nr_large_units(&self) -> usize {
        self.large_bytes / UNIT_BYTES
    }
}

/// Panics unless the layout is one that the constraints allow. For tests and fuzzing.
#[cfg(any(test, feature = "fault-injection"))]
#[allow(clippy::indexing_slicing, reason = "a test may panic")]
pub(crate) fn assert_invariants(constraints: Constraints, geometry: &Geometry) {
    let g = geometry;
    assert_eq!(g.slab_bytes + g.large_bytes, constraints.memory_bytes);
    assert!(g.slab_bytes >= STEP_UNITS * UNIT_BYTES || g.large_bytes == 0);
    let tables = [
        (0, UNIT_BYTES),
        (g.homes_offset, 0),
        (g.shadow_offset, g.slab_bytes / GRANULE_BYTES),
        (g.headers_offset, g.nr_units() * HEADER_BYTES),
        (g.free_bits_offset, g.nr_units() * BITMAP_WORDS * 8),
        (g.remote_bits_offset, g.nr_units() * BITMAP_WORDS * 8),
        (g.large_table_offset, g.nr_large_units() * LARGE_ENTRY_BYTES),
        (g.threads_offset, g.max_threads * THREAD_HEAP_BYTES),
        (g.metadata_bytes, 0),
    ];
    for pair in tables.windows(2) {
        let (offset, bytes) = pair[0];
        let (next, _) = pair[1];
        assert!(offset % UNIT_BYTES == 0);
        assert!(offset + bytes + UNIT_BYTES <= next, "no gap behind the table at {offset:#x}");
    }
    assert!(g.homes_offset + g.nr_units() * HOME_BYTES <= g.shadow_offset);
    assert!(g.shadow_offset.is_multiple_of(HUGE_PAGE_BYTES) || g.nr_units() < HUGE_STEPS * STEP_UNITS);
    assert!(g.slab_bytes / GRANULE_BYTES <= 1 << 32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_it_cannot_number() {
        let bad = |memory_bytes, max_threads| Geometry::new(Constraints { memory_bytes, max_threads });
        assert!(bad(0, 1).is_none());
        assert!(bad((1 << 20) + 1, 1).is_none());
        assert!(bad((1 << 38) + (1 << 20), 1).is_none());
        assert!(bad(1 << 30, 0).is_none());
    }

    proptest! {
        #[test]
        fn tables_never_touch(mib in 1_usize..(1 << 18), max_threads in 1_usize..10_000) {
            let constraints = Constraints { memory_bytes: mib << 20, max_threads };
            if let Some(geometry) = Geometry::new(constraints) {
                assert_invariants(constraints, &geometry);
            }
        }
    }
}
