//! A small generator for slot choice and quarantine. Seeded by the kernel; not for keys.

/// A 64-bit congruential generator; the high bits are used.
///
/// It decides only which of a few free slots comes next. Its state lives in the thread heap, which no
/// block can overflow into, and is seeded again whenever a thread heap changes hands or a process forks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 32 bits.
    #[inline(always)]
    pub(crate) const fn next(&mut self) -> u32 {
        // Multiplier and increment of Knuth's MMIX.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        #[expect(clippy::as_conversions, reason = "takes the high half")]
        let high = (self.0 >> 32) as u32;
        high
    }

    /// A number below `bound`, nearly uniform for the small bounds used here.
    #[inline]
    pub(crate) const fn below(&mut self, bound: u32) -> u32 {
        #[expect(
            clippy::as_conversions,
            reason = "u32 to u64 widens; the product's high half is below `bound`"
        )]
        let scaled = ((self.next() as u64).wrapping_mul(bound as u64) >> 32) as u32;
        scaled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_stays_below_and_reaches_all() {
        let mut rng = Rng::new(7);
        let mut seen = [false; 10];
        for _ in 0..10_000 {
            seen[rng.below(10) as usize] = true;
        }
        assert!(seen.iter().all(|&hit| hit));
    }
}
