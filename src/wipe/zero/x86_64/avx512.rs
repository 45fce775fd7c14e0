//! Zeroing of mid slots by the 64-byte stores of AVX-512.
//!
//! Registers are named and above 15: of these the processor keeps no upper halves that would slow down the code of
//! others, so no `vzeroupper` is due.

#![expect(clippy::arithmetic_side_effects, reason = "the length is 64 at least: (length) of every function")]

use core::arch::asm;
use core::ptr::NonNull;

/// Zeroes 64 to 144 bytes: three stores that meet or overlap.
///
/// # Safety
/// * (valid for writes) `ptr` is valid for writes of `len` bytes, and nobody else accesses them meanwhile.
/// * (length) `64 <= len <= 144`.
/// * (AVX-512) the processor has AVX512F, and the operating system saves its registers.
#[inline(always)]
pub(super) unsafe fn three(ptr: NonNull<u8>, len: usize) {
    let last = len - 64;
    // SAFETY: by (length) 64 bytes follow each of 0, `last` and what is between; they leave no gap, since `last` is 80
    // at most.
    unsafe {
        asm!(
            "vpxord zmm16, zmm16, zmm16",
            "vmovdqu64 [{p}], zmm16",
            "vmovdqu64 [{p} + {m}], zmm16",
            "vmovdqu64 [{p} + {l}], zmm16",
            p = in(reg) ptr.as_ptr(), m = in(reg) last / 2, l = in(reg) last,
            out("zmm16") _,
            options(nostack, preserves_flags),
        );
    }
}

/// Zeroes 144 to 528 bytes: one store at either end, and between them one for each of seven lines. Lines that the
/// range does not have are its last.
///
/// # Safety
/// * (valid for writes), (AVX-512) as for [`three`].
/// * (granules) `ptr` and `len` are multiples of 16.
/// * (length) `144 <= len <= 528`.
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

/// Zeroes 512 to 1,040 bytes: one store at either end, and between them one for each of sixteen lines, seven from
/// either end inwards and two in the middle, which are the last line where the range does not have them.
///
/// # Safety
/// * (valid for writes), (AVX-512) as for [`three`].
/// * (granules) as for [`nine`].
/// * (length) `512 <= len <= 1040`.
#[inline(always)]
pub(super) unsafe fn eighteen(ptr: NonNull<u8>, len: usize) {
    // SAFETY: the lines as in `nine`. By (length) seven lines from the first on end in the range, and seven from the
    // last one down begin in it. Those from the front reach 16 + 9 * 64 = 592 bytes at least, those from the back and
    // the store at the end 7 * 64 = 448.
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
            "vmovdqa64 [{a} + 64], zmm16",
            "vmovdqa64 [{a} + 128], zmm16",
            "vmovdqa64 [{a} + 192], zmm16",
            "vmovdqa64 [{a} + 256], zmm16",
            "vmovdqa64 [{a} + 320], zmm16",
            "vmovdqa64 [{a} + 384], zmm16",
            "lea {t}, [{a} + 448]",
            "cmp {t}, {c}",
            "cmova {t}, {c}",
            "vmovdqa64 [{t}], zmm16",
            "lea {t}, [{a} + 512]",
            "cmp {t}, {c}",
            "cmova {t}, {c}",
            "vmovdqa64 [{t}], zmm16",
            "vmovdqa64 [{c} - 384], zmm16",
            "vmovdqa64 [{c} - 320], zmm16",
            "vmovdqa64 [{c} - 256], zmm16",
            "vmovdqa64 [{c} - 192], zmm16",
            "vmovdqa64 [{c} - 128], zmm16",
            "vmovdqa64 [{c} - 64], zmm16",
            "vmovdqa64 [{c}], zmm16",
            p = in(reg) ptr.as_ptr(), l = in(reg) len - 64,
            a = out(reg) _, c = out(reg) _, t = out(reg) _,
            out("zmm16") _,
            options(nostack),
        );
    }
}
