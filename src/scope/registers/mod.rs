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

/// The routine for this processor, chosen at the first call by what the processor and the operating system
/// offer.
#[inline(always)]
pub(crate) fn clear() -> Clear {
    machine::clear()
}
