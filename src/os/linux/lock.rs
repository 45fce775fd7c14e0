//! Locking: `mlock2(2)`, `mlock(2)`, `munlock(2)`.

use core::ptr::NonNull;

use super::check;
use crate::os::{Errno, Result};

/// `mlock2(ptr, len, MLOCK_ONFAULT)`, mlock2(2), Linux 4.4; `mlock` before that, which faults every page in
/// and fails on pages without access.
///
/// # Safety
///
/// As for `os::lock`.
pub(in crate::os) unsafe fn lock(ptr: NonNull<u8>, len: usize) -> Result<()> {
    // SAFETY: the call reads and writes no memory of the process; a bad range is an error (mlock2(2)).
    let code = unsafe { libc::syscall(libc::SYS_mlock2, ptr.as_ptr(), len, libc::MLOCK_ONFAULT) };
    match check(code) {
        Err(Errno::NOSYS) => {
            // SAFETY: as above (mlock(2)).
            let code = unsafe { libc::syscall(libc::SYS_mlock, ptr.as_ptr(), len) };
            check(code)
        }
        result => result,
    }
}

/// `munlock`, mlock(2).
///
/// # Safety
///
/// As for `os::unlock`.
pub(in crate::os) unsafe fn unlock(ptr: NonNull<u8>, len: usize) -> Result<()> {
    // SAFETY: the call reads and writes no memory of the process; a bad range is an error (mlock(2)).
    let code = unsafe { libc::syscall(libc::SYS_munlock, ptr.as_ptr(), len) };
    check(code)
}
