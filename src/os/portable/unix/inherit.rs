//! What a child made by fork finds: `minherit(2)` of macOS and the BSDs, which the `libc` crate lacks.

use core::ffi::c_int;
use core::ptr::NonNull;

use crate::os::{Errno, Result};

/// The child has no such mapping: `VM_INHERIT_NONE` of macOS, `INHERIT_NONE` of the BSDs.
pub(super) const NONE: Option<c_int> = Some(2);
/// The child finds zeros: `INHERIT_ZERO` (FreeBSD 12), `MAP_INHERIT_ZERO` (OpenBSD 5.6, NetBSD 10).
#[cfg(any(target_os = "freebsd", target_os = "openbsd"))]
pub(super) const ZERO: Option<c_int> = Some(3);
/// As above.
#[cfg(target_os = "netbsd")]
pub(super) const ZERO: Option<c_int> = Some(4);
/// There is none.
#[cfg(not(any(target_os = "freebsd", target_os = "openbsd", target_os = "netbsd")))]
pub(super) const ZERO: Option<c_int> = None;

/// `minherit(ptr, len, how)`.
#[cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "openbsd",
    target_os = "netbsd",
    target_os = "dragonfly"
))]
pub(super) fn set(ptr: NonNull<u8>, len: usize, how: Option<c_int>) -> Result<()> {
    // SAFETY: the signature of `minherit(2)` on each of these systems.
    unsafe extern "C" {
        fn minherit(address: *mut core::ffi::c_void, len: usize, how: c_int) -> c_int;
    }
    let how = how.ok_or(Errno::NOSYS)?;
    // SAFETY: the call changes what a child finds, and nothing in this process.
    match unsafe { minherit(ptr.as_ptr().cast(), len, how) } {
        0 => Ok(()),
        _ => Err(Errno::last()),
    }
}

/// `MADV_DONTFORK`, madvise(2), so that tests on Linux find what there is on macOS.
#[cfg(target_os = "linux")]
pub(super) fn set(ptr: NonNull<u8>, len: usize, how: Option<c_int>) -> Result<()> {
    how.ok_or(Errno::NOSYS)?;
    // SAFETY: the call changes what a child finds, and nothing in this process.
    match unsafe { libc::madvise(ptr.as_ptr().cast(), len, libc::MADV_DONTFORK) } {
        0 => Ok(()),
        _ => Err(Errno::last()),
    }
}

/// There is none.
#[cfg(not(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "openbsd",
    target_os = "netbsd",
    target_os = "dragonfly",
    target_os = "linux"
)))]
pub(super) const fn set(_ptr: NonNull<u8>, _len: usize, _how: Option<c_int>) -> Result<()> {
    Err(Errno::NOSYS)
}
