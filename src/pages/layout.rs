//! Where things lie in a guarded run: pure arithmetic, sizes in and offsets out.
//!
//! ```text
//! 0         data_start              block_start        block_end   data_end      total
//! |  front guard  |  slack, all zero  |      block       |  tail slack  | tail guard |
//! |<-- 1 page +-->|<-------------- whole pages --------------------->|<- 1 page ->|
//! ```
//!
//! The block lies as close to the tail guard as its alignment allows, so that an overrun is a fault at once;
//! an underrun is one after the slack, and is seen at the end at the latest, since the slack must be zero.

/// What a run has to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunConstraints {
    /// Size of the block; may be 0.
    pub(crate) block_bytes: usize,
    /// Alignment of the block: a power of two.
    pub(crate) block_align: usize,
    /// Size of a page: a power of two.
    pub(crate) page_bytes: usize,
}

/// Where things lie, as offsets from the base of the run. See `assert_run_invariants` for what holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunLayout {
    /// What the base must be a multiple of.
    pub(crate) base_align: usize,
    /// End of the front guard.
    pub(crate) data_start: usize,
    /// First byte of the block.
    pub(crate) block_start: usize,
    /// Start of the tail guard.
    pub(crate) data_end: usize,
    /// Size of it all.
    pub(crate) total: usize,
}

/// Lays a guarded run out, unless it would be larger than any allocation can be.
pub(crate) fn guarded_run(constraints: RunConstraints) -> Option<RunLayout> {
    let RunConstraints { block_bytes, block_align, page_bytes } = constraints;
    // A front guard of one page, or up to the first address that is aligned enough.
    let data_start = page_bytes.max(block_align);
    let data_bytes = block_bytes.max(1).checked_next_multiple_of(page_bytes)?;
    let data_end = data_start.checked_add(data_bytes)?;
    let total = data_end.checked_add(page_bytes)?;
    // `std::alloc::Layout` keeps every size, rounded up to its alignment, within `isize::MAX`.
    if total.checked_add(block_align)? > isize::MAX.unsigned_abs() {
        return None;
    }
    // At least `data_start`: that is a multiple of the alignment, and at most `data_end - block_bytes`.
    let block_start = data_end.wrapping_sub(block_bytes) & !block_align.wrapping_sub(1);
    Some(RunLayout { base_align: data_start, data_start, block_start, data_end, total })
}

/// Panics unless the layout is one that the constraints allow. For tests and fuzzing.
#[cfg(any(test, feature = "fault-injection"))]
#[allow(clippy::arithmetic_side_effects, reason = "a test may panic")]
pub(crate) fn assert_run_invariants(constraints: RunConstraints, layout: RunLayout) {
    let RunConstraints { block_bytes, block_align, page_bytes } = constraints;
    let RunLayout { base_align, data_start, block_start, data_end, total } = layout;
    let block_end = block_start + block_bytes;

    assert!(data_start >= page_bytes, "the front guard is at least one page");
    assert_eq!(total - data_end, page_bytes, "the tail guard is one page");
    for offset in [base_align, data_start, data_end, total] {
        assert_eq!(offset % page_bytes, 0, "guards and data are whole pages");
    }
    assert!(data_start <= block_start && block_end <= data_end, "the block lies within the data");
    assert_eq!(base_align % block_align, 0, "an aligned base and an aligned offset");
    assert_eq!(block_start % block_align, 0, "make an aligned block");
    let gap = data_end - block_end;
    assert!(block_bytes == 0 || gap < block_align.min(page_bytes), "the block is flush with the tail guard");
    assert_eq!(
        data_end - data_start,
        block_bytes.max(1).next_multiple_of(page_bytes),
        "no page is mapped that is not needed"
    );
    assert!(total + base_align <= isize::MAX.unsigned_abs() + page_bytes, "it can be reserved aligned");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, prop, prop_oneof, proptest};

    use super::*;

    const PAGE: usize = 4096;

    fn lay_out(block_bytes: usize, block_align: usize) -> Option<RunLayout> {
        let constraints = RunConstraints { block_bytes, block_align, page_bytes: PAGE };
        let layout = guarded_run(constraints);
        if let Some(layout) = layout {
            assert_run_invariants(constraints, layout);
        }
        layout
    }

    #[test]
    fn known_runs() {
        const GIB: usize = 1 << 30;
        // block, alignment; front guard, block's start, tail guard, total
        let table = [
            ((0, 1), (PAGE, 2 * PAGE, 2 * PAGE, 3 * PAGE)),
            ((1, 1), (PAGE, 2 * PAGE - 1, 2 * PAGE, 3 * PAGE)),
            ((32, 32), (PAGE, 2 * PAGE - 32, 2 * PAGE, 3 * PAGE)),
            ((33, 32), (PAGE, 2 * PAGE - 64, 2 * PAGE, 3 * PAGE)),
            ((PAGE, 1), (PAGE, PAGE, 2 * PAGE, 3 * PAGE)),
            ((PAGE, PAGE), (PAGE, PAGE, 2 * PAGE, 3 * PAGE)),
            ((PAGE + 1, 1), (PAGE, 2 * PAGE - 1, 3 * PAGE, 4 * PAGE)),
            ((1, 2 * PAGE), (2 * PAGE, 2 * PAGE, 3 * PAGE, 4 * PAGE)),
            ((5 * PAGE, 2 * PAGE), (2 * PAGE, 2 * PAGE, 7 * PAGE, 8 * PAGE)),
            ((1, GIB), (GIB, GIB, GIB + PAGE, GIB + 2 * PAGE)),
        ];
        for ((bytes, align), (data_start, block_start, data_end, total)) in table {
            let expected = RunLayout { base_align: data_start, data_start, block_start, data_end, total };
            assert_eq!(lay_out(bytes, align), Some(expected), "{bytes} bytes at a multiple of {align}");
        }
    }

    #[test]
    fn what_cannot_be_allocated_has_no_layout() {
        for bytes in
            [usize::MAX, usize::MAX - PAGE, isize::MAX.unsigned_abs(), isize::MAX.unsigned_abs() - PAGE]
        {
            assert_eq!(lay_out(bytes, 1), None, "{bytes} bytes");
        }
        assert_eq!(lay_out(1, 1 << 62), None);
    }

    fn sizes() -> impl Strategy<Value = usize> {
        prop_oneof![Just(0), 0..4 * PAGE, 0..1_usize << 40, prop::num::usize::ANY, Just(usize::MAX)]
    }

    proptest! {
        #[test]
        fn every_layout_keeps_the_invariants(bytes in sizes(), align in 0..63_u32, page in 12..=16_u32) {
            let constraints =
                RunConstraints { block_bytes: bytes, block_align: 1 << align, page_bytes: 1 << page };
            if let Some(layout) = guarded_run(constraints) {
                assert_run_invariants(constraints, layout);
            } else {
                // Only what is out of reach is refused.
                assert!(bytes.max(1 << align) > isize::MAX.unsigned_abs() / 4);
            }
        }
    }
}
