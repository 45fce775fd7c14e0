//! Which addresses of a container are in use, and which comes next. Pure: no system call, no memory of devices.
//!
//! Addresses are given out one after the other and from the start again when the end is reached, with a page between
//! them that is not mapped. So what a device sends late, to an address that was unmapped, meets nothing for as long
//! as there are addresses that were not used since.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::IommuRefusal;

/// The addresses of one container.
///
/// # Invariants
///
/// 1. `windows` are in order, not empty, and apart from each other.
/// 2. `used` holds the end of each range in use by its start. They do not overlap, and each lies in a window.
#[derive(Debug)]
pub(super) struct Space {
    windows: Vec<Range<u64>>,
    used: BTreeMap<u64, u64>,
    next: u64,
    page_bytes: u64,
}

impl Space {
    /// All addresses in these windows but the page at zero, which is what a device takes that was told none.
    pub(super) fn new(windows: &[Range<u64>], page_bytes: u64) -> Self {
        let mut space = Self { windows: Vec::new(), used: BTreeMap::new(), next: 0, page_bytes };
        let inner = windows.iter().map(|window| {
            let start = window.start.max(1).checked_next_multiple_of(page_bytes).unwrap_or(u64::MAX);
            // The size of a page is a power of two.
            start..window.end & !page_bytes.wrapping_sub(1)
        });
        space.windows = inner.filter(|window| !window.is_empty()).collect();
        space.windows.sort_by_key(|window| window.start);
        space
    }

    /// Leaves out what lies at `end` or beyond. Nothing may be in use.
    pub(super) fn end_at(&mut self, end: u64) {
        let all: Vec<_> = self.windows.iter().map(|window| window.start..window.end.min(end)).collect();
        *self = Self::new(&all, self.page_bytes);
    }

    /// Takes the next `len` bytes that fit.
    pub(super) fn claim(&mut self, len: u64) -> Result<u64, IommuRefusal> {
        let wanted = len.checked_add(self.page_bytes).ok_or(IommuRefusal::NoSpace)?;
        let start = self
            .first_fit(self.next, wanted)
            .or_else(|| self.first_fit(0, wanted))
            .ok_or(IommuRefusal::NoSpace)?;
        self.used.insert(start, start.saturating_add(len));
        self.next = start.saturating_add(wanted);
        Ok(start)
    }

    /// Takes `len` bytes at this address.
    pub(super) fn claim_at(&mut self, start: u64, len: u64) -> Result<(), IommuRefusal> {
        let end = start.checked_add(len).ok_or(IommuRefusal::OutOfReach)?;
        if !self.windows.iter().any(|window| window.start <= start && end <= window.end) {
            return Err(IommuRefusal::OutOfReach);
        }
        if self.last_before(end).is_some_and(|used| used.end > start) {
            return Err(IommuRefusal::Taken);
        }
        self.used.insert(start, end);
        Ok(())
    }

    /// Gives back what was taken at this address.
    pub(super) fn release(&mut self, start: u64) {
        self.used.remove(&start);
    }

    /// The first address from `least` on where `len` bytes are free, and the page before them.
    fn first_fit(&self, least: u64, len: u64) -> Option<u64> {
        self.windows.iter().find_map(|window| {
            let mut start = window.start.max(least);
            loop {
                let end = start.checked_add(len).filter(|end| *end <= window.end)?;
                match self.last_before(end) {
                    // Leaves a page after what is in use.
                    Some(used) if used.end.saturating_add(self.page_bytes) > start => {
                        start = used.end.saturating_add(self.page_bytes);
                    }
                    _ => return Some(start),
                }
            }
        })
    }

    /// What is in use and begins before `end`: the last of it.
    fn last_before(&self, end: u64) -> Option<Range<u64>> {
        self.used.range(..end).next_back().map(|(start, end)| *start..*end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE: u64 = 4096;

    fn check(space: &Space) {
        let used: Vec<_> = space.used.iter().map(|(start, end)| *start..*end).collect();
        for pair in used.windows(2) {
            assert!(pair[0].end <= pair[1].start, "{used:x?}");
        }
        for range in &used {
            assert!(range.start % PAGE == 0 && range.end % PAGE == 0 && range.start > 0, "{range:x?}");
            assert!(
                space.windows.iter().any(|window| window.start <= range.start && range.end <= window.end)
            );
        }
    }

    #[test]
    fn an_address_comes_again_only_after_all_others() {
        let mut space = Space::new(core::slice::from_ref(&(0..9 * PAGE)), PAGE);
        assert_eq!(space.claim(PAGE), Ok(PAGE));
        space.release(PAGE);
        assert_eq!(space.claim(PAGE), Ok(3 * PAGE));
        space.release(3 * PAGE);
        assert_eq!(space.claim(PAGE), Ok(5 * PAGE));
        assert_eq!(space.claim(PAGE), Ok(7 * PAGE));
        assert_eq!(space.claim(PAGE), Ok(PAGE), "from the start again");
        assert_eq!(space.claim(PAGE), Ok(3 * PAGE));
        assert_eq!(space.claim(PAGE), Err(IommuRefusal::NoSpace));
    }

    #[test]
    fn chosen_addresses_are_checked() {
        let mut space = Space::new(&[PAGE..64 * PAGE, 128 * PAGE..256 * PAGE], PAGE);
        assert_eq!(space.claim_at(10 * PAGE, 4 * PAGE), Ok(()));
        assert_eq!(space.claim_at(13 * PAGE, PAGE), Err(IommuRefusal::Taken));
        assert_eq!(space.claim_at(8 * PAGE, 3 * PAGE), Err(IommuRefusal::Taken));
        assert_eq!(space.claim_at(8 * PAGE, 8 * PAGE), Err(IommuRefusal::Taken));
        assert_eq!(space.claim_at(14 * PAGE, PAGE), Ok(()), "side by side, if that is what is asked for");
        assert_eq!(space.claim_at(0, PAGE), Err(IommuRefusal::OutOfReach));
        assert_eq!(space.claim_at(63 * PAGE, 2 * PAGE), Err(IommuRefusal::OutOfReach));
        assert_eq!(space.claim_at(u64::MAX - PAGE + 1, PAGE), Err(IommuRefusal::OutOfReach));
        space.release(10 * PAGE);
        assert_eq!(space.claim_at(13 * PAGE, PAGE), Ok(()));
        check(&space);
    }

    #[test]
    fn windows_are_rounded_inwards_and_can_be_cut() {
        let mut space = Space::new(&[0..0, 5..3 * PAGE + 5, 8 * PAGE..u64::MAX], PAGE);
        assert_eq!(space.windows, [PAGE..3 * PAGE, 8 * PAGE..u64::MAX - PAGE + 1]);
        space.end_at(8 * PAGE);
        assert_eq!(space.windows, vec![PAGE..3 * PAGE]);
        assert_eq!(space.claim(3 * PAGE), Err(IommuRefusal::NoSpace));
        assert_eq!(space.claim(u64::MAX), Err(IommuRefusal::NoSpace));
    }

    proptest! {
        #[test]
        fn nothing_overlaps_whatever_is_claimed_and_released(
            steps in prop::collection::vec((0_u8..3, 1_u64..9, 0_u64..130), 1..200)
        ) {
            let mut space = Space::new(&[0..60 * PAGE, 70 * PAGE..130 * PAGE], PAGE);
            let mut live = Vec::new();
            for (kind, pages, place) in steps {
                match kind {
                    0 => live.extend(space.claim(pages * PAGE)),
                    1 => live.extend(space.claim_at(place * PAGE, pages * PAGE).map(|()| place * PAGE)),
                    _ if live.is_empty() => {}
                    _ => {
                        let index = usize::try_from(place).unwrap() % live.len();
                        space.release(live.swap_remove(index));
                    }
                }
                check(&space);
                prop_assert_eq!(space.used.len(), live.len());
            }
        }
    }
}
