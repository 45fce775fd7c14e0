//! The check of mid slots by the 32-byte loads of AVX2.
//!
//! Registers are named, since `vzeroupper` changes all of them (`asm_avx2`).

use core::ptr::NonNull;

use crate::wipe::cpu::asm_avx2;

/// Whether 64 to 528 bytes are all zero: seventeen loads, spread evenly.
///
/// # Safety
/// * (valid for reads) `ptr` is valid for reads of `len` bytes, which nobody writes meanwhile.
/// * (AVX2) the processor has it, and the operating system saves its registers.
/// * (length) `64 <= len <= 528`, a multiple of 16.
#[inline(always)]
pub(super) unsafe fn seventeen(ptr: NonNull<u8>, len: usize) -> bool {
    let apart = (len - 32) / 16;
    let is_zero: u64;
    // SAFETY: at each of the multiples of `apart` up to 16 begin 32 bytes of the range, the last of them at the last by
    // (length), and no gap is between them, since `apart` is 31 at most.
    unsafe {
        asm_avx2!(
            options(nostack, readonly),
            "vmovdqu ymm0, [{p}]",
            "vmovdqu ymm1, [{p} + {d}]",
            "vpor ymm0, ymm0, [{p} + 2*{d}]",
            "lea {t}, [{d} + 2*{d}]",
            "vpor ymm1, ymm1, [{p} + 4*{d}]",
            "vpor ymm0, ymm0, [{p} + 8*{d}]",
            "lea {q}, [{p} + {t}]",
            "vpor ymm1, ymm1, [{p} + {t}]",
            "vpor ymm0, ymm0, [{p} + 2*{t}]",
            "vpor ymm1, ymm1, [{p} + 4*{t}]",
            "lea {r}, [{p} + 8*{d}]",
            "vpor ymm0, ymm0, [{q} + 2*{d}]",
            "vpor ymm1, ymm1, [{q} + 4*{d}]",
            "vpor ymm0, ymm0, [{q} + 8*{d}]",
            "vpor ymm1, ymm1, [{q} + 2*{t}]",
            "vpor ymm0, ymm0, [{q} + 4*{t}]",
            "lea {q}, [{q} + 2*{d}]",
            "vpor ymm1, ymm1, [{r} + 2*{d}]",
            "vpor ymm0, ymm0, [{r} + 2*{t}]",
            "vpor ymm1, ymm1, [{r} + 8*{d}]",
            "vpor ymm0, ymm0, [{q} + 8*{d}]",
            "vpor ymm0, ymm0, ymm1",
            "xor {t:e}, {t:e}",
            "vptest ymm0, ymm0",
            "vzeroupper",
            "sete {t:l}",
            p = in(reg) ptr.as_ptr(), d = in(reg) apart, t = out(reg) is_zero, q = out(reg) _, r = out(reg) _,
        );
    }
    is_zero != 0
}

/// Whether 512 to 1,056 bytes are all zero: sixteen loads from either end, and one in the middle.
///
/// # Safety
/// * (valid for reads), (AVX2) as for [`seventeen`].
/// * (length) `512 <= len <= 1056`.
#[inline(always)]
pub(super) unsafe fn thirty_three(ptr: NonNull<u8>, len: usize) -> bool {
    let last = len - 32;
    let is_zero: u64;
    // SAFETY: by (length) 512 bytes from either end are inside, and the gap between them is 32 at most.
    unsafe {
        asm_avx2!(
            options(nostack, readonly),
            "vmovdqu ymm0, [{p}]",
            "vmovdqu ymm1, [{p} + 32]",
            "vpor ymm0, ymm0, [{p} + 64]",
            "vpor ymm1, ymm1, [{p} + 96]",
            "vpor ymm0, ymm0, [{p} + 128]",
            "vpor ymm1, ymm1, [{p} + 160]",
            "vpor ymm0, ymm0, [{p} + 192]",
            "vpor ymm1, ymm1, [{p} + 224]",
            "vpor ymm0, ymm0, [{p} + 256]",
            "vpor ymm1, ymm1, [{p} + 288]",
            "vpor ymm0, ymm0, [{p} + 320]",
            "vpor ymm1, ymm1, [{p} + 352]",
            "vpor ymm0, ymm0, [{p} + 384]",
            "vpor ymm1, ymm1, [{p} + 416]",
            "vpor ymm0, ymm0, [{p} + 448]",
            "vpor ymm1, ymm1, [{p} + 480]",
            "vpor ymm0, ymm0, [{p} + {m}]",
            "vpor ymm1, ymm1, [{p} + {l} - 480]",
            "vpor ymm0, ymm0, [{p} + {l} - 448]",
            "vpor ymm1, ymm1, [{p} + {l} - 416]",
            "vpor ymm0, ymm0, [{p} + {l} - 384]",
            "vpor ymm1, ymm1, [{p} + {l} - 352]",
            "vpor ymm0, ymm0, [{p} + {l} - 320]",
            "vpor ymm1, ymm1, [{p} + {l} - 288]",
            "vpor ymm0, ymm0, [{p} + {l} - 256]",
            "vpor ymm1, ymm1, [{p} + {l} - 224]",
            "vpor ymm0, ymm0, [{p} + {l} - 192]",
            "vpor ymm1, ymm1, [{p} + {l} - 160]",
            "vpor ymm0, ymm0, [{p} + {l} - 128]",
            "vpor ymm1, ymm1, [{p} + {l} - 96]",
            "vpor ymm0, ymm0, [{p} + {l} - 64]",
            "vpor ymm1, ymm1, [{p} + {l} - 32]",
            "vpor ymm0, ymm0, [{p} + {l}]",
            "vpor ymm0, ymm0, ymm1",
            "xor {z:e}, {z:e}",
            "vptest ymm0, ymm0",
            "vzeroupper",
            "sete {z:l}",
            p = in(reg) ptr.as_ptr(), m = in(reg) last / 2, l = in(reg) last, z = out(reg) is_zero,
        );
    }
    is_zero != 0
}
