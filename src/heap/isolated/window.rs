//! Where a block lies in its slot: pure arithmetic.
//!
//! ```text
//! guard |            data pages of the slot (its class)            | guard
//!       |  never opened   |          window                        |
//!       |                 |  zeros  | canary |        block         |
//! ```
//!
//! The block ends at the guard behind it. Only the pages that it needs are ever opened, locked and faulted
//! in: the window. A block that is aligned to more than a page ends at the last such address; the pages
//! behind it are not part of the window, so they stay without access and guard it as well.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "sizes are below 2^31 pages (`class_of`), and offsets below the size of a slot"
)]

use core::alloc::Layout;

/// Classes with 1, 2, .. 16 data pages, then 32, 64, .. 2^18.
pub(crate) const NR_CLASSES: usize = 30;
/// Classes of exactly as many pages as their index and one.
const NR_EXACT: usize = 16;
/// The largest number of data pages: 1 GiB of 4 KiB pages, which is also the most that one pin holds.
const MOST_PAGES: usize = 1 << 18;
/// Most bytes of a canary.
pub(super) const CANARY_BYTES: usize = 16;

/// The class of a block: the index of the smallest that it fits in. `None` if it is too large for all.
pub(super) fn class_of(block: Layout, page_bytes: usize) -> Option<usize> {
    // `Layout` keeps the size, rounded up to the alignment, within `isize::MAX`; so are both together here.
    let needed = if block.align() <= page_bytes {
        block.size().div_ceil(page_bytes).max(1)
    } else {
        // Any run of that many pages has a place in it that is aligned enough.
        block.size().checked_add(block.align())?.div_ceil(page_bytes)
    };
    match needed {
        0..=NR_EXACT => Some(needed - 1),
        _ if needed <= MOST_PAGES => {
            let doublings = needed.next_power_of_two().trailing_zeros() - NR_EXACT.trailing_zeros();
            usize::try_from(doublings).ok().map(|doublings| NR_EXACT - 1 + doublings)
        }
        _ => None,
    }
}

/// The number of data pages of a class.
pub(super) const fn pages_of(class: usize) -> usize {
    if class < NR_EXACT { class + 1 } else { NR_EXACT << (class - NR_EXACT + 1) }
}

/// Where a block lies in a slot, as offsets from the slot's first data byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// The first byte of the window: a multiple of the page size.
    pub(super) start: usize,
    /// The size of the window: a multiple of the page size, not 0.
    pub(super) bytes: usize,
    /// The first byte of the block.
    pub(super) block: usize,
}

impl Window {
    /// Places a block in a slot of `data_bytes` whose first data byte has this address.
    pub(super) fn place(block: Layout, address: usize, data_bytes: usize, page_bytes: usize) -> Self {
        let end = address + data_bytes;
        // Not below `address`: `class_of` left room for the alignment.
        let block_address = (end - block.size()) & !(block.align() - 1);
        let block_start = block_address - address;
        let block_end = block_start + block.size();
        let window_end = block_end.next_multiple_of(page_bytes).max(page_bytes);
        // A block without a size that ends where a page does has the page before it for a window.
        let start = (block_start & !(page_bytes - 1)).min(window_end - page_bytes);
        Self { start, bytes: window_end - start, block: block_start }
    }

    /// Bytes of the window in front of the block.
    pub(super) const fn slack(&self) -> usize {
        self.block - self.start
    }

    /// Bytes of canary right in front of the block.
    pub(super) fn canary_bytes(&self) -> usize {
        self.slack().min(CANARY_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, prop_oneof, proptest};

    use super::*;

    const PAGE: usize = 4096;

    fn check(size: usize, align: usize, address: usize) {
        let block = Layout::from_size_align(size, align).unwrap();
        let class = class_of(block, PAGE).unwrap();
        let data_bytes = pages_of(class) * PAGE;
        let window = Window::place(block, address, data_bytes, PAGE);
        let Window { start, bytes, block: at } = window;
        assert!(bytes >= PAGE && start % PAGE == 0 && bytes % PAGE == 0, "whole pages: {window:?}");
        assert!(start + bytes <= data_bytes, "within the slot: {window:?}");
        assert!(start <= at && at + size <= start + bytes, "the block in its window: {window:?}");
        assert_eq!((address + at) % align, 0, "aligned: {window:?}");
        assert!(start + bytes - (at + size) < align.min(PAGE), "flush with what follows: {window:?}");
        assert!(bytes <= size.next_multiple_of(PAGE).max(PAGE), "no page more than needed: {window:?}");
        if align <= PAGE && size.is_multiple_of(align) {
            assert_eq!(at + size, data_bytes, "flush with the guard");
        }
        assert!(class == 0 || pages_of(class - 1) * PAGE < size + align.max(PAGE), "the smallest class");
    }

    #[test]
    fn known_places() {
        for size in [0, 1, 32, 4080, 4095, 4096, 4097, 65_536, 65_537, 1 << 20] {
            check(size, 1, 7 * PAGE);
        }
        check(8192, 8192, 3 * PAGE);
        check(8192, 8192, 4 * PAGE);
        check(0, 8192, 3 * PAGE);
        check(64, 64, PAGE);
    }

    #[test]
    fn classes_follow_each_other() {
        for class in 1..NR_CLASSES {
            assert!(pages_of(class - 1) < pages_of(class));
        }
        assert_eq!(pages_of(NR_CLASSES - 1), MOST_PAGES);
        let most = Layout::from_size_align(MOST_PAGES * PAGE, 1).unwrap();
        assert_eq!(class_of(most, PAGE), Some(NR_CLASSES - 1));
        let more = Layout::from_size_align(MOST_PAGES * PAGE + 1, 1).unwrap();
        assert_eq!(class_of(more, PAGE), None);
    }

    proptest! {
        #[test]
        fn every_place_is_lawful(
            size in prop_oneof![0..64_usize, 0..100_000_usize, 0..1_usize << 29],
            align in (0..17_u32).prop_map(|bits| 1_usize << bits),
            page in 1..1_000_000_usize,
        ) {
            check(size, align, page * PAGE);
        }
    }
}
