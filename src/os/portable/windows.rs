//! Windows, by its own functions and not through `region`: that allocates when it is first called, which
//! inside an allocator never ends, and it cannot commit reserved memory.

use core::ptr::{self, NonNull};

use windows_sys::Win32::Foundation::{
    ERROR_COMMITMENT_LIMIT, ERROR_INVALID_ADDRESS, ERROR_NOT_ENOUGH_MEMORY, ERROR_WORKING_SET_QUOTA,
    GetLastError, SetLastError,
};
use windows_sys::Win32::System::Memory::{
    GetProcessWorkingSetSizeEx, MEM_COMMIT, MEM_RELEASE, MEM_RESERVE, PAGE_NOACCESS, PAGE_READONLY,
    PAGE_READWRITE, VirtualAlloc, VirtualFree, VirtualLock, VirtualProtect, VirtualUnlock,
};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

use crate::os::{Access, Errno, Hint, Limit, Result};

/// 4 KiB on x86, x86-64 and ARM64 alike.
#[inline]
pub(in crate::os) const fn page_size() -> usize {
    4096
}

/// `VirtualAlloc(MEM_RESERVE)`.
pub(in crate::os) fn reserve(len: usize) -> Result<NonNull<u8>> {
    // SAFETY: without an address the system picks one that nothing uses.
    let base = unsafe { VirtualAlloc(ptr::null(), len, MEM_RESERVE, PAGE_NOACCESS) };
    NonNull::new(base.cast()).ok_or_else(last)
}

/// `VirtualFree(MEM_RELEASE)`: only a whole reservation can be released, a part of one is refused.
///
/// # Safety
///
/// As for `os::release`.
pub(in crate::os) unsafe fn release(ptr: NonNull<u8>, _len: usize) -> Result<()> {
    // SAFETY: the caller promises that the range is its own and that nothing uses it any more.
    check(unsafe { VirtualFree(ptr.as_ptr().cast(), 0, MEM_RELEASE) })
}

/// `VirtualAlloc(MEM_COMMIT)` before access is given, then `VirtualProtect`.
///
/// # Safety
///
/// As for `os::protect`.
pub(in crate::os) unsafe fn protect(ptr: NonNull<u8>, len: usize, access: Access) -> Result<()> {
    let protection = match access {
        Access::None => PAGE_NOACCESS,
        Access::Read => PAGE_READONLY,
        Access::ReadWrite => PAGE_READWRITE,
    };
    if access != Access::None {
        // SAFETY: the caller promises that the range is its own; pages that are committed stay as they are.
        let base = unsafe { VirtualAlloc(ptr.as_ptr().cast(), len, MEM_COMMIT, protection) };
        if base.is_null() {
            return Err(last());
        }
    }
    let mut before = 0;
    // SAFETY: the caller promises that the range is its own and that no reference needs more access; the
    // system writes one word to `before`.
    match check(unsafe { VirtualProtect(ptr.as_ptr().cast(), len, protection, &raw mut before) }) {
        // Pages that were never committed allow no access as it is.
        Err(errno) if access == Access::None && errno == from_code(ERROR_INVALID_ADDRESS) => Ok(()),
        result => result,
    }
}

/// `VirtualLock`: faults every page in, refuses pages without access, and is limited by the smallest working
/// set of the process.
///
/// # Safety
///
/// As for `os::lock`.
pub(in crate::os) unsafe fn lock(ptr: NonNull<u8>, len: usize) -> Result<()> {
    // SAFETY: the call reads and writes no memory of the process.
    check(unsafe { VirtualLock(ptr.as_ptr().cast(), len) })
}

/// `VirtualUnlock`.
///
/// # Safety
///
/// As for `os::unlock`.
pub(in crate::os) unsafe fn unlock(ptr: NonNull<u8>, len: usize) -> Result<()> {
    // SAFETY: the call reads and writes no memory of the process.
    check(unsafe { VirtualUnlock(ptr.as_ptr().cast(), len) })
}

/// There are no children made by fork, so what they find needs no hint; the others are unknown.
///
/// # Safety
///
/// As for `os::advise`.
pub(in crate::os) const unsafe fn advise(_ptr: NonNull<u8>, _len: usize, hint: Hint) -> Result<()> {
    match hint {
        Hint::DontFork | Hint::WipeOnFork => Ok(()),
        _ => Err(Errno::NOSYS),
    }
}

/// `GetProcessWorkingSetSizeEx`: what can be locked is the smallest working set, less some pages.
pub(in crate::os) fn memlock_limit() -> Limit {
    let (mut least, mut most, mut flags) = (0, 0, 0);
    // SAFETY: the call returns a constant that means this process.
    let process = unsafe { GetCurrentProcess() };
    // SAFETY: the system writes one word to each address.
    let done = unsafe { GetProcessWorkingSetSizeEx(process, &raw mut least, &raw mut most, &raw mut flags) };
    if done == 0 { Limit { soft: None, hard: None } } else { Limit { soft: Some(least), hard: None } }
}

/// There is none.
pub(in crate::os) const fn address_space_limit() -> Limit {
    Limit { soft: None, hard: None }
}

/// `_write` to descriptor 2, then `abort`.
#[cold]
pub(in crate::os) fn abort_with(message: &'static str) -> ! {
    for part in ["oubliette: ", message, "\n"] {
        let len = libc::c_uint::try_from(part.len()).unwrap_or(0);
        // SAFETY: the C library reads `part`. What it returns does not matter: there is nothing left to do.
        unsafe { libc::write(2, part.as_ptr().cast(), len) };
    }
    std::process::abort()
}

/// Saves and restores the last error.
#[inline]
pub(in crate::os) fn preserve_errno<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: the call reads a word of this thread.
    let saved = unsafe { GetLastError() };
    let result = f();
    // SAFETY: the call writes a word of this thread.
    unsafe { SetLastError(saved) };
    result
}

/// There is none that anybody looks at.
pub(in crate::os) const fn set_errno(_errno: Errno) {}

fn check(done: i32) -> Result<()> {
    if done == 0 { Err(last()) } else { Ok(()) }
}

fn last() -> Errno {
    // SAFETY: the call reads a word of this thread.
    from_code(unsafe { GetLastError() })
}

/// Scarcity gets the one number that the layers above know; the rest keeps the system's own.
fn from_code(code: u32) -> Errno {
    match code {
        ERROR_COMMITMENT_LIMIT | ERROR_NOT_ENOUGH_MEMORY | ERROR_WORKING_SET_QUOTA => Errno::NOMEM,
        _ => Errno(i32::try_from(code).unwrap_or(i32::MAX)),
    }
}
