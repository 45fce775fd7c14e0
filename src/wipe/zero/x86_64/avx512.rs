//! Zeroing of the slots between 144 and 528 bytes by the 64-byte stores of AVX-512.
//!
//! Registers are named and above 15: of these the processor keeps no upper halves that would slow down the code of
//! others, so no `vzeroupper` is due.

#![expect(clippy::arithmetic_side_effects, reason = "the length is 64 at least: (length) of every function")]

use core::arch::asm;
use core::ptr::NonNull;

/// Zeroes 144 to 528 bytes: one store at either end, and between them one for each of seven lines. Lines that the
/// range does not have are its last.
///
/// # Safety
/// * (valid for writes) `ptr` is valid for writes of `len` bytes, and nobody else accesses them meanwhile.
/// * (granules) `ptr` and `len` are multiples of 16.
/// * (length) `144 <= len <= 528`.
/// * (AVX-512) the processor has AVX512F, and the operating system saves its registers.
#[inline(always)]
pub(super) unsafe fn nine(ptr: NonNull<u8>, len: usize) {
    // SAFETY: the first line that begins behind `ptr` does so after 16 bytes at least, by (granules), and 64 at most;
    // the last one that ends in the range begins 127 bytes before the end at most. By (length) both are in the range,
    // and every store between goes to a line not above the last. Seven lines and the ends reach 16 + 7 * 64 + 64 = 528
    // bytes at least.
    unsafe {
        asm!(
            "vpxord zmm16, zmm16, zmm16",
            "vmovdqu64 [{p}], zmm16",
            "vmovdqu64 [{p} + {l}], zmm16",
            "lea {c}, [{p} + {l}]",
            "and {c}, -64",
            "lea {a}, [{p} + 64]",
            "and {a}, -64",
            "vmovdqa64 [{a}], zmm16",
            "lea {t}, [{a} + 64]",
            "cmp {t}, {c}",
            "cmova {t}, {c}",
            "vmovdqa64 [{t}], zmm16",
            "lea {t}, [{a} + 128]",
            "cmp {t}, {c}",
            "cmova {t}, {c}",
            "vmovdqa64 [{t}], zmm16",
            "lea {t}, [{a} + 192]",
            "cmp {t}, {c}",
            "cmova {t}, {c}",
            "vmovdqa64 [{t}], zmm16",
            "lea {t}, [{a} + 256]",
            "cmp {t}, {c}",
            "cmova {t}, {c}",
            "vmovdqa64 [{t}], zmm16",
            "lea {t}, [{a} + 320]",
            "cmp {t}, {c}",
            "cmova {t}, {c}",
            "vmovdqa64 [{t}], zmm16",
            "lea {t}, [{a} + 384]",
            "cmp {t}, {c}",
            "cmova {t}, {c}",
            "vmovdqa64 [{t}], zmm16",
            p = in(reg) ptr.as_ptr(), l = in(reg) len - 64,
            a = out(reg) _, c = out(reg) _, t = out(reg) _,
            out("zmm16") _,
            options(nostack),
        );
    }
}
