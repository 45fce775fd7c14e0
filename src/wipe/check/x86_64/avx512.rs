//! The check of the slots between 144 and 528 bytes by the 64-byte loads of AVX-512.
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
