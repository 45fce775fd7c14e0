//! Zeroing by the 16-byte stores that every x86-64 processor has.

use core::arch::asm;
use core::ptr::NonNull;

use super::zeros;

/// Zeroes `len` bytes: aligned steps of 64, and one step that may overlap at each end.
///
/// # Safety
/// * (valid for writes) `ptr` is valid for writes of `len` bytes, and nobody else accesses them meanwhile.
/// * (length) `len >= 64`.
pub(super) unsafe fn zero(ptr: NonNull<u8>, len: usize) {
    let first = ptr.as_ptr();
    let last = first.wrapping_add(len).wrapping_sub(64);
    // SAFETY: the first 16 and the last 64 bytes are inside by (length). The loop starts at the next multiple
    // of 16 after `first`, inside or at the end of these 16, and each of its steps of 64 begins below `last`.
    unsafe {
        asm!(
            "movups [{p}], {z}",
            "add {p}, 16",
            "and {p}, -16",
            "jmp 3f",
            ".p2align 4",
            "2:",
            "movaps [{p}], {z}",
            "movaps [{p} + 16], {z}",
            "movaps [{p} + 32], {z}",
            "movaps [{p} + 48], {z}",
            "add {p}, 64",
            "3:",
            "cmp {p}, {last}",
            "jb 2b",
            "movups [{last}], {z}",
            "movups [{last} + 16], {z}",
            "movups [{last} + 32], {z}",
            "movups [{last} + 48], {z}",
            p = inout(reg) first => _,
            last = in(reg) last,
            z = in(xmm_reg) zeros(),
            options(nostack),
        );
    }
}

/// The same by non-temporal stores of whole aligned lines; the ends are stored through the cache.
///
/// # Safety
/// * (valid for writes) and (length) as for [`zero`].
pub(super) unsafe fn stream(ptr: NonNull<u8>, len: usize) {
    let first = ptr.as_ptr();
    let last = first.wrapping_add(len).wrapping_sub(64);
    // SAFETY: the first and the last 64 bytes are inside by (length). The loop starts at the first multiple
    // of 64 from `first` on, inside or at the end of these 64, and each of its steps of 64 begins at or below `last`.
    unsafe {
        asm!(
            "movups [{p}], {z}",
            "movups [{p} + 16], {z}",
            "movups [{p} + 32], {z}",
            "movups [{p} + 48], {z}",
            "movups [{last}], {z}",
            "movups [{last} + 16], {z}",
            "movups [{last} + 32], {z}",
            "movups [{last} + 48], {z}",
            "add {p}, 63",
            "and {p}, -64",
            "jmp 3f",
            ".p2align 4",
            "2:",
            "movntdq [{p}], {z}",
            "movntdq [{p} + 16], {z}",
            "movntdq [{p} + 32], {z}",
            "movntdq [{p} + 48], {z}",
            "add {p}, 64",
            "3:",
            "cmp {p}, {last}",
            "jbe 2b",
            p = inout(reg) first => _,
            last = in(reg) last,
            z = in(xmm_reg) zeros(),
            options(nostack),
        );
    }
}
