//! The register that says what this thread may do with the pages of each protection key.
//!
//! Two bits a key, from the lowest on: no access, no writing. Where there is no such register no key can be
//! had, and nothing reads or writes it.

// UNSAFETY: forwards to the twin for this CPU; nothing else is done here.
#![expect(unsafe_code, reason = "reads and writes the register of rights")]

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
use x86_64 as cpu;
#[cfg(not(target_arch = "x86_64"))]
mod none;
#[cfg(not(target_arch = "x86_64"))]
use none as cpu;

pub(super) use cpu::IS_KNOWN;

/// What the register holds.
///
/// # Safety
///
/// - A key was taken in this process.
#[inline(always)]
pub(super) unsafe fn read() -> u32 {
    #[cfg(any(test, feature = "fault-injection"))]
    if crate::os::fake::simulates_keys() {
        return crate::os::fake::rights();
    }
    // SAFETY: forwarded.
    unsafe { cpu::read() }
}

/// Sets it. What is accessed before this call in the program is accessed before it in fact, and what comes
/// after it, after it.
///
/// # Safety
///
/// - A key was taken in this process.
/// - This thread uses no reference into the pages of a key while it has no right to them.
#[inline(always)]
pub(super) unsafe fn write(rights: u32) {
    #[cfg(any(test, feature = "fault-injection"))]
    if crate::os::fake::simulates_keys() {
        return crate::os::fake::set_rights(rights);
    }
    // SAFETY: forwarded.
    unsafe { cpu::write(rights) }
}

/// Sets the bits of `forbid`, then clears those of `grant`.
///
/// # Safety
///
/// - As for [`write()`].
#[inline(always)]
pub(super) unsafe fn change(forbid: u32, grant: u32) {
    #[cfg(any(test, feature = "fault-injection"))]
    if crate::os::fake::simulates_keys() {
        return change_simulated(forbid, grant);
    }
    // SAFETY: forwarded.
    let before = unsafe { cpu::read() };
    // SAFETY: forwarded.
    unsafe { cpu::write((before | forbid) & !grant) }
}

/// Apart, so that a build with simulated keys costs about what one without does.
#[cfg(any(test, feature = "fault-injection"))]
#[cold]
fn change_simulated(forbid: u32, grant: u32) {
    use crate::os::fake;
    fake::set_rights((fake::rights() | forbid) & !grant);
}
