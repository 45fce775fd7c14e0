//! Where we know of no such register. No key can be had, so neither is ever called.

// UNSAFETY: nothing but the signatures of the other twin.
#![expect(unsafe_code, reason = "has the signatures of its twin")]

/// Whether this code knows the register.
pub(in crate::keys) const IS_KNOWN: bool = false;

/// # Safety
///
/// None needed.
pub(super) const unsafe fn read() -> u32 {
    0
}

/// # Safety
///
/// None needed.
pub(super) const unsafe fn write(_rights: u32) {}
