//! Zeroing by the 32-byte stores of AVX2.
//!
//! Registers are named and not allocated, since the vector registers that `vzeroupper` changes have to be
//! declared by `clobber_abi`, which asks for that.

use core::arch::asm;
use core::ptr::NonNull;

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
