//! Hints, guards and residency: `madvise(2)`, `process_madvise(2)`, `mincore(2)`.

use core::ptr::NonNull;

use super::{check, check_count, lock};
use crate::os::{Errno, Hint, LockState, Result};

/// `include/uapi/asm-generic/mman-common.h`, Linux 6.13; the same on every architecture.
const MADV_GUARD_INSTALL: libc::c_int = 102;
/// `include/uapi/asm-generic/mman-common.h`, Linux 5.18; the same on every architecture.
const MADV_DONTNEED_LOCKED: libc::c_int = 24;
/// `include/uapi/linux/fcntl.h`, Linux 6.14: the calling thread, where a pidfd is expected.
const PIDFD_SELF_THREAD: libc::c_int = -10_000;
/// Ranges a call: `IOV_MAX` is 1,024, but the list lives on a stack that may be small; past this size the
/// cost of the call itself no longer shows.
const BATCH: usize = 64;

/// `madvise`, madvise(2). Since: DONTDUMP 3.4, DONTFORK 2.6.16, WIPEONFORK 4.14, NOHUGEPAGE 2.6.38,
/// UNMERGEABLE 2.6.32, FREE 4.5, COLD and PAGEOUT 5.4, POPULATE 5.14, COLLAPSE 6.1.
///
/// # Safety
///
/// As for `os::advise`.
pub(in crate::os) unsafe fn advise(ptr: NonNull<u8>, len: usize, hint: Hint) -> Result<()> {
    let advice = match hint {
        Hint::DontDump => libc::MADV_DONTDUMP,
        Hint::DontFork => libc::MADV_DONTFORK,
        Hint::WipeOnFork => libc::MADV_WIPEONFORK,
        Hint::NoHugePage => libc::MADV_NOHUGEPAGE,
        Hint::Unmergeable => libc::MADV_UNMERGEABLE,
        Hint::HugePage => libc::MADV_HUGEPAGE,
        Hint::Collapse => libc::MADV_COLLAPSE,
        Hint::WillNeed => libc::MADV_WILLNEED,
        Hint::Sequential => libc::MADV_SEQUENTIAL,
        Hint::Random => libc::MADV_RANDOM,
        Hint::Cold => libc::MADV_COLD,
        Hint::PageOut => libc::MADV_PAGEOUT,
        Hint::Free => libc::MADV_FREE,
        Hint::PopulateRead => libc::MADV_POPULATE_READ,
        Hint::PopulateWrite => libc::MADV_POPULATE_WRITE,
        Hint::DoDump => libc::MADV_DODUMP,
        Hint::DoFork => libc::MADV_DOFORK,
        Hint::KeepOnFork => libc::MADV_KEEPONFORK,
        Hint::Mergeable => libc::MADV_MERGEABLE,
    };
    // SAFETY: none of these hints but `Free` changes the contents in this process (madvise(2)), and the caller
    // promises that the range is its own and that it does not use a reference across `Free`.
    unsafe { madvise(ptr, len, advice) }
}

/// `madvise(MADV_GUARD_INSTALL)`, madvise(2), Linux 6.13. `EINVAL` on locked memory.
///
/// # Safety
///
/// As for `os::install_guards`, for one range.
pub(super) unsafe fn install_guard(ptr: NonNull<u8>, len: usize) -> Result<()> {
    // SAFETY: the caller promises that the range is its own and that no reference into it is used again.
    unsafe { madvise(ptr, len, MADV_GUARD_INSTALL) }
}

/// `process_madvise(self, .., MADV_GUARD_INSTALL)` for `BATCH` ranges at a time, process_madvise(2); on the
/// own process it takes every hint since Linux 6.13, and `PIDFD_SELF_THREAD` since 6.14. Range by range
/// where it is refused.
///
/// # Safety
///
/// As for `os::install_guards`.
pub(in crate::os) unsafe fn install_guards(
    first: NonNull<u8>,
    len: usize,
    stride: usize,
    count: usize,
) -> Result<()> {
    let mut done = 0;
    while done < count {
        let batch = BATCH.min(count.wrapping_sub(done));
        // SAFETY: `done < count`, so this is the start of one of the caller's ranges.
        let start = unsafe { nth(first, stride, done) };
        // SAFETY: `done + batch <= count`, so these are ranges that the caller answers for.
        let installed = unsafe { install_batch(start, len, stride, batch) }.unwrap_or(0);
        for index in installed..batch {
            // SAFETY: `done + index < count`, so this is the start of one of the caller's ranges.
            let guard = unsafe { nth(start, stride, index) };
            // SAFETY: it is one of the caller's ranges, who answers for it.
            unsafe { install_guard(guard, len) }?;
        }
        done = done.wrapping_add(batch);
    }
    Ok(())
}

/// Installs up to `BATCH` guards in one call and returns how many whole ones are there. Installing one twice
/// does no harm.
///
/// # Safety
///
/// As for `os::install_guards`; `count <= BATCH`.
pub(super) unsafe fn install_batch(
    first: NonNull<u8>,
    len: usize,
    stride: usize,
    count: usize,
) -> Result<usize> {
    let mut ranges = [libc::iovec { iov_base: core::ptr::null_mut(), iov_len: 0 }; BATCH];
    for (index, range) in ranges.iter_mut().take(count).enumerate() {
        // SAFETY: `index < count`, so this is the start of one of the caller's ranges.
        let start = unsafe { nth(first, stride, index) };
        *range = libc::iovec { iov_base: start.as_ptr().cast(), iov_len: len };
    }
    // SAFETY: the kernel reads `count <= BATCH` elements of `ranges`, and the caller promises for each range
    // that it is its own and that no reference into it is used again.
    let code = unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            PIDFD_SELF_THREAD,
            ranges.as_ptr(),
            count,
            MADV_GUARD_INSTALL,
            0_u32,
        )
    };
    check_count(code).map(|bytes| bytes.checked_div(len).unwrap_or(0))
}

/// The start of the range with this index.
///
/// # Safety
///
/// - `first` and the result lie in one allocation.
unsafe fn nth(first: NonNull<u8>, stride: usize, index: usize) -> NonNull<u8> {
    // SAFETY: the caller promises that the result lies in the allocation of `first`, so the product does not
    // exceed `isize::MAX` either.
    unsafe { first.add(stride.wrapping_mul(index)) }
}

/// `madvise(MADV_DONTNEED_LOCKED)`, madvise(2), Linux 5.18, or `MADV_DONTNEED`, which refuses locked
/// memory: before 5.18 unlock, discard, lock again.
///
/// # Safety
///
/// As for `os::discard`.
pub(in crate::os) unsafe fn discard(ptr: NonNull<u8>, len: usize, state: LockState) -> Result<()> {
    if state == LockState::Unlocked {
        // SAFETY: the caller promises that the range is its own and that no reference is used across.
        return unsafe { madvise(ptr, len, libc::MADV_DONTNEED) };
    }
    // SAFETY: as above.
    match unsafe { dontneed_locked(ptr, len) } {
        Err(Errno::INVAL) => {}
        result => return result,
    }
    // SAFETY: the caller promises that the range is its own.
    unsafe { lock::unlock(ptr, len) }?;
    // SAFETY: as for the first call.
    let discarded = unsafe { madvise(ptr, len, libc::MADV_DONTNEED) };
    // SAFETY: the caller promises that the range is its own.
    let locked = unsafe { lock::lock(ptr, len) };
    locked.and(discarded)
}

/// `madvise(MADV_DONTNEED_LOCKED)` alone.
///
/// # Safety
///
/// As for `os::discard`.
pub(super) unsafe fn dontneed_locked(ptr: NonNull<u8>, len: usize) -> Result<()> {
    // SAFETY: the caller promises that the range is its own and that no reference is used across.
    unsafe { madvise(ptr, len, MADV_DONTNEED_LOCKED) }
}

/// `msync(MS_ASYNC | MS_INVALIDATE)`, msync(2): `EBUSY` says that a lock exists in the range; on anonymous
/// memory it does nothing else.
///
/// # Safety
///
/// As for `os::is_locked`.
pub(in crate::os) unsafe fn is_locked(ptr: NonNull<u8>, len: usize) -> Result<bool> {
    // SAFETY: the range is the caller's own anonymous memory, of which nothing is written back or dropped.
    let code = unsafe { libc::msync(ptr.as_ptr().cast(), len, libc::MS_ASYNC | libc::MS_INVALIDATE) };
    match check(code.into()) {
        Ok(()) => Ok(false),
        Err(Errno::BUSY) => Ok(true),
        Err(errno) => Err(errno),
    }
}

/// `mincore`, mincore(2).
///
/// # Safety
///
/// As for `os::resident`.
pub(in crate::os) unsafe fn resident(ptr: NonNull<u8>, len: usize, out: &mut [u8]) -> Result<()> {
    if out.len() < len.div_ceil(super::page_size()) {
        return Err(Errno::INVAL);
    }
    // SAFETY: the kernel writes one byte a page, and `out` has that many (checked above).
    let code = unsafe { libc::mincore(ptr.as_ptr().cast(), len, out.as_mut_ptr()) };
    check(code.into())
}

/// `madvise`, madvise(2).
///
/// # Safety
///
/// - The range is the caller's own.
/// - If the advice changes the contents, no reference into the range is used across the call.
unsafe fn madvise(ptr: NonNull<u8>, len: usize, advice: libc::c_int) -> Result<()> {
    // SAFETY: forwarded: the caller promises the same two things.
    let code = unsafe { libc::madvise(ptr.as_ptr().cast(), len, advice) };
    check(code.into())
}
