//! The check by the 64-byte loads of AVX-512: of the slots between 144 and 528 bytes, and of large ones, where lines that
//! come from the second cache are looked at in 0.53 ns each (4 KiB, Zen 4), by loads of 32 bytes in 0.61.
//!
//! Registers are named and above 15: of these the processor keeps no upper halves that would slow down the code of
//! others, so no `vzeroupper` is due.

use core::arch::asm;
use core::ptr::NonNull;

/// Whether 64 to 528 bytes are all zero: nine loads, spread evenly.
///
/// # Safety
/// * (valid for reads) `ptr` is valid for reads of `len` bytes, which nobody writes meanwhile.
/// * (length) `64 <= len <= 528`, a multiple of 16.
/// * (AVX-512) the processor has AVX512F, and the operating system saves its registers.
#[inline(always)]
pub(super) unsafe fn nine(ptr: NonNull<u8>, len: usize) -> bool {
    let apart = (len - 64) / 8;
    let is_zero: u64;
    // SAFETY: at each of the multiples of `apart` up to 8 begin 64 bytes of the range, the last of them at the last by
    // (length), and no gap is between them, since `apart` is 58 at most.
    unsafe {
        asm!(
            "vmovdqu64 zmm16, [{p}]",
            "vporq zmm16, zmm16, [{p} + {d}]",
            "vporq zmm16, zmm16, [{p} + 2*{d}]",
            "lea {t}, [{d} + 2*{d}]",
            "vporq zmm16, zmm16, [{p} + 4*{d}]",
            "vporq zmm16, zmm16, [{p} + 2*{t}]",
            "vporq zmm16, zmm16, [{p} + 8*{d}]",
            "add {t}, {p}",
            "vporq zmm16, zmm16, [{t}]",
            "vporq zmm16, zmm16, [{t} + 2*{d}]",
            "vporq zmm16, zmm16, [{t} + 4*{d}]",
            "vptestmd k1, zmm16, zmm16",
            "xor {t:e}, {t:e}",
            "kortestw k1, k1",
            "sete {t:l}",
            p = in(reg) ptr.as_ptr(), d = in(reg) apart, t = out(reg) is_zero,
            out("zmm16") _, out("k1") _,
            options(nostack, readonly),
        );
    }
    is_zero != 0
}

/// Whether more than 256 bytes are all zero: the ends, and between them four aligned lines a step.
///
/// # Safety
/// * (valid for reads), (AVX-512) as for [`nine`].
/// * (length) `len >= 256`.
pub(super) unsafe fn lines(ptr: NonNull<u8>, len: usize) -> bool {
    let first = ptr.as_ptr();
    let last = first.wrapping_add(len).wrapping_sub(256);
    let is_zero: u64;
    // SAFETY: the first 64 and the last 256 bytes are inside by (length). The loop starts at the next multiple of 64 after
    // `first`, inside or at the end of these 64, and each of its steps of 256 begins below `last`; the last one ends
    // behind where the last 256 bytes begin.
    unsafe {
        asm!(
            "vmovdqu64 zmm16, [{p}]",
            "vmovdqu64 zmm17, [{l}]",
            "vporq zmm16, zmm16, [{l} + 64]",
            "vporq zmm17, zmm17, [{l} + 128]",
            "vporq zmm16, zmm16, [{l} + 192]",
            "add {p}, 64",
            "and {p}, -64",
            "jmp 3f",
            ".p2align 4",
            "2:",
            "vporq zmm16, zmm16, [{p}]",
            "vporq zmm17, zmm17, [{p} + 64]",
            "vporq zmm16, zmm16, [{p} + 128]",
            "vporq zmm17, zmm17, [{p} + 192]",
            "add {p}, 256",
            "3:",
            "cmp {p}, {l}",
            "jb 2b",
            "vporq zmm16, zmm16, zmm17",
            "vptestmd k1, zmm16, zmm16",
            "xor {p:e}, {p:e}",
            "kortestw k1, k1",
            "sete {p:l}",
            p = inout(reg) first => is_zero, l = in(reg) last,
            out("zmm16") _, out("zmm17") _, out("k1") _,
            options(nostack, readonly),
        );
    }
    is_zero != 0
}
