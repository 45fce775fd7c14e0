//! The value that stands behind every block.

#![cfg_attr(not(test), expect(clippy::as_conversions, reason = "u32 to u64 widens"))]

/// The canary that ends at granule `end`: the slot's key, mixed with the place, so that a canary copied
/// from elsewhere does not fit. Its lowest bit is set: the first byte behind a block is never zero, so that
/// an overflow by a single NUL is seen every time.
#[inline(always)]
pub(crate) const fn canary(key: u64, end: u32) -> u64 {
    // The constant is 2^64 divided by the golden ratio (Knuth, TAOCP 3, 6.4): any odd number would do.
    (key ^ (end as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1
}

/// The byte that stands right behind a block with slack. Never zero, so that one NUL too many is seen always;
/// one other byte in 255 is the marker by chance. Behind it there are zeros, or the canary.
#[inline(always)]
pub(crate) const fn marker(key: u64) -> u8 {
    (key >> 40) as u8 | 1
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
    fn never_starts_with_zero_and_depends_on_the_place() {
        for end in 0..1000 {
            assert_ne!(canary(0, end).to_le_bytes()[0], 0);
            assert_ne!(canary(5, end), canary(5, end + 2));
        }
        assert!((0..16).all(|i| byte(0, i) != 0));
        assert_ne!(marker(0), 0);
    }
}
