//! The check on x86-64: the same ranges as in zeroing, all loads of a step or-ed together and tested once.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "every subtraction is guarded by the branch it stands in"
)]

mod avx2;
mod avx512;

use core::arch::x86_64::{
    __m128i, __m256i, _mm_cmpeq_epi8, _mm_load_si128, _mm_loadu_si128, _mm_movemask_epi8, _mm_or_si128,
    _mm_setzero_si128, _mm256_loadu_si256, _mm256_or_si256, _mm256_testz_si256,
};
use core::ptr::NonNull;

use crate::wipe::cpu::Features;

/// The longest range that is checked without a call.
const INLINE_BYTES: usize = 256;

/// Whether `len` bytes at `ptr` are all zero, at any alignment.
///
/// # Safety
/// * (valid for reads) `ptr` is valid for reads of `len` initialised bytes, which nobody writes meanwhile.
#[inline]
pub(crate) unsafe fn is_zero(ptr: NonNull<u8>, len: usize) -> bool {
    if len < 16 {
        // SAFETY: (valid for reads) is forwarded, the length is checked.
        unsafe { tiny_is_zero(ptr, len) }
    } else if len <= INLINE_BYTES {
        // SAFETY: (valid for reads) is forwarded, the length is checked.
        unsafe { small_is_zero(ptr, len) }
    } else {
        // SAFETY: (valid for reads) is forwarded, the length is checked.
        unsafe { large_is_zero(ptr, len) }
    }
}

/// Whether a slot of granules is all zero: no call up to 256 bytes.
///
/// # Safety
/// * (valid for reads) as for [`is_zero`].
/// * (granules) `ptr` is aligned to 16 bytes, and `len` is a multiple of 16 and not zero.
#[inline(always)]
pub(crate) unsafe fn slot_is_zero(ptr: NonNull<u8>, len: usize) -> bool {
    if len <= INLINE_BYTES {
        // SAFETY: (valid for reads) is forwarded; by (granules) the length is 16 at least.
        unsafe { small_is_zero(ptr, len) }
    } else {
        // SAFETY: (valid for reads) is forwarded, the length is checked.
        unsafe { large_is_zero(ptr, len) }
    }
}

/// Whether a slot of 32 to 64 bytes is all zero, without a branch.
///
/// # Safety
/// * (valid for reads) as for [`is_zero`].
/// * (granules) as for [`slot_is_zero`].
/// * (length) `32 <= len <= 64`.
#[inline(always)]
pub(crate) unsafe fn small_slot_is_zero(ptr: NonNull<u8>, len: usize) -> bool {
    // SAFETY: (length): the first of 32 bytes.
    let a = unsafe { granule(ptr, 0) };
    // SAFETY: (length): 16..32.
    let b = unsafe { granule(ptr, 16) };
    // SAFETY: (length): 32 bytes before the end there are 16.
    let c = unsafe { granule(ptr, len - 32) };
    // SAFETY: (length): the last 16 bytes.
    let d = unsafe { granule(ptr, len - 16) };
    all_zero(or(or(a, b), or(c, d)))
}

/// Whether a slot of 80 to 144 bytes is all zero, without a branch: four granules from either end, and one in the middle.
///
/// # Safety
/// * (valid for reads) as for [`is_zero`].
/// * (granules) as for [`slot_is_zero`].
/// * (length) `64 <= len <= 144`.
#[inline(always)]
pub(crate) unsafe fn short_slot_is_zero(ptr: NonNull<u8>, len: usize) -> bool {
    // SAFETY: (length): the first 64 bytes.
    let first = unsafe { four_granules(ptr, 0) };
    // SAFETY: (length): the last 64 bytes.
    let last = unsafe { four_granules(ptr, len - 64) };
    // SAFETY: a multiple of 16 in the first half.
    let middle = unsafe { granule(ptr, (len / 2) & !15) };
    all_zero(or(or(first, last), middle))
}

/// Whether a slot of 176 to 1,040 bytes is all zero: no call, and one look at all that was loaded.
///
/// # Safety
/// * (valid for reads) as for [`is_zero`].
/// * (granules) as for [`slot_is_zero`].
/// * (length) `144 <= len <= 1040`.
#[inline(always)]
pub(crate) unsafe fn mid_slot_is_zero(ptr: NonNull<u8>, len: usize) -> bool {
    let features = Features::seen();
    if features.has_avx2() {
        if len > 528 {
            // SAFETY: the processor has AVX2, the length is checked; the rest is forwarded.
            unsafe { avx2::thirty_three(ptr, len) }
        } else if features.has_fast_avx512() {
            // SAFETY: the processor has AVX-512; the rest as above.
            unsafe { avx512::nine(ptr, len) }
        } else {
            // SAFETY: as above.
            unsafe { avx2::seventeen(ptr, len) }
        }
    } else {
        // SAFETY: all is forwarded.
        unsafe { mid_is_zero_sse2(ptr, len) }
    }
}

/// # Safety
/// * (valid for reads), (granules) as for [`mid_slot_is_zero`].
/// * (length) `len >= 64`.
#[inline(always)]
unsafe fn mid_is_zero_sse2(ptr: NonNull<u8>, len: usize) -> bool {
    let last = len - 64;
    // SAFETY: (length): the last 64 bytes.
    let mut sum = unsafe { four_granules(ptr, last) };
    let mut at = 0;
    while at < last {
        // SAFETY: below `last`, where 64 bytes begin.
        sum = or(sum, unsafe { four_granules(ptr, at) });
        at += 64;
    }
    all_zero(sum)
}

/// 64 bytes from an offset on, or-ed.
///
/// # Safety
/// * (valid for reads), (granules) as for `granule`, up to `offset + 64`.
#[inline(always)]
unsafe fn four_granules(ptr: NonNull<u8>, offset: usize) -> __m128i {
    // SAFETY: forwarded.
    let a = unsafe { granule(ptr, offset) };
    // SAFETY: forwarded.
    let b = unsafe { granule(ptr, offset + 16) };
    // SAFETY: forwarded.
    let c = unsafe { granule(ptr, offset + 32) };
    // SAFETY: forwarded.
    let d = unsafe { granule(ptr, offset + 48) };
    or(or(or(a, b), c), d)
}

/// The granule at an offset, by an aligned load, which is part of the instruction that uses it.
///
/// # Safety
/// * (valid for reads) as for [`is_zero`], up to `offset + 16`.
/// * (granules) `ptr` and `offset` are multiples of 16.
#[inline(always)]
unsafe fn granule(ptr: NonNull<u8>, offset: usize) -> __m128i {
    // SAFETY: inside by (valid for reads).
    let at = unsafe { ptr.add(offset) };
    // SAFETY: 16 readable bytes, aligned by (granules).
    unsafe { _mm_load_si128(at.cast().as_ptr()) }
}

/// 16 to 256 bytes, loads from both ends inwards. No early exit: it is nearly always zero.
///
/// # Safety
/// * (valid for reads) as for [`is_zero`].
/// * (length) `16 <= len <= 256`.
#[inline(always)]
unsafe fn small_is_zero(ptr: NonNull<u8>, len: usize) -> bool {
    // SAFETY: (length): 16 bytes from either end.
    let mut sum = unsafe { ends(ptr, len, 0) };
    if len > 32 {
        // SAFETY: 16..32 from either end.
        sum = or(sum, unsafe { ends(ptr, len, 16) });
    }
    if len > 64 {
        // SAFETY: 32..48 from either end.
        sum = or(sum, unsafe { ends(ptr, len, 32) });
        // SAFETY: 48..64 from either end.
        sum = or(sum, unsafe { ends(ptr, len, 48) });
    }
    if len > 128 {
        // SAFETY: 64..80 from either end.
        sum = or(sum, unsafe { ends(ptr, len, 64) });
        // SAFETY: 80..96 from either end.
        sum = or(sum, unsafe { ends(ptr, len, 80) });
        // SAFETY: 96..112 from either end.
        sum = or(sum, unsafe { ends(ptr, len, 96) });
        // SAFETY: 112..128 from either end.
        sum = or(sum, unsafe { ends(ptr, len, 112) });
    }
    all_zero(sum)
}

/// Fewer than 16 bytes.
///
/// # Safety
/// * (valid for reads) as for [`is_zero`].
/// * (length) `len < 16`.
#[inline]
unsafe fn tiny_is_zero(ptr: NonNull<u8>, len: usize) -> bool {
    if len >= 8 {
        // SAFETY: 8 bytes from the front are inside.
        let front = unsafe { ptr.cast::<u64>().read_unaligned() };
        // SAFETY: 8 bytes before the end are inside.
        let back = unsafe { ptr.add(len - 8) };
        // SAFETY: as above.
        let back = unsafe { back.cast::<u64>().read_unaligned() };
        return front | back == 0;
    }
    // SAFETY: (valid for reads) is what a shared slice needs.
    let bytes = unsafe { core::slice::from_raw_parts(ptr.as_ptr(), len) };
    bytes.iter().fold(0, |sum, &byte| sum | byte) == 0
}

/// More than 256 bytes.
///
/// # Safety
/// * (valid for reads) as for [`is_zero`].
/// * (length) `len > 256`.
#[inline(never)]
unsafe fn large_is_zero(ptr: NonNull<u8>, len: usize) -> bool {
    let features = Features::seen();
    if features.has_fast_avx512() {
        // SAFETY: the processor has AVX-512; the rest is forwarded.
        unsafe { avx512::lines(ptr, len) }
    } else if features.has_avx2() {
        // SAFETY: the processor has AVX2; the rest is forwarded.
        unsafe { is_zero_avx2(ptr, len) }
    } else {
        // SAFETY: all is forwarded.
        unsafe { large_is_zero_slow(ptr, len) }
    }
}

/// The first time, and processors without AVX2.
///
/// # Safety
/// * (valid for reads), (length) as for [`large_is_zero`].
#[cold]
#[inline(never)]
unsafe fn large_is_zero_slow(ptr: NonNull<u8>, len: usize) -> bool {
    if Features::get().has_avx2() {
        // SAFETY: the processor has AVX2; the rest is forwarded.
        unsafe { is_zero_avx2(ptr, len) }
    } else {
        // SAFETY: all is forwarded.
        unsafe { is_zero_sse2(ptr, len) }
    }
}

/// 64 bytes a step, an early exit behind each, the last step overlapping.
///
/// # Safety
/// * (valid for reads) as for [`is_zero`].
/// * (length) `len >= 64`.
unsafe fn is_zero_sse2(ptr: NonNull<u8>, len: usize) -> bool {
    let mut step = ptr;
    // SAFETY: inside by (length).
    let last = unsafe { ptr.add(len - 64) };
    while step < last {
        // SAFETY: `step` is below `last`, where 64 bytes begin.
        if !unsafe { small_is_zero(step, 64) } {
            return false;
        }
        // SAFETY: below `last + 64`, the end.
        step = unsafe { step.add(64) };
    }
    // SAFETY: 64 bytes begin here.
    unsafe { small_is_zero(last, 64) }
}

/// 128 bytes a step, an early exit behind each, the last step overlapping.
///
/// # Safety
/// * (valid for reads) as for [`is_zero`].
/// * (length) `len >= 128`.
/// * (AVX2) the processor has it, and the operating system saves its registers.
#[target_feature(enable = "avx2")]
unsafe fn is_zero_avx2(ptr: NonNull<u8>, len: usize) -> bool {
    let mut step = ptr;
    // SAFETY: inside by (length).
    let last = unsafe { ptr.add(len - 128) };
    while step < last {
        // SAFETY: `step` is below `last`, where 128 bytes begin.
        if !unsafe { step_is_zero_avx2(step) } {
            return false;
        }
        // SAFETY: below `last + 128`, the end.
        step = unsafe { step.add(128) };
    }
    // SAFETY: 128 bytes begin here.
    unsafe { step_is_zero_avx2(last) }
}

/// # Safety
/// * (valid for reads) as for [`is_zero`], of 128 bytes.
/// * (AVX2) as for `is_zero_avx2`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn step_is_zero_avx2(step: NonNull<u8>) -> bool {
    let lanes: *const __m256i = step.as_ptr().cast();
    // SAFETY: bytes 0..32 of the 128.
    let a = unsafe { _mm256_loadu_si256(lanes) };
    // SAFETY: bytes 32..64.
    let b = unsafe { _mm256_loadu_si256(lanes.wrapping_add(1)) };
    // SAFETY: bytes 64..96.
    let c = unsafe { _mm256_loadu_si256(lanes.wrapping_add(2)) };
    // SAFETY: bytes 96..128.
    let d = unsafe { _mm256_loadu_si256(lanes.wrapping_add(3)) };
    let sum = _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
    _mm256_testz_si256(sum, sum) == 1
}

/// The 16 bytes that begin at `depth`, or-ed with the 16 that end `depth` before the end.
///
/// # Safety
/// * (valid for reads) as for [`is_zero`].
/// * (length) `depth + 16 <= len`.
#[inline(always)]
unsafe fn ends(ptr: NonNull<u8>, len: usize, depth: usize) -> __m128i {
    // SAFETY: inside by (length).
    let front = unsafe { ptr.add(depth) };
    // SAFETY: inside by (length).
    let back = unsafe { ptr.add(len - depth - 16) };
    // SAFETY: 16 bytes follow by (length), and they are readable.
    let front = unsafe { _mm_loadu_si128(front.cast().as_ptr()) };
    // SAFETY: as above.
    let back = unsafe { _mm_loadu_si128(back.cast().as_ptr()) };
    or(front, back)
}

#[inline(always)]
fn or(a: __m128i, b: __m128i) -> __m128i {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_or_si128(a, b) }
}

#[inline(always)]
fn all_zero(value: __m128i) -> bool {
    // SAFETY: SSE2 is part of x86-64.
    let zeros = unsafe { _mm_setzero_si128() };
    // SAFETY: as above.
    let equal = unsafe { _mm_cmpeq_epi8(value, zeros) };
    // SAFETY: as above.
    unsafe { _mm_movemask_epi8(equal) == 0xFFFF }
}

#[cfg(test)]
mod tests {
    use core::ops::RangeInclusive;

    use super::*;
    use crate::wipe::tests::expect_checked;

    #[test]
    fn every_variant_matches_the_oracle() {
        for len in (128..=420).chain([1023, 1024, 1025]) {
            for shift in [0, 1, 31] {
                // SAFETY: the oracle hands over bytes that it owns.
                expect_checked(len, shift, |ptr, len| unsafe { is_zero_sse2(ptr, len) });
                if Features::get().has_avx2() {
                    // SAFETY: as above; AVX2 was found.
                    expect_checked(len, shift, |ptr, len| unsafe { is_zero_avx2(ptr, len) });
                }
                if len > INLINE_BYTES {
                    // SAFETY: as above.
                    expect_checked(len, shift, |ptr, len| unsafe { large_is_zero_slow(ptr, len) });
                }
            }
        }
    }

    /// Every size that a slot can have between these, at every place in a line that a granule can have.
    fn expect_checked_slots(sizes: RangeInclusive<usize>, check: impl Fn(NonNull<u8>, usize) -> bool) {
        for len in sizes.step_by(16) {
            for shift in [0, 16, 32, 48] {
                expect_checked(len, shift, &check);
            }
        }
    }

    #[test]
    fn mid_slots_match_the_oracle_without_wide_registers() {
        // SAFETY: the oracle hands over bytes that it owns.
        expect_checked_slots(64..=1040, |ptr, len| unsafe { mid_is_zero_sse2(ptr, len) });
        // SAFETY: as above.
        expect_checked_slots(64..=144, |ptr, len| unsafe { short_slot_is_zero(ptr, len) });
    }

    #[test]
    fn avx2_matches_the_oracle() {
        if Features::get().has_avx2() {
            // SAFETY: the oracle hands over bytes that it owns; AVX2 was found.
            expect_checked_slots(64..=528, |ptr, len| unsafe { avx2::seventeen(ptr, len) });
            // SAFETY: as above.
            expect_checked_slots(512..=1040, |ptr, len| unsafe { avx2::thirty_three(ptr, len) });
        }
    }

    #[test]
    fn avx512_matches_the_oracle() {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the oracle hands over bytes that it owns; AVX-512 was found.
            expect_checked_slots(64..=528, |ptr, len| unsafe { avx512::nine(ptr, len) });
            for len in (256..=700).chain([1023, 1024, 1025]) {
                for shift in [0, 1, 31, 63] {
                    // SAFETY: as above.
                    expect_checked(len, shift, |ptr, len| unsafe { avx512::lines(ptr, len) });
                }
            }
        }
    }
}
