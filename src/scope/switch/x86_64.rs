//! The switch on x86-64, System V ABI.

use core::arch::naked_asm;

use super::Body;
use crate::scope::registers::Clear;

/// Stores the stack pointer to `outer_sp`, calls `body(data)` on the stack that ends at `top`, comes back,
/// gives mxcsr and the x87 control word their values from before, runs `clear`, and returns.
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
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "push rbx",
        ".cfi_offset rbx, -24",
        "sub rsp, 8",
        "stmxcsr dword ptr [rsp]",
        "fnstcw word ptr [rsp + 4]",
        "mov rbx, rcx",
        "mov qword ptr [r8], rsp",
        "mov rsp, rdi",
        "mov rdi, rsi",
        "call rdx",
        // rbp and rbx are preserved by `body`. The registers are cleared while still on the inner stack: a
        // signal between here and the end of `clear` makes the kernel store all of them below rsp.
        "ldmxcsr dword ptr [rbp - 16]",
        "fldcw word ptr [rbp - 12]",
        "call rbx",
        "mov rbx, qword ptr [rbp - 8]",
        ".cfi_restore rbx",
        "leave",
        ".cfi_def_cfa rsp, 8",
        ".cfi_restore rbp",
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
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "push rbx",
        ".cfi_offset rbx, -24",
        "push r12",
        ".cfi_offset r12, -32",
        "push r13",
        ".cfi_offset r13, -40",
        "push r14",
        ".cfi_offset r14, -48",
        "push r15",
        ".cfi_offset r15, -56",
        "sub rsp, 8",
        "mov rbx, rdi",
        "mov r12, rsi",
        "mov r13, rdx",
        "xor r14d, r14d",
        "xor r15d, r15d",
        "call rcx",
        "mov rsp, rbx",
        "mov rdi, r12",
        "call r13",
        "lea rsp, [rbp - 40]",
        "pop r15",
        ".cfi_restore r15",
        "pop r14",
        ".cfi_restore r14",
        "pop r13",
        ".cfi_restore r13",
        "pop r12",
        ".cfi_restore r12",
        "pop rbx",
        ".cfi_restore rbx",
        "pop rbp",
        ".cfi_restore rbp",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
    )
}
