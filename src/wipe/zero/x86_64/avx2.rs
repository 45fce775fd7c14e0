//! Zeroing by the 32-byte stores of AVX2.
//!
//! Registers are named and not allocated, since the vector registers that `vzeroupper` changes have to be
//! declared: by `clobber_abi`, which asks for that, or by `asm_avx2` where no other register should be lost.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "subtracts from lengths that (length) says are above that"
)]

use core::arch::asm;
use core::ptr::NonNull;

use crate::wipe::cpu::asm_avx2;

/// Zeroes `len` bytes: aligned steps of 128, and one step that may overlap at each end.
///
/// # Safety
/// * (valid for writes) `ptr` is valid for writes of `len` bytes, and nobody else accesses them meanwhile.
/// * (length) `len >= 128`.
/// * (AVX2) the processor has it, and the operating system saves its registers.
pub(super) unsafe fn zero(ptr: NonNull<u8>, len: usize) {
    let first = ptr.as_ptr();
    let last = first.wrapping_add(len).wrapping_sub(128);
    // SAFETY: the first 32 and the last 128 bytes are inside by (length). The loop starts at the next multiple
    // of 32 after `first`, inside or at the end of these 32, and each of its steps of 128 begins below
    // `last`. `vzeroupper` changes the upper halves of all vector registers, which `clobber_abi` declares.
    unsafe {
        asm!(
            "vpxor xmm0, xmm0, xmm0",
            "vmovdqu [rdi], ymm0",
            "add rdi, 32",
            "and rdi, -32",
            "jmp 3f",
            ".p2align 4",
            "2:",
            "vmovdqa [rdi], ymm0",
            "vmovdqa [rdi + 32], ymm0",
            "vmovdqa [rdi + 64], ymm0",
            "vmovdqa [rdi + 96], ymm0",
            "sub rdi, -128",
            "3:",
            "cmp rdi, rsi",
            "jb 2b",
            "vmovdqu [rsi], ymm0",
            "vmovdqu [rsi + 32], ymm0",
            "vmovdqu [rsi + 64], ymm0",
            "vmovdqu [rsi + 96], ymm0",
            "vzeroupper",
            inout("rdi") first => _,
            in("rsi") last,
            clobber_abi("C"),
            options(nostack),
        );
    }
}

/// The same by non-temporal stores of whole aligned lines; the ends are stored through the cache.
///
/// # Safety
/// * (valid for writes), (length) and (AVX2) as for [`zero`].
pub(super) unsafe fn stream(ptr: NonNull<u8>, len: usize) {
    let first = ptr.as_ptr();
    let last = first.wrapping_add(len).wrapping_sub(64);
    // SAFETY: the first and the last 64 bytes are inside by (length). The loop starts at the first multiple
    // of 64 from `first` on, inside or at the end of these 64, and each of its steps of 64 begins at or below
    // `last`. The registers are declared as in `zero`.
    unsafe {
        asm!(
            "vpxor xmm0, xmm0, xmm0",
            "vmovdqu [rdi], ymm0",
            "vmovdqu [rdi + 32], ymm0",
            "vmovdqu [rsi], ymm0",
            "vmovdqu [rsi + 32], ymm0",
            "add rdi, 63",
            "and rdi, -64",
            "jmp 3f",
            ".p2align 4",
            "2:",
            "vmovntdq [rdi], ymm0",
            "vmovntdq [rdi + 32], ymm0",
            "add rdi, 64",
            "3:",
            "cmp rdi, rsi",
            "jbe 2b",
            "vzeroupper",
            inout("rdi") first => _,
            in("rsi") last,
            clobber_abi("C"),
            options(nostack),
        );
    }
}

/// Zeroes 64 to 528 bytes: seventeen stores, spread evenly.
///
/// # Safety
/// * (valid for writes), (AVX2) as for [`zero`].
/// * (length) `64 <= len <= 528`, a multiple of 16.
#[inline(always)]
pub(super) unsafe fn seventeen(ptr: NonNull<u8>, len: usize) {
    let apart = (len - 32) / 16;
    // SAFETY: at each of the multiples of `apart` up to 16 begin 32 bytes of the range, the last of them at the last by
    // (length), and no gap is between them, since `apart` is 31 at most.
    unsafe {
        asm_avx2!(
            options(nostack, preserves_flags),
            "vpxor xmm0, xmm0, xmm0",
            "vmovdqu [{p}], ymm0",
            "vmovdqu [{p} + {d}], ymm0",
            "vmovdqu [{p} + 2*{d}], ymm0",
            "lea {t}, [{d} + 2*{d}]",
            "vmovdqu [{p} + 4*{d}], ymm0",
            "vmovdqu [{p} + 8*{d}], ymm0",
            "lea {q}, [{p} + {t}]",
            "vmovdqu [{p} + {t}], ymm0",
            "vmovdqu [{p} + 2*{t}], ymm0",
            "vmovdqu [{p} + 4*{t}], ymm0",
            "lea {r}, [{p} + 8*{d}]",
            "vmovdqu [{q} + 2*{d}], ymm0",
            "vmovdqu [{q} + 4*{d}], ymm0",
            "vmovdqu [{q} + 8*{d}], ymm0",
            "vmovdqu [{q} + 2*{t}], ymm0",
            "vmovdqu [{q} + 4*{t}], ymm0",
            "lea {q}, [{q} + 2*{d}]",
            "vmovdqu [{r} + 2*{d}], ymm0",
            "vmovdqu [{r} + 2*{t}], ymm0",
            "vmovdqu [{r} + 8*{d}], ymm0",
            "vmovdqu [{q} + 8*{d}], ymm0",
            "vzeroupper",
            p = in(reg) ptr.as_ptr(), d = in(reg) apart, t = out(reg) _, q = out(reg) _, r = out(reg) _,
        );
    }
}

/// Zeroes 512 to 1,056 bytes: sixteen stores from either end, and one in the middle.
///
/// # Safety
/// * (valid for writes), (AVX2) as for [`zero`].
/// * (length) `512 <= len <= 1056`.
#[inline(always)]
pub(super) unsafe fn thirty_three(ptr: NonNull<u8>, len: usize) {
    let last = len - 32;
    // SAFETY: by (length) 512 bytes from either end are inside, and the gap between them is 32 at most.
    unsafe {
        asm_avx2!(
            options(nostack, preserves_flags),
            "vpxor xmm0, xmm0, xmm0",
            "vmovdqu [{p}], ymm0",
            "vmovdqu [{p} + 32], ymm0",
            "vmovdqu [{p} + 64], ymm0",
            "vmovdqu [{p} + 96], ymm0",
            "vmovdqu [{p} + 128], ymm0",
            "vmovdqu [{p} + 160], ymm0",
            "vmovdqu [{p} + 192], ymm0",
            "vmovdqu [{p} + 224], ymm0",
            "vmovdqu [{p} + 256], ymm0",
            "vmovdqu [{p} + 288], ymm0",
            "vmovdqu [{p} + 320], ymm0",
            "vmovdqu [{p} + 352], ymm0",
            "vmovdqu [{p} + 384], ymm0",
            "vmovdqu [{p} + 416], ymm0",
            "vmovdqu [{p} + 448], ymm0",
            "vmovdqu [{p} + 480], ymm0",
            "vmovdqu [{p} + {m}], ymm0",
            "vmovdqu [{p} + {l} - 480], ymm0",
            "vmovdqu [{p} + {l} - 448], ymm0",
            "vmovdqu [{p} + {l} - 416], ymm0",
            "vmovdqu [{p} + {l} - 384], ymm0",
            "vmovdqu [{p} + {l} - 352], ymm0",
            "vmovdqu [{p} + {l} - 320], ymm0",
            "vmovdqu [{p} + {l} - 288], ymm0",
            "vmovdqu [{p} + {l} - 256], ymm0",
            "vmovdqu [{p} + {l} - 224], ymm0",
            "vmovdqu [{p} + {l} - 192], ymm0",
            "vmovdqu [{p} + {l} - 160], ymm0",
            "vmovdqu [{p} + {l} - 128], ymm0",
            "vmovdqu [{p} + {l} - 96], ymm0",
            "vmovdqu [{p} + {l} - 64], ymm0",
            "vmovdqu [{p} + {l} - 32], ymm0",
            "vmovdqu [{p} + {l}], ymm0",
            "vzeroupper",
            p = in(reg) ptr.as_ptr(), m = in(reg) last / 2, l = in(reg) last,
        );
    }
}
