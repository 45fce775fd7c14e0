//! Zeroing on x86-64. Every store is inline assembly: the compiler can neither drop it as dead nor turn
//! it into a call of `memset`.
//!
//! ```text
//! 1..=15    two overlapping stores of 8, 4, 2 or 1 bytes
//! 16..=256  2, 4, 8 or 16 overlapping stores of 16 bytes, from both ends inwards
//! 257..     out of line: a loop of 32-byte stores (AVX2) or 16-byte stores (SSE2)
//! 16 MiB..  out of line: the same, non-temporal
//! ```
//!
//! Short and mid slots, 80 to 1,040 bytes, come in random sizes: a loop ends wrongly predicted at nearly every one. They
//! are zeroed by as many stores as the longest slot of a group (up to 144, 528 and 1,040 bytes) needs, which overlap in
//! shorter ones, without a branch. In the first group they are granules, so that what is stored is what the check loads
//! soon after, and can be handed over before it reaches the cache. In the others they are 32 bytes long, and in the group
//! between, where that is faster, 64 if the processor has AVX-512. `docs/mitigations/flush.md` has the figures.
//!
//! Measured on Zen 4: 512 bits are no faster than 256, `rep stosb` is slower below 30 KiB and equal above,
//! and non-temporal stores win from 16 MiB on if the range is not cached (291 against 600 us) and lose
//! little if it is (282 against 230 us).

mod avx2;
mod avx512;
mod sse2;

use core::arch::asm;
use core::arch::x86_64::{__m128i, _mm_setzero_si128};
use core::ptr::NonNull;

use crate::wipe::cpu::Features;

/// The longest range that is zeroed without a call.
const INLINE_BYTES: usize = 256;

/// From here on zeroing goes around the caches.
const STREAM_BYTES: usize = 16 << 20;

/// Zeroes `len` bytes at `ptr`, at any alignment. No flush.
///
/// # Safety
/// * (valid for writes) `ptr` is valid for writes of `len` bytes, and nobody else accesses them meanwhile.
#[inline]
pub(crate) unsafe fn zero(ptr: NonNull<u8>, len: usize) {
    if len < 16 {
        // SAFETY: (valid for writes) is forwarded, the length is checked.
        unsafe { zero_tiny(ptr, len) };
    } else if len <= INLINE_BYTES {
        // SAFETY: (valid for writes) is forwarded, the length is checked.
        unsafe { zero_small(ptr, len) };
    } else {
        // SAFETY: (valid for writes) is forwarded, the length is checked.
        unsafe { zero_large(ptr, len) };
    }
}

/// Zeroes a slot of granules: no call up to 256 bytes, and no branch at all when `len` is a constant.
///
/// # Safety
/// * (valid for writes) as for [`zero`].
/// * (granules) `ptr` is aligned to 16 bytes, and `len` is a multiple of 16 and not zero.
#[inline(always)]
pub(crate) unsafe fn zero_slot(ptr: NonNull<u8>, len: usize) {
    if len <= INLINE_BYTES {
        // SAFETY: (valid for writes) is forwarded; by (granules) the length is 16 at least.
        unsafe { zero_small(ptr, len) };
    } else {
        // SAFETY: (valid for writes) is forwarded, the length is checked.
        unsafe { zero_large(ptr, len) };
    }
}

/// Zeroes a slot of 32 to 64 bytes without a branch: four stores that meet or overlap.
///
/// # Safety
/// * (valid for writes) as for [`zero`].
/// * (length) `32 <= len <= 64`.
#[inline(always)]
pub(crate) unsafe fn zero_small_slot(ptr: NonNull<u8>, len: usize) {
    // SAFETY: by (length) 32 bytes from either end are inside; (valid for writes) is forwarded.
    unsafe {
        asm!("movups [{p}], {z}", "movups [{p} + 16], {z}", "movups [{p} + {l} - 32], {z}", "movups [{p} + {l} - 16], {z}",
             p = in(reg) ptr.as_ptr(), l = in(reg) len, z = in(xmm_reg) zeros(), options(nostack, preserves_flags));
    }
}

/// Zeroes a slot of 80 to 144 bytes without a branch: four granules from either end, and one in the middle.
///
/// # Safety
/// * (valid for writes) as for [`zero`].
/// * (granules) as for [`zero_slot`].
/// * (length) `64 <= len <= 144`.
#[inline(always)]
pub(crate) unsafe fn zero_short_slot(ptr: NonNull<u8>, len: usize) {
    // SAFETY: by (length) 64 bytes from either end are inside. What is between them is 16 bytes at most, and starts, rounded
    // down to a granule, at the middle. (valid for writes) is forwarded.
    unsafe {
        asm!("movups [{p}], {z}", "movups [{p} + 16], {z}", "movups [{p} + 32], {z}", "movups [{p} + 48], {z}",
             "movups [{p} + {m}], {z}", "movups [{p} + {l} - 64], {z}", "movups [{p} + {l} - 48], {z}",
             "movups [{p} + {l} - 32], {z}", "movups [{p} + {l} - 16], {z}",
             p = in(reg) ptr.as_ptr(), l = in(reg) len, m = in(reg) (len / 2) & !15, z = in(xmm_reg) zeros(),
             options(nostack, preserves_flags));
    }
}

/// Zeroes a slot of 176 to 1,040 bytes: no call.
///
/// # Safety
/// * (valid for writes) as for [`zero`].
/// * (granules) as for [`zero_slot`].
/// * (length) `144 <= len <= 1040`.
#[inline(always)]
pub(crate) unsafe fn zero_mid_slot(ptr: NonNull<u8>, len: usize) {
    let features = Features::seen();
    if features.has_avx2() {
        if len > 528 {
            // SAFETY: the processor has AVX2, the length is checked; the rest is forwarded.
            unsafe { avx2::thirty_three(ptr, len) };
        } else if features.has_fast_avx512() {
            // SAFETY: the processor has AVX-512; the rest as above.
            unsafe { avx512::nine(ptr, len) };
        } else {
            // SAFETY: as above.
            unsafe { avx2::seventeen(ptr, len) };
        }
    } else {
        // SAFETY: all is forwarded.
        unsafe { zero_mid_sse2(ptr, len) };
    }
}

/// # Safety
/// * (valid for writes) as for [`zero`].
/// * (length) `len >= 64`.
#[inline(always)]
unsafe fn zero_mid_sse2(ptr: NonNull<u8>, len: usize) {
    let last = ptr.as_ptr().wrapping_add(len).wrapping_sub(64);
    let z = zeros();
    // SAFETY: (length): the last 64 bytes; (valid for writes) is forwarded.
    unsafe { zero_64(last, z) };
    let mut at = ptr.as_ptr();
    while at < last {
        // SAFETY: below `last`, where 64 bytes begin.
        unsafe { zero_64(at, z) };
        at = at.wrapping_add(64);
    }
}

/// # Safety
/// * (valid for writes) as for [`zero`], of 64 bytes.
#[inline(always)]
unsafe fn zero_64(at: *mut u8, z: __m128i) {
    // SAFETY: (valid for writes) is forwarded.
    unsafe {
        asm!("movups [{p}], {z}", "movups [{p} + 16], {z}", "movups [{p} + 32], {z}", "movups [{p} + 48], {z}",
             p = in(reg) at, z = in(xmm_reg) z, options(nostack, preserves_flags));
    }
}

/// Stores four bytes at any alignment, not before anything that was stored earlier. Where they overlap bytes that
/// another thread reads, they are what these bytes are already; so it is one store, and none that a compiler could
/// take apart.
///
/// # Safety
/// * (valid for writes) as for [`zero`], of four bytes from `offset` on, but for such readers.
#[inline(always)]
pub(crate) unsafe fn store_marker(ptr: NonNull<u8>, offset: usize, marker: u32) {
    // SAFETY: (valid for writes) is forwarded.
    unsafe {
        asm!("mov [{p} + {o}], {m:e}", p = in(reg) ptr.as_ptr(), o = in(reg) offset, m = in(reg) marker,
             options(nostack, preserves_flags));
    }
}

/// Zeroes 16 to 256 bytes. Each step covers twice what the one before it could: the stores from the front
/// and those from the back meet or overlap.
///
/// # Safety
/// * (valid for writes) as for [`zero`].
/// * (length) `16 <= len <= 256`.
#[inline(always)]
unsafe fn zero_small(ptr: NonNull<u8>, len: usize) {
    let first = ptr.as_ptr();
    let end = first.wrapping_add(len);
    let z = zeros();
    // SAFETY: by (length) both stores are inside; (valid for writes) is forwarded.
    unsafe {
        asm!("movups [{p}], {z}", "movups [{e} - 16], {z}",
             p = in(reg) first, e = in(reg) end, z = in(xmm_reg) z, options(nostack, preserves_flags));
    }
    if len <= 32 {
        return;
    }
    // SAFETY: more than 32 bytes: 16..32 from either end is inside.
    unsafe {
        asm!("movups [{p} + 16], {z}", "movups [{e} - 32], {z}",
             p = in(reg) first, e = in(reg) end, z = in(xmm_reg) z, options(nostack, preserves_flags));
    }
    if len <= 64 {
        return;
    }
    // SAFETY: more than 64 bytes: 32..64 from either end is inside.
    unsafe {
        asm!("movups [{p} + 32], {z}", "movups [{p} + 48], {z}",
             "movups [{e} - 64], {z}", "movups [{e} - 48], {z}",
             p = in(reg) first, e = in(reg) end, z = in(xmm_reg) z, options(nostack, preserves_flags));
    }
    if len <= 128 {
        return;
    }
    // SAFETY: more than 128 bytes: 64..128 from either end is inside.
    unsafe {
        asm!("movups [{p} + 64], {z}", "movups [{p} + 80], {z}", "movups [{p} + 96], {z}",
             "movups [{p} + 112], {z}", "movups [{e} - 128], {z}", "movups [{e} - 112], {z}",
             "movups [{e} - 96], {z}", "movups [{e} - 80], {z}",
             p = in(reg) first, e = in(reg) end, z = in(xmm_reg) z, options(nostack, preserves_flags));
    }
}

/// Zeroes fewer than 16 bytes.
///
/// # Safety
/// * (valid for writes) as for [`zero`].
/// * (length) `len < 16`.
#[inline]
unsafe fn zero_tiny(ptr: NonNull<u8>, len: usize) {
    let first = ptr.as_ptr();
    let end = first.wrapping_add(len);
    if len >= 8 {
        // SAFETY: 8 bytes from either end are inside.
        unsafe {
            asm!("mov [{p}], {z}", "mov [{e} - 8], {z}",
                 p = in(reg) first, e = in(reg) end, z = in(reg) 0_u64, options(nostack, preserves_flags));
        }
    } else if len >= 4 {
        // SAFETY: 4 bytes from either end are inside.
        unsafe {
            asm!("mov [{p}], {z:e}", "mov [{e} - 4], {z:e}",
                 p = in(reg) first, e = in(reg) end, z = in(reg) 0_u32, options(nostack, preserves_flags));
        }
    } else if len >= 2 {
        // SAFETY: 2 bytes from either end are inside.
        unsafe {
            asm!("mov [{p}], {z:x}", "mov [{e} - 2], {z:x}",
                 p = in(reg) first, e = in(reg) end, z = in(reg) 0_u16, options(nostack, preserves_flags));
        }
    } else if len == 1 {
        // SAFETY: one byte, as (valid for writes) says.
        unsafe {
            asm!("mov byte ptr [{p}], 0", p = in(reg) first, options(nostack, preserves_flags));
        }
    }
}

/// Zeroes more than 256 bytes.
///
/// # Safety
/// * (valid for writes) as for [`zero`].
/// * (length) `len > 256`.
#[inline(never)]
unsafe fn zero_large(ptr: NonNull<u8>, len: usize) {
    if len < STREAM_BYTES && Features::seen().has_avx2() {
        // SAFETY: the processor has AVX2; the rest is forwarded.
        unsafe { avx2::zero(ptr, len) };
    } else {
        // SAFETY: all is forwarded.
        unsafe { zero_large_slow(ptr, len) };
    }
}

/// The first time, processors without AVX2, and huge ranges.
///
/// # Safety
/// * (valid for writes), (length) as for [`zero_large`].
#[cold]
#[inline(never)]
unsafe fn zero_large_slow(ptr: NonNull<u8>, len: usize) {
    if len >= STREAM_BYTES {
        // SAFETY: all is forwarded.
        unsafe { stream(ptr, len) };
        // Other threads may be told of this memory by the next store, which streamed ones do not wait for.
        // SAFETY: a fence changes nothing.
        unsafe { asm!("sfence", options(nostack, preserves_flags)) };
    } else if Features::get().has_avx2() {
        // SAFETY: the processor has AVX2; the rest is forwarded.
        unsafe { avx2::zero(ptr, len) };
    } else {
        // SAFETY: all is forwarded.
        unsafe { sse2::zero(ptr, len) };
    }
}

/// Zeroes at least 256 bytes by non-temporal stores, which go around the caches. Not ordered with anything
/// until a fence. The lines that hold the first and the last byte may be stored through the cache.
///
/// # Safety
/// * (valid for writes) as for [`zero`].
/// * (length) `len >= 256`.
pub(in crate::wipe) unsafe fn stream(ptr: NonNull<u8>, len: usize) {
    if Features::get().has_avx2() {
        // SAFETY: AVX2 was just found; the rest is forwarded.
        unsafe { avx2::stream(ptr, len) };
    } else {
        // SAFETY: all is forwarded.
        unsafe { sse2::stream(ptr, len) };
    }
}

/// A register of zeros.
#[inline(always)]
pub(in crate::wipe) fn zeros() -> __m128i {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_setzero_si128() }
}

#[cfg(test)]
mod tests {
    use core::ops::RangeInclusive;

    use super::*;
    use crate::wipe::tests::{expect_zeroed, expect_zeroed_at_every_size};

    #[test]
    fn sse2_matches_the_oracle() {
        // SAFETY: the oracle hands over bytes that it owns.
        expect_zeroed_at_every_size(64, |ptr, len| unsafe { sse2::zero(ptr, len) });
        // SAFETY: as above.
        expect_zeroed_at_every_size(64, |ptr, len| unsafe { sse2::stream(ptr, len) });
    }

    #[test]
    fn avx2_matches_the_oracle() {
        if Features::get().has_avx2() {
            // SAFETY: the oracle hands over bytes that it owns; AVX2 was found.
            expect_zeroed_at_every_size(128, |ptr, len| unsafe { avx2::zero(ptr, len) });
            // SAFETY: as above.
            expect_zeroed_at_every_size(128, |ptr, len| unsafe { avx2::stream(ptr, len) });
            // SAFETY: as above.
            expect_zeroed_slots(64..=528, |ptr, len| unsafe { avx2::seventeen(ptr, len) });
            // SAFETY: as above.
            expect_zeroed_slots(512..=1040, |ptr, len| unsafe { avx2::thirty_three(ptr, len) });
        }
    }

    /// Every size that a slot can have between these, at every place in a line that a granule can have.
    fn expect_zeroed_slots(sizes: RangeInclusive<usize>, zeroing: impl Fn(NonNull<u8>, usize)) {
        for len in sizes.step_by(16) {
            for shift in [0, 16, 32, 48] {
                expect_zeroed(len, shift, &zeroing);
            }
        }
    }

    #[test]
    fn mid_slots_match_the_oracle_without_wide_registers() {
        // SAFETY: the oracle hands over bytes that it owns.
        expect_zeroed_slots(64..=1040, |ptr, len| unsafe { zero_mid_sse2(ptr, len) });
        // SAFETY: as above.
        expect_zeroed_slots(64..=144, |ptr, len| unsafe { zero_short_slot(ptr, len) });
    }

    #[test]
    fn avx512_matches_the_oracle() {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the oracle hands over bytes that it owns; AVX-512 was found.
            expect_zeroed_slots(144..=528, |ptr, len| unsafe { avx512::nine(ptr, len) });
        }
    }

    #[test]
    fn the_slow_path_matches_the_oracle() {
        for len in [257, 1000, STREAM_BYTES] {
            // SAFETY: the oracle hands over bytes that it owns.
            expect_zeroed(len, 5, |ptr, len| unsafe { zero_large_slow(ptr, len) });
        }
    }
}
