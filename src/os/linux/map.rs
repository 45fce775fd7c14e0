//! Address space: `mmap(2)`, `munmap(2)`, `mprotect(2)`.

use core::ptr::{self, NonNull};

use super::check;
use crate::os::{Access, Errno, Result};

/// `mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)`, mmap(2).
///
/// `PROT_NONE` and `MAP_NORESERVE` keep it out of the commit charge (Documentation/mm/overcommit-accounting).
pub(in crate::os) fn reserve(len: usize) -> Result<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: without MAP_FIXED the kernel picks addresses that nothing uses (mmap(2)), so no memory of the
    // process changes.
    let address = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return match Errno::last() {
            Errno::AGAIN if len > super::page_size() => reserve_unlocked(len),
            errno => Err(errno),
        };
    }
    NonNull::new(address.cast()).ok_or(Errno::NOMEM)
}

/// Under `mlockall(MCL_FUTURE)` a new mapping is locked and all of it counts against `RLIMIT_MEMLOCK`, touched or
/// not (mlockall(2)). One that grows stays as it is: so a page is mapped, unlocked, and made as long as wanted
/// with `mremap`, mremap(2).
fn reserve_unlocked(len: usize) -> Result<NonNull<u8>> {
    let page = super::page_size();
    let start = reserve(page)?;
    // SAFETY: mapped just now, and nobody else knows it.
    let grown = unsafe { super::lock::unlock(start, page) }.and_then(|()| {
        // SAFETY: as above: moving it changes no memory that anybody uses.
        let address = unsafe { libc::mremap(start.as_ptr().cast(), page, len, libc::MREMAP_MAYMOVE) };
        if address == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(address) }
    });
    match grown {
        Ok(address) => NonNull::new(address.cast()).ok_or(Errno::NOMEM),
        Err(errno) => {
            // SAFETY: as above; it was not moved.
            let _ = unsafe { release(start, page) };
            Err(errno)
        }
    }
}

/// The same at given addresses, with `MAP_FIXED_NOREPLACE` (Linux 4.17): fails with `EEXIST` if any of them is
/// in use. Older kernels take it for a wish and answer with other addresses, which are given back.
pub(in crate::os) fn reserve_at(ptr: NonNull<u8>, len: usize) -> Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: no mapping is replaced (mmap(2)), so no memory of the process changes.
    let address = unsafe { libc::mmap(ptr.as_ptr().cast(), len, libc::PROT_NONE, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    if address == ptr.as_ptr().cast() {
        return Ok(());
    }
    // SAFETY: mapped just now, and nobody knows it.
    unsafe { libc::munmap(address, len) };
    Err(Errno::EXIST)
}

/// `mmap(MAP_FIXED | MAP_HUGETLB)` of 2 MiB pages, mmap(2), Linux 3.8. Without `MAP_NORESERVE`: pages that the pool
/// does not have are an error here and no `SIGBUS` later.
///
/// # Safety
///
/// As for `os::map_huge`.
pub(in crate::os) unsafe fn map_huge(ptr: NonNull<u8>, len: usize) -> Result<()> {
    const TWO_MIB: libc::c_int = 21 << 26;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_HUGETLB | TWO_MIB;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: what is replaced is the caller's own, and nobody uses it.
    let address = unsafe { libc::mmap(ptr.as_ptr().cast(), len, access, flags, -1, 0) };
    if address == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(()) }
}

/// `mremap(ptr, len, len, MREMAP_MAYMOVE | MREMAP_DONTUNMAP)`, mremap(2), Linux 5.7: the kernel picks addresses that
/// nothing uses.
///
/// # Safety
///
/// As for `os::move_out`.
pub(in crate::os) unsafe fn move_out(start: NonNull<u8>, len: usize) -> Result<NonNull<u8>> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP;
    // The last argument is read with this flag, too: no wish.
    let anywhere = ptr::null_mut::<libc::c_void>();
    // SAFETY: the range is the caller's own, which stays mapped, and nobody uses a reference into it meanwhile.
    let address = unsafe { libc::mremap(start.as_ptr().cast(), len, len, flags, anywhere) };
    if address == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    NonNull::new(address.cast()).ok_or(Errno::NOMEM)
}

/// `mremap(from, len, new_len, MREMAP_MAYMOVE | MREMAP_FIXED, to)`, mremap(2).
///
/// # Safety
///
/// As for `os::move_in`.
pub(in crate::os) unsafe fn move_in(
    from: NonNull<u8>,
    len: usize,
    to: NonNull<u8>,
    new_len: usize,
) -> Result<()> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: both ranges are the caller's own, and nobody uses what `to` held or a reference to what is moved.
    let address = unsafe { libc::mremap(from.as_ptr().cast(), len, new_len, flags, to.as_ptr()) };
    if address == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(()) }
}

/// `munmap`, munmap(2).
///
/// # Safety
///
/// As for `os::release`.
pub(in crate::os) unsafe fn release(ptr: NonNull<u8>, len: usize) -> Result<()> {
    // SAFETY: the caller promises that the range is its own and that nothing uses it any more.
    let code = unsafe { libc::munmap(ptr.as_ptr().cast(), len) };
    check(code.into())
}

/// `mprotect`, mprotect(2).
///
/// # Safety
///
/// As for `os::protect`.
pub(in crate::os) unsafe fn protect(ptr: NonNull<u8>, len: usize, access: Access) -> Result<()> {
    // SAFETY: the caller promises that the range is its own and that no reference needs more access.
    let code = unsafe { libc::mprotect(ptr.as_ptr().cast(), len, bits_of(access)) };
    check(code.into())
}

/// The access as `mprotect` takes it.
pub(super) const fn bits_of(access: Access) -> libc::c_int {
    match access {
        Access::None => libc::PROT_NONE,
        Access::Read => libc::PROT_READ,
        Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
    }
}
