//! The state of a block, one byte for each granule of the slab zone.
//!
//! Only the granule that a slot starts with ever holds a state of 0x7d and above, so one look-up tells a
//! live block from an interior pointer, a misaligned one and a block that was freed before.
//!
//! | byte | meaning |
//! |---|---|
//! | 0x00 | no block starts here, or its slot was never used since the slab was made |
//! | 0x01 | a free slot that was used before, in this slab or one that its unit was earlier |
//! | 0x02..=0x7c | not at the start of a slot: a digit of a long slack, plus 2 |
//! | 0x7d | freed by another thread, on its way home |
//! | 0x7e | a live block whose slack stands in the three following bytes |
//! | 0x7f..=0xff | a live block: of `byte - 0x7f` bytes in a small slot, with a slack of `byte - 0x7f` in others |
//!
//! *Slack* is what the slot holds behind the block and before the canary.

#![cfg_attr(
    not(test),
    expect(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        reason = "on values below 2^20, checked here; blocks are not larger than their slots"
    )
)]

use super::class::SMALL_MAX_BYTES;

/// No block starts here.
pub(crate) const NEVER: u8 = 0x00;
/// A free slot that was used before.
pub(crate) const FREED: u8 = 0x01;
/// Freed by another thread.
pub(crate) const REMOTE: u8 = 0x7d;
/// A live block with a long slack.
pub(crate) const LIVE_LONG: u8 = 0x7e;
/// From here on up all states are of live blocks, so that what is above it is a size or a slack for them only. Not 0x80,
/// which compilers like to turn into an `or`, with a move before it.
const LIVE: u8 = 0x7f;
/// The longest slack that needs no long form.
pub(crate) const LONGEST_SHORT: usize = (u8::MAX - LIVE) as usize;
/// Bytes behind the first that hold a long slack.
pub(crate) const LONG_BYTES: usize = 3;
/// Digits of a long slack: 0x02..=0x7c.
const RADIX: usize = 0x7b;

/// Whether a block that starts here is in use.
#[inline(always)]
pub(crate) const fn is_live(state: u8) -> bool {
    state >= LIVE_LONG
}

/// The state of a live block in a small slot: one of a class up to [`SMALL_MAX_BYTES`].
#[inline(always)]
pub(crate) const fn small(size: usize) -> u8 {
    LIVE.wrapping_add(size as u8)
}

/// The size of a live block in a small slot; more than any layout has for a state that is not live.
#[inline(always)]
pub(crate) const fn small_size(state: u8) -> usize {
    (state as usize).wrapping_sub(LIVE as usize)
}

/// The state of a live block in a slot that is not small, with a slack of up to [`LONGEST_SHORT`].
#[inline(always)]
pub(crate) const fn tight(usable: usize, size: usize) -> u8 {
    LIVE.wrapping_add((usable - size) as u8)
}

/// The slack that a [`tight`] state tells; negative, and far from it, for one that is not live.
#[inline(always)]
pub(crate) const fn tight_slack(state: u8) -> usize {
    small_size(state)
}

/// The state of a live block of `size` bytes in a slot for up to `usable`, or `None` if it needs the long form.
#[inline(always)]
pub(crate) const fn short(usable: usize, size: usize) -> Option<u8> {
    if usable <= SMALL_MAX_BYTES {
        return Some(small(size));
    }
    let slack = usable - size;
    if slack <= LONGEST_SHORT { Some(LIVE + slack as u8) } else { None }
}

/// The size of a live block in a slot for up to `usable`, or `None` if it stands in the long form. More than
/// `usable` for a state that no block of such a slot has.
#[inline(always)]
pub(crate) const fn size_of(usable: usize, state: u8) -> Option<usize> {
    if usable <= SMALL_MAX_BYTES {
        return Some(small_size(state));
    }
    if state != LIVE_LONG { Some(usable.wrapping_sub(small_size(state))) } else { None }
}

/// The three bytes of a long slack.
pub(crate) const fn encode_long(slack: usize) -> [u8; LONG_BYTES] {
    [(slack % RADIX) as u8 + 2, (slack / RADIX % RADIX) as u8 + 2, (slack / RADIX / RADIX % RADIX) as u8 + 2]
}

/// The slack that [`encode_long`] wrote.
pub(crate) fn decode_long(bytes: [u8; LONG_BYTES]) -> usize {
    let [a, b, c] = bytes;
    let digit = |byte: u8| -> usize { byte.wrapping_sub(2) as usize };
    digit(a) + digit(b) * RADIX + digit(c) * RADIX * RADIX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::class::{CANARY_BYTES, CLASSES};

    #[test]
    fn every_size_comes_back() {
        for class in CLASSES {
            let usable = class.usable_bytes();
            for size in 0..=usable {
                match short(usable, size) {
                    Some(state) => {
                        assert!(is_live(state));
                        assert_eq!(size_of(usable, state), Some(size));
                    }
                    None => {
                        let long = encode_long(usable - size);
                        assert!(long.iter().all(|&byte| !is_live(byte) && byte > FREED));
                        assert_eq!(usable - decode_long(long), size);
                        assert_eq!(size_of(usable, LIVE_LONG), None);
                    }
                }
            }
        }
        assert!(is_live(LIVE_LONG) && !is_live(NEVER) && !is_live(FREED) && !is_live(REMOTE));
    }

    #[test]
    fn no_other_state_passes_for_a_small_block() {
        for usable in [24, 40, 56] {
            let live = |state: &u8| (LIVE..=LIVE + usable).contains(state);
            for state in (0..=u8::MAX).filter(|state| !live(state)) {
                assert!(small_size(state) > usize::from(usable), "{state:#x}");
            }
        }
    }

    #[test]
    fn no_other_state_passes_for_a_tight_block() {
        for state in (0..=u8::MAX).filter(|&state| !is_live(state) || state == LIVE_LONG) {
            assert!(1032_usize.wrapping_sub(tight_slack(state)) > 1032, "{state:#x}");
        }
    }

    #[test]
    fn a_long_slack_has_room_in_its_own_slot() {
        for class in CLASSES {
            let most = class.slot_bytes as usize - CANARY_BYTES;
            assert!(short(most, 0).is_some() || class.slot_bytes as usize / 16 > LONG_BYTES);
        }
    }
}
