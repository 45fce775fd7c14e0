//! The value that stands behind every block.

#![cfg_attr(
    not(test),
    expect(
        clippy::as_conversions,
        clippy::arithmetic_side_effects,
        reason = "widens; takes the low half; a byte four times; below 32"
    )
)]

use super::geometry::GRANULE_BYTES;

/// Makes the key of a heap's canaries from random bits: its four lowest bytes are one byte, four times, and not
/// zero.
pub(crate) const fn key(random: u64) -> u64 {
    let byte = random & 0xff;
    let byte = if byte == 0 { 0xa7 } else { byte };
    (random & !0xffff_ffff) | (byte * 0x0101_0101)
}

/// The canary of the slot that starts with a granule: the key, its upper half moved on by the granule's number, so that a
/// canary copied from elsewhere in the heap does not fit.
///
/// The lower half is the [`marker`], whatever the place. So four bytes of it, written right behind a block, may
/// reach into the canary without changing it, and can be checked whatever the slack.
#[inline(always)]
pub(crate) const fn canary(key: u64, granule: u32) -> u64 {
    key.wrapping_add((granule as u64) << 32)
}

/// How much the canary of a slot is above that of the slot before, of slots of `slot_bytes`, a multiple of 16.
pub(crate) const fn step(slot_bytes: usize) -> u64 {
    (slot_bytes as u64) << (32 - GRANULE_BYTES.trailing_zeros())
}

/// What stands right behind a block: a byte four times, and not zero, so that one NUL too many is seen always; one
/// other byte in 255 is the marker's by chance.
#[inline(always)]
pub(crate) const fn marker(key: u64) -> u32 {
    key as u32
}

/// The canary byte for place `index` of the slack behind a large block. Never zero.
#[inline]
pub(crate) const fn byte(key: u64, index: usize) -> u8 {
    let [a, b, c, d, e, f, g, h] = (key | 0x0101_0101_0101_0101).to_le_bytes();
    match index % 8 {
        0 => a,
        1 => b,
        2 => c,
        3 => d,
        4 => e,
        5 => f,
        6 => g,
        _ => h,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_with_the_marker_and_depends_on_the_place() {
        for random in [0, 1, 0xff00, 0x1234_5678_9abc_def0, u64::MAX] {
            let key = key(random);
            let [first, ..] = marker(key).to_le_bytes();
            assert_ne!(first, 0);
            assert_eq!(marker(key).to_le_bytes(), [first; 4]);
            for granule in (0xffff_ff00_u32..=u32::MAX).chain(0..1000) {
                let next = granule.wrapping_add(3);
                assert_eq!(canary(key, granule) as u32, marker(key));
                assert_ne!(canary(key, granule), canary(key, next));
                assert_eq!(canary(key, next).wrapping_sub(step(48)), canary(key, granule));
            }
        }
        assert!((0..16).all(|i| byte(0, i) != 0));
    }
}
