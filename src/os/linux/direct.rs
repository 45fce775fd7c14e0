//! Files read past the page cache: `O_DIRECT`, open(2), and what a file system says about it.
//!
//! Part of the contract itself, since no other system has it in this form.

use std::fs::File;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::{io, mem};

use super::{check, check_count};
use crate::os::{Errno, Result};

/// `STATX_DIOALIGN`, statx(2), Linux 6.1.
const STATX_DIOALIGN: u32 = 0x2000;
/// Words of `struct statx` (`include/uapi/linux/stat.h`): how many, and the places of `stx_mask` and
/// `stx_dio_offset_align`.
const STATX_WORDS: usize = 64;
const WORD_OF_MASK: usize = 0;
const WORD_OF_ALIGN: usize = 0x9c / 4;
/// `f_type` of file systems that live in the page cache: tmpfs and ramfs, statfs(2). Since Linux 6.6 tmpfs lets itself be
/// opened with `O_DIRECT`, and reads from the cache all the same.
const CACHE_ITSELF: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// Opens a file for reading past the page cache.
///
/// - Result: `INVAL` where the file system has no such thing.
pub(crate) fn open_direct(path: &Path) -> Result<File> {
    let options = libc::O_DIRECT | libc::O_CLOEXEC | libc::O_NONBLOCK;
    File::options().read(true).custom_flags(options).open(path).map_err(errno)
}

/// Opens the same file once more in that way, by its name under `/proc`.
pub(crate) fn reopen_direct(file: BorrowedFd<'_>) -> Result<File> {
    open_direct(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))
}

/// What offsets and lengths must be multiples of. `OPNOTSUPP` where the file is read from the page cache in spite of
/// `O_DIRECT`, as far as the system tells: tmpfs, encrypted or compressed files.
pub(crate) fn direct_block_bytes(file: BorrowedFd<'_>) -> Result<usize> {
    /// What every device of today takes, for file systems that do not say.
    const USUAL_BYTES: usize = 4096;
    if CACHE_ITSELF.contains(&file_system(file)?) {
        return Err(Errno::OPNOTSUPP);
    }
    match told_alignment(file) {
        Some(0) => Err(Errno::OPNOTSUPP),
        Some(bytes) => Ok(bytes.max(USUAL_BYTES)),
        None => Ok(USUAL_BYTES),
    }
}

/// Asks the kernel to drop the pages of a file from its cache: `POSIX_FADV_DONTNEED`, posix_fadvise(2). Those that are
/// mapped, or not written to the disk yet, stay.
pub(crate) fn drop_cached(file: BorrowedFd<'_>) {
    // SAFETY: no memory is involved. It returns an error number, which changes nothing.
    let _ = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

/// `stx_dio_offset_align`, if kernel and file system tell.
fn told_alignment(file: BorrowedFd<'_>) -> Option<usize> {
    let mut words = [0_u32; STATX_WORDS];
    let flags = libc::AT_EMPTY_PATH;
    // SAFETY: the path is an empty C string, and the kernel writes one `struct statx`, which has as many words.
    let code = unsafe {
        libc::syscall(
            libc::SYS_statx,
            file.as_raw_fd(),
            c"".as_ptr(),
            flags,
            STATX_DIOALIGN,
            words.as_mut_ptr(),
        )
    };
    check_count(code).ok()?;
    let is_told = words[WORD_OF_MASK] & STATX_DIOALIGN != 0;
    is_told.then(|| usize::try_from(words[WORD_OF_ALIGN]).ok()).flatten()
}

/// `f_type`, fstatfs(2).
#[allow(
    clippy::as_conversions,
    clippy::unnecessary_cast,
    reason = "its type differs between targets; 32 bits count"
)]
fn file_system(file: BorrowedFd<'_>) -> Result<u32> {
    // SAFETY: it consists of integers, for which all zeros are a value.
    let mut status: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: the kernel writes one `struct statfs` to `status`.
    check(unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut status) }.into())?;
    Ok(status.f_type as u32)
}

#[expect(clippy::needless_pass_by_value, reason = "fits `map_err`")]
fn errno(error: io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(libc::EIO))
}
