//! The compiler barrier, and nothing else.

use core::ptr::NonNull;

/// After this the compiler has to assume that the memory at `ptr` was read: no write before it can be
/// removed as dead. It is no instruction.
///
/// Inline assembly without `nomem` "may read or write to memory" that it can reach (Rust Reference 1.95,
/// *Inline assembly*, options), and a pointer handed to it is what makes the memory reachable.
#[cfg(not(miri))]
#[inline(always)]
pub(super) fn barrier(ptr: NonNull<u8>) {
    // SAFETY: the template is only a comment, so no register, flag or byte of memory changes.
    unsafe { core::arch::asm!("/* {} */", in(reg) ptr.as_ptr(), options(nostack, preserves_flags)) };
}

/// Miri runs no assembly and removes no write either.
#[cfg(miri)]
pub(super) fn barrier(ptr: NonNull<u8>) {
    core::hint::black_box(ptr);
}
