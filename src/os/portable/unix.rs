//! macOS and the BSDs: `region` for access and locks, POSIX for the rest.

use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use region::Protection;

use crate::os::{Access, Errno, Hint, Limit, Result};

mod inherit;

/// `sysconf(_SC_PAGESIZE)`, kept by `region`.
#[inline]
pub(in crate::os) fn page_size() -> usize {
    region::page::size()
}

/// `mmap` without access, which no system charges.
pub(in crate::os) fn reserve(len: usize) -> Result<NonNull<u8>> {
    let (base, _) = region::alloc(len, Protection::NONE).map_err(errno)?.into_raw_parts::<u8>();
    NonNull::new(base).ok_or(Errno::NOMEM)
}

/// `munmap`.
///
/// # Safety
///
/// As for `os::release`.
pub(in crate::os) unsafe fn release(ptr: NonNull<u8>, len: usize) -> Result<()> {
    // `region` unmaps only by dropping an `Allocation`, which does not tell how that went.
    // SAFETY: the caller promises that the range is its own and that nothing uses it any more.
    match unsafe { libc::munmap(ptr.as_ptr().cast(), len) } {
        0 => Ok(()),
        _ => Err(Errno::last()),
    }
}

/// `mprotect`.
///
/// # Safety
///
/// As for `os::protect`.
pub(in crate::os) unsafe fn protect(ptr: NonNull<u8>, len: usize, access: Access) -> Result<()> {
    let protection = match access {
        Access::None => Protection::NONE,
        Access::Read => Protection::READ,
        Access::ReadWrite => Protection::READ_WRITE,
    };
    // SAFETY: the caller promises that the range is its own and that no reference needs more access.
    unsafe { region::protect(ptr.as_ptr(), len, protection) }.map_err(errno)
}

/// `mlock`: faults every page in, and refuses pages without access.
///
/// # Safety
///
/// As for `os::lock`.
pub(in crate::os) unsafe fn lock(ptr: NonNull<u8>, len: usize) -> Result<()> {
    let guard = region::lock(ptr.as_ptr(), len).map_err(errno)?;
    // Dropped, it would unlock again.
    let _kept = ManuallyDrop::new(guard);
    Ok(())
}

/// `munlock`.
///
/// # Safety
///
/// As for `os::unlock`.
pub(in crate::os) unsafe fn unlock(ptr: NonNull<u8>, len: usize) -> Result<()> {
    // SAFETY: the caller promises that the range is its own.
    unsafe { region::unlock(ptr.as_ptr(), len) }.map_err(errno)
}

/// `minherit` and `MADV_NOCORE` where the system has them. On Linux, where only tests get here, what macOS has.
///
/// # Safety
///
/// As for `os::advise`.
pub(in crate::os) unsafe fn advise(ptr: NonNull<u8>, len: usize, hint: Hint) -> Result<()> {
    match hint {
        Hint::DontFork => inherit::set(ptr, len, inherit::NONE),
        Hint::WipeOnFork => inherit::set(ptr, len, inherit::ZERO),
        #[cfg(any(target_os = "freebsd", target_os = "dragonfly"))]
        Hint::DontDump => {
            // SAFETY: the hint changes no contents (madvise(2) of FreeBSD), and the range is the caller's.
            match unsafe { libc::madvise(ptr.as_ptr().cast(), len, libc::MADV_NOCORE) } {
                0 => Ok(()),
                _ => Err(Errno::last()),
            }
        }
        _ => Err(Errno::NOSYS),
    }
}

/// `getrlimit(RLIMIT_MEMLOCK)`.
pub(in crate::os) fn memlock_limit() -> Limit {
    // SAFETY: the kernel writes one `rlimit` to the address.
    limit(|limits| unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, limits) })
}

/// `getrlimit(RLIMIT_AS)`; OpenBSD has none.
pub(in crate::os) fn address_space_limit() -> Limit {
    #[cfg(target_os = "openbsd")]
    return Limit { soft: None, hard: None };
    #[cfg(not(target_os = "openbsd"))]
    // SAFETY: the kernel writes one `rlimit` to the address.
    limit(|limits| unsafe { libc::getrlimit(libc::RLIMIT_AS, limits) })
}

/// `write` to descriptor 2, then `abort`.
#[cold]
pub(in crate::os) fn abort_with(message: &'static str) -> ! {
    for part in ["oubliette: ", message, "\n"] {
        // SAFETY: the kernel reads `part`. What it returns does not matter: there is nothing left to do.
        unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
    }
    std::process::abort()
}

/// Saves and restores `errno`.
#[inline]
pub(in crate::os) fn preserve_errno<R>(f: impl FnOnce() -> R) -> R {
    let errno = errno_place();
    // SAFETY: it is valid and aligned for the life of the thread, and no other thread uses it.
    let saved = unsafe { errno.read() };
    let result = f();
    // SAFETY: as above; `f` runs on this thread.
    unsafe { errno.write(saved) };
    result
}

/// Sets `errno`.
pub(in crate::os) fn set_errno(errno: Errno) {
    // SAFETY: it is valid and aligned for the life of the thread, and no other thread uses it.
    unsafe { errno_place().write(errno.0) };
}

/// Where this thread has its `errno`.
#[inline]
fn errno_place() -> *mut libc::c_int {
    #[cfg(any(target_os = "openbsd", target_os = "netbsd", target_os = "android"))]
    use libc::__errno as location;
    #[cfg(any(target_os = "linux", target_os = "dragonfly"))]
    use libc::__errno_location as location;
    #[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
    use libc::__error as location;

    // SAFETY: the call returns the address of this thread's errno.
    unsafe { location() }
}

fn limit(read: impl FnOnce(*mut libc::rlimit) -> libc::c_int) -> Limit {
    let mut limits = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // It cannot fail for a known resource; if it did, both would stay unlimited.
    read(&raw mut limits);
    let finite = |value| (value != libc::RLIM_INFINITY).then(|| usize::try_from(value).unwrap_or(usize::MAX));
    Limit { soft: finite(limits.rlim_cur), hard: finite(limits.rlim_max) }
}

fn errno(error: region::Error) -> Errno {
    match error {
        region::Error::SystemCall(code) => Errno(code),
        _ => Errno::INVAL,
    }
}
