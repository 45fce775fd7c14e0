//! Memory protection keys: pkeys(7), Linux 4.9. By number, since C libraries before glibc 2.27 lack them.

use core::ptr::NonNull;

use super::check;
use super::map::bits_of;
use crate::os::{Access, Errno, Result};

/// `PKEY_DISABLE_ACCESS`, pkey_alloc(2).
const DISABLE_ACCESS: usize = 0x1;

/// `pkey_alloc(0, PKEY_DISABLE_ACCESS)`, pkey_alloc(2).
pub(in crate::os) fn key_new() -> Result<u32> {
    // SAFETY: takes a key that nobody has; no memory is involved.
    let key = unsafe { libc::syscall(libc::SYS_pkey_alloc, 0_usize, DISABLE_ACCESS) };
    u32::try_from(key).map_err(|_| Errno::last())
}

/// `pkey_free`, pkey_free(2).
pub(in crate::os) fn key_free(key: u32) {
    // SAFETY: no memory is involved; the caller has the key and no page has it (`os::key_free`).
    let _ = unsafe { libc::syscall(libc::SYS_pkey_free, libc::c_long::from(key)) };
}

/// `pkey_mprotect`, pkey_mprotect(2).
///
/// # Safety
///
/// As for `os::key_protect`.
pub(in crate::os) unsafe fn key_protect(
    ptr: NonNull<u8>,
    len: usize,
    access: Access,
    key: u32,
) -> Result<()> {
    let bits = libc::c_long::from(bits_of(access));
    // SAFETY: the caller promises that the range is its own and that no reference needs more access.
    let code =
        unsafe { libc::syscall(libc::SYS_pkey_mprotect, ptr.as_ptr(), len, bits, libc::c_long::from(key)) };
    check(code)
}
