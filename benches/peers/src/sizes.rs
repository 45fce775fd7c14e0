//! Sizes of blocks as programs ask for them.

/// A generator of sizes: mostly small.
pub struct Sizes(pub u64);

impl Sizes {
    /// A number below `bound`, at random.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % bound
    }
}

impl Iterator for Sizes {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let draw = self.below(1 << 31);
        Some(match draw % 100 {
            0..=59 => 8 + draw / 128 % 120,
            60..=89 => 128 + draw / 128 % 900,
            90..=98 => 1024 + draw / 128 % 7000,
            _ => 8192 + draw / 128 % 20_000,
        })
    }
}
