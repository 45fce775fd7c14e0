//! A small generator for slot choice and quarantine. Seeded by the kernel; not for keys.

/// A 64-bit multiplicative generator, whose high bits are used. Its state is odd, or zero in a thread heap that
/// is not set up; its period is 2^62.
///
/// It decides only which of a few free slots comes next. Its state lives in the thread heap, which no
/// block can overflow into, and is seeded again whenever a thread heap changes hands or a process forks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The next state. The multiplier fits into an instruction.
    #[inline(always)]
    pub(crate) const fn stepped(self) -> Self {
        Self(self.0.wrapping_mul(0x5851_f42d))
    }

    /// One of the numbers below 16, which is in the highest bits.
    #[inline(always)]
    pub(crate) const fn of_sixteen(self) -> u32 {
        #[expect(clippy::as_conversions, reason = "four bits are left")]
        let high = (self.0 >> 60) as u32;
        high
    }

    /// The next 32 bits.
    #[inline(always)]
    pub(crate) const fn next(&mut self) -> u32 {
        *self = self.stepped();
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

    #[test]
    fn draws_each_of_sixteen_about_as_often_and_by_no_rule_of_the_last() {
        for seed in [0, 2, 0x1234_5678_9abc_def0, u64::MAX] {
            let mut rng = Rng::new(seed);
            let (mut single, mut pairs) = ([0; 16], [0; 256]);
            let mut last = 0;
            for _ in 0..1_000 {
                rng = rng.stepped();
            }
            for _ in 0..256 * 1_000 {
                rng = rng.stepped();
                let drawn = rng.of_sixteen() as usize;
                single[drawn] += 1;
                pairs[last * 16 + drawn] += 1;
                last = drawn;
            }
            assert!(single.iter().all(|n| (15_000..17_000).contains(n)), "{single:?}");
            assert!(pairs.iter().all(|n| (800..1_200).contains(n)), "{pairs:?}");
        }
    }
}
