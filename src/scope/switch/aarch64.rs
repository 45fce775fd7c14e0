//! The switch on aarch64, AAPCS64.

use core::arch::naked_asm;

use super::Body;
use crate::scope::registers::Clear;

/// Stores the stack pointer to `outer_sp`, calls `body(data)` on the stack that ends at `top`, comes back,
/// gives FPCR its value from before, runs `clear`, and returns.
///
/// # Safety
///
/// - `top` is a multiple of 16, and below it is a stack of this thread that nothing runs on.
/// - `body` may be called with `data`.
/// - `clear` came from `registers::clear`.
/// - `outer_sp` is valid for a write.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn call_inside(
    top: *mut u8,
    data: *mut u8,
    body: Body,
    clear: Clear,
    outer_sp: *mut *mut u8,
) {
    naked_asm!(
        ".cfi_startproc",
        "stp x29, x30, [sp, #-32]!",
        ".cfi_def_cfa_offset 32",
        ".cfi_offset x29, -32",
        ".cfi_offset x30, -24",
        "mov x29, sp",
        ".cfi_def_cfa x29, 32",
        "str x19, [sp, #16]",
        ".cfi_offset x19, -16",
        "mrs x9, fpcr",
        "str x9, [sp, #24]",
        "mov x19, x3",
        "mov x9, sp",
        "str x9, [x4]",
        "mov sp, x0",
        "mov x0, x1",
        "blr x2",
        // x29 and x19 are preserved by `body`. The registers are cleared while still on the inner stack: a
        // signal between here and the end of `clear` makes the kernel store all of them below sp.
        "ldr x9, [x29, #24]",
        "msr fpcr, x9",
        "blr x19",
        "mov sp, x29",
        "ldr x19, [sp, #16]",
        ".cfi_restore x19",
        "ldp x29, x30, [sp], #32",
        ".cfi_def_cfa sp, 0",
        ".cfi_restore x29",
        ".cfi_restore x30",
        "ret",
        ".cfi_endproc",
    )
}

/// Calls `body(data)` on the stack that ends at `top`, as if from outside: no register shows it anything
/// of the scope. The preserved registers are kept on the stack that it was called on, and all others
/// cleared, before the switch.
///
/// # Safety
///
/// - `top` is a multiple of 16, and below it is a stack of this thread that nothing runs on.
/// - `body` may be called with `data`.
/// - `clear` came from `registers::clear`.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn call_outside(top: *mut u8, data: *mut u8, body: Body, clear: Clear) {
    naked_asm!(
        ".cfi_startproc",
        "stp x29, x30, [sp, #-160]!",
        ".cfi_def_cfa_offset 160",
        ".cfi_offset x29, -160",
        ".cfi_offset x30, -152",
        "mov x29, sp",
        ".cfi_def_cfa x29, 160",
        "stp x19, x20, [sp, #16]",
        ".cfi_offset x19, -144",
        ".cfi_offset x20, -136",
        "stp x21, x22, [sp, #32]",
        ".cfi_offset x21, -128",
        ".cfi_offset x22, -120",
        "stp x23, x24, [sp, #48]",
        ".cfi_offset x23, -112",
        ".cfi_offset x24, -104",
        "stp x25, x26, [sp, #64]",
        ".cfi_offset x25, -96",
        ".cfi_offset x26, -88",
        "stp x27, x28, [sp, #80]",
        ".cfi_offset x27, -80",
        ".cfi_offset x28, -72",
        "stp d8, d9, [sp, #96]",
        "stp d10, d11, [sp, #112]",
        "stp d12, d13, [sp, #128]",
        "stp d14, d15, [sp, #144]",
        "mov x19, x0",
        "mov x20, x1",
        "mov x21, x2",
        "mov x22, #0",
        "mov x23, #0",
        "mov x24, #0",
        "mov x25, #0",
        "mov x26, #0",
        "mov x27, #0",
        "mov x28, #0",
        "movi d8, #0",
        "movi d9, #0",
        "movi d10, #0",
        "movi d11, #0",
        "movi d12, #0",
        "movi d13, #0",
        "movi d14, #0",
        "movi d15, #0",
        "blr x3",
        "mov sp, x19",
        "mov x0, x20",
        "blr x21",
        "mov sp, x29",
        "ldp d14, d15, [sp, #144]",
        "ldp d12, d13, [sp, #128]",
        "ldp d10, d11, [sp, #112]",
        "ldp d8, d9, [sp, #96]",
        "ldp x27, x28, [sp, #80]",
        "ldp x25, x26, [sp, #64]",
        "ldp x23, x24, [sp, #48]",
        "ldp x21, x22, [sp, #32]",
        "ldp x19, x20, [sp, #16]",
        "ldp x29, x30, [sp], #160",
        ".cfi_def_cfa sp, 0",
        ".cfi_restore x29",
        ".cfi_restore x30",
        ".cfi_restore x19",
        ".cfi_restore x20",
        ".cfi_restore x21",
        ".cfi_restore x22",
        ".cfi_restore x23",
        ".cfi_restore x24",
        ".cfi_restore x25",
        ".cfi_restore x26",
        ".cfi_restore x27",
        ".cfi_restore x28",
        "ret",
        ".cfi_endproc",
    )
}
