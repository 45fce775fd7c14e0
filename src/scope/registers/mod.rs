//! Clearing the registers: every one that the calling convention lets a function leave dirty.
//!
//! A function returns with whatever it computed last still in the vector registers, in the mask registers
//! and in the integer registers that belong to its caller's caller. [`clear`] answers with the routine
//! that zeroes all of them on this processor; [`switch`](super::switch) calls it before it returns to
//! compiled code. Registers that a function must preserve hold the caller's own values by then, and stay.

// UNSAFETY: the routines are naked functions, written in assembly.
#![expect(unsafe_code, reason = "naked functions, see UNSAFETY above")]

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
use aarch64 as machine;

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
use x86_64 as machine;

#[cfg(test)]
mod tests;

/// A routine that zeroes registers. It follows the C calling convention, uses no memory but its return
/// address and changes none but the registers that the convention lets a callee change.
pub(crate) type Clear = unsafe extern "C" fn();

/// What a scope clears, chosen once by what the processor and the operating system offer. Always with it:
/// the integer registers, and on x86-64 those of x87 and MMX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Registers {
    /// x86-64: xmm0 to xmm15.
    Sse,
    /// x86-64: ymm0 to ymm15.
    Avx,
    /// x86-64: zmm0 to zmm31 and the mask registers k0 to k7.
    Avx512,
    /// x86-64: the same, and the AMX tiles where they are in use.
    Amx,
    /// aarch64: v0 to v31.
    Neon,
    /// aarch64: the same at their full SVE length, the predicates and the first-fault register.
    Sve,
}

/// What is cleared on this processor.
pub(crate) fn level() -> Registers {
    machine::level()
}

/// The routine for this processor, chosen at the first call by what the processor and the operating system
/// offer.
#[inline(always)]
pub(crate) fn clear() -> Clear {
    machine::clear()
}
