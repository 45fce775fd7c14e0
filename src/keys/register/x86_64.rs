//! PKRU: RDPKRU and WRPKRU, Intel SDM volume 2B.

// UNSAFETY: two instructions that no intrinsic gives.
#![expect(unsafe_code, reason = "reads and writes PKRU")]

use core::arch::asm;

/// Whether this code knows the register.
pub(in crate::keys) const IS_KNOWN: bool = true;

/// # Safety
///
/// - The system has enabled protection keys (CR4.PKE), as it has where it gave out a key.
#[inline(always)]
pub(super) unsafe fn read() -> u32 {
    let rights: u32;
    // SAFETY: RDPKRU with ECX 0 is defined where CR4.PKE is set, says the caller. It writes EAX and EDX only.
    // Not `pure`: what it gives changes with every `write`.
    unsafe {
        asm!("rdpkru", in("ecx") 0, lateout("eax") rights, lateout("edx") _,
            options(nomem, nostack, preserves_flags));
    }
    rights
}

/// The CPU executes no access that the register affects, not even ahead of time, before this is done; and
/// WRPKRU itself is never executed ahead of time (SDM, WRPKRU). Without `nomem` the compiler moves none either.
///
/// # Safety
///
/// - As for [`read`].
/// - This thread uses no reference into the pages of a key while it has no right to them.
#[inline(always)]
pub(super) unsafe fn write(rights: u32) {
    // SAFETY: WRPKRU with ECX and EDX 0 is defined where CR4.PKE is set, and the caller answers for references.
    unsafe {
        asm!("wrpkru", in("eax") rights, in("ecx") 0, in("edx") 0, options(nostack, preserves_flags));
    }
}
