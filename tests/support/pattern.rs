//! Secrets for tests: bytes that both processes can work out, so that only one of them has to hold them.

/// Byte `index` of secret number `seed`. No two runs of eight bytes are alike for practical purposes.
pub(crate) fn byte(seed: u64, index: usize) -> u8 {
    // The compiler must not know the seed: it would work the secret out and put it into the program itself, which
    // both processes are.
    let seed = std::hint::black_box(seed);
    // splitmix64 (Steele, Lea, Flood 2014).
    let mut z = seed.wrapping_mul(0xff51_afd7_ed55_8ccd).wrapping_add(index as u64);
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z >> 56) as u8
}

/// Writes secret number `seed` in place, byte by byte, so that it is nowhere else.
#[inline(never)]
pub(crate) fn fill(bytes: &mut [u8], seed: u64) {
    for (index, slot) in bytes.iter_mut().enumerate() {
        // A volatile write of one byte is not merged with its neighbours, so that no wider register ever
        // holds eight bytes of the secret.
        // SAFETY: `slot` is a reference, so valid for a write.
        unsafe { std::ptr::write_volatile(slot, byte(seed, index)) };
    }
}

/// Whether these are the bytes of secret number `seed`.
pub(crate) fn matches(bytes: &[u8], seed: u64) -> bool {
    bytes.iter().enumerate().all(|(index, b)| *b == byte(seed, index))
}

/// Secret number `seed`: for the process that looks for it.
pub(crate) fn secret(seed: u64, len: usize) -> Vec<u8> {
    (0..len).map(|index| byte(seed, index)).collect()
}
