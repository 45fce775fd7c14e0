//! The state of a block, one byte for each granule of the slab zone.
//!
//! Only the granule that a slot starts with ever holds a state of 0x80 and above, so one look-up tells a
//! live block from an interior pointer, a misaligned one and a block that was freed before.
//!
//! | byte | meaning |
//! |---|---|
//! | 0x00 | no block starts here, or its slot was never used since the slab was made |
//! | 0x01 | a free slot that was used before, in this slab or one that its unit was earlier |
//! | 0x02..=0x7f | not at the start of a slot: seven bits of a long slack, plus 2 |
//! | 0x80..=0xf7 | a live block with a slack of `byte - 0x80` |
//! | 0xf8 | a live block whose slack stands in the three following bytes |
//! | 0xfe | freed by another thread, on its way home |
//!
//! *Slack* is what the slot holds behind the block and before the canary.

#![cfg_attr(
    not(test),
    expect(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        reason = "on values below 2^21, checked here"
    )
)]

/// No block starts here.
pub(crate) const NEVER: u8 = 0x00;
/// A free slot that was used before.
pub(crate) const FREED: u8 = 0x01;
/// Freed by another thread.
pub(crate) const REMOTE: u8 = 0xfe;
/// A live block with a long slack.
pub(crate) const LIVE_LONG: u8 = 0xf8;
const LIVE: u8 = 0x80;
const LONGEST_SHORT: usize = (LIVE_LONG - LIVE) as usize - 1;
/// Bytes behind the first that hold a long slack.
pub(crate) const LONG_BYTES: usize = 3;
/// Digits of a long slack: 0x02..=0x7f.
const RADIX: usize = 0x7e;

/// Whether a block that starts here is in use.
#[inline(always)]
pub(crate) const fn is_live(state: u8) -> bool {
    state >= LIVE && state <= LIVE_LONG
}

/// The state of a live block with this slack, or `None` if it needs the long form.
#[inline(always)]
pub(crate) const fn short(slack: usize) -> Option<u8> {
    if slack <= LONGEST_SHORT { Some(LIVE + slack as u8) } else { None }
}

/// The slack of a live block, or `None` if it stands in the long form.
#[inline(always)]
pub(crate) const fn slack_of(state: u8) -> Option<usize> {
    if state < LIVE_LONG { Some(state.wrapping_sub(LIVE) as usize) } else { None }
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
    fn every_slack_comes_back() {
        for slack in 0..40_000 {
            if let Some(state) = short(slack) {
                assert!(is_live(state));
                assert_eq!(slack_of(state), Some(slack));
            }
            let long = encode_long(slack);
            assert!(long.iter().all(|&byte| !is_live(byte) && byte > FREED));
            assert_eq!(decode_long(long), slack);
        }
        assert!(is_live(LIVE_LONG) && slack_of(LIVE_LONG).is_none());
        assert!(!is_live(NEVER) && !is_live(FREED) && !is_live(REMOTE));
    }

    #[test]
    fn a_long_slack_has_room_in_its_own_slot() {
        for class in CLASSES {
            let most = class.slot_bytes as usize - CANARY_BYTES;
            assert!(short(most).is_some() || class.slot_bytes as usize / 16 > LONG_BYTES);
        }
    }
}
