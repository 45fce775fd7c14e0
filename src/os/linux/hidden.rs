//! Hidden memory: `memfd_secret(2)`, Linux 5.14.
//!
//! Every range has a file of its own, whose descriptor is closed as soon as the range is mapped: the mapping
//! keeps the file (mmap(2)). So no child inherits a descriptor and no daemon closes one. It also is the only way to
//! give memory back: such a file takes no `FALLOC_FL_PUNCH_HOLE` and no second size, and `MADV_DONTNEED_LOCKED`
//! succeeds but keeps its pages (measured, Linux 6.18). The last mapping gone, the kernel zeroes them.
//!
//! # Fork
//!
//! The mapping is shared memory: a child that got it would read the secret, not a copy. `MADV_DONTFORK` takes care of
//! that from the moment on that it is in force; a fork on another thread between `memfd_secret` and the close
//! would still give the child the file. So the C library is asked to tell of forks (`pthread_atfork(3)`), and a file
//! that was made while one was under way is thrown away, empty as it is, and made anew. A process that
//! forks by a system call of its own, `clone(2)` without the C library, is not noticed.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::time::Instant;

use super::map::bits_of;
use super::{check, check_count, probe};
use crate::os::{Access, Errno, Result};

/// The same number on every architecture but Alpha.
const SYS_MEMFD_SECRET: libc::c_long = 447;
/// How long to try again after forks that came in between, and how long to sleep before: a fork of a large process
/// takes milliseconds, and on a busy machine the thread that forks waits for its turn meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
const NAP: Duration = Duration::from_micros(50);

/// Puts hidden memory in the place of reserved addresses, readable and writable.
///
/// # Safety
///
/// As for `os::hide`.
pub(in crate::os) unsafe fn hide(ptr: NonNull<u8>, len: usize, refused: Access) -> Result<()> {
    FORKS.watch()?;
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        let Some(quiet) = FORKS.none_under_way() else {
            std::thread::sleep(NAP);
            continue;
        };
        // SAFETY: forwarded.
        let made = unsafe { map_new_file(ptr, len) };
        match made {
            Ok(()) if FORKS.still(quiet) => return Ok(()),
            // A child has the file, or another thread forked while none could be made.
            Ok(()) => {}
            Err(errno) => {
                // Whatever stage it reached: reserved addresses again.
                // SAFETY: forwarded.
                let _ = unsafe { unhide(ptr, len, refused) };
                return Err(errno);
            }
        }
    }
    // SAFETY: forwarded. A child may have this file, so it must not be used; it is empty.
    let _ = unsafe { unhide(ptr, len, refused) };
    Err(Errno::BUSY)
}

/// Puts reserved addresses back, which children do not get either.
///
/// # Safety
///
/// As for `os::unhide`.
pub(in crate::os) unsafe fn unhide(ptr: NonNull<u8>, len: usize, access: Access) -> Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: the range is the caller's own, who uses no reference into it any more.
    let address = unsafe { libc::mmap(ptr.as_ptr().cast(), len, bits_of(access), flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    // SAFETY: as above; changes no contents.
    check(unsafe { libc::madvise(ptr.as_ptr().cast(), len, libc::MADV_DONTFORK) }.into())
}

/// `memfd_secret(FD_CLOEXEC)`, `ftruncate`, `mmap(MAP_SHARED | MAP_FIXED)`, `madvise(MADV_DONTFORK)`, `close`.
///
/// # Safety
///
/// As for `os::hide`.
unsafe fn map_new_file(ptr: NonNull<u8>, len: usize) -> Result<()> {
    // SAFETY: the call takes a flag and touches no memory (memfd_secret(2)).
    let made = check_count(unsafe { libc::syscall(SYS_MEMFD_SECRET, libc::O_CLOEXEC) });
    probe::note_hidden(made.map(drop));
    let file = libc::c_int::try_from(made?).map_err(|_| Errno::BADF)?;
    // SAFETY: forwarded.
    let mapped = unsafe { map_file(file, ptr, len) };
    // SAFETY: opened above, and nobody else knows it.
    unsafe { libc::close(file) };
    mapped
}

/// # Safety
///
/// As for `os::hide`.
unsafe fn map_file(file: libc::c_int, ptr: NonNull<u8>, len: usize) -> Result<()> {
    let size = libc::off_t::try_from(len).map_err(|_| Errno::INVAL)?;
    // SAFETY: the descriptor is the caller's; no memory is involved (ftruncate(2)).
    check(unsafe { libc::ftruncate(file, size) }.into())?;
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_FIXED);
    // SAFETY: replaces a range that is the caller's own and that nothing uses.
    let address = unsafe { libc::mmap(ptr.as_ptr().cast(), len, access, flags, file, 0) };
    if address == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    // SAFETY: mapped just now; changes no contents.
    check(unsafe { libc::madvise(ptr.as_ptr().cast(), len, libc::MADV_DONTFORK) }.into())
}

static FORKS: Forks =
    Forks { watched: AtomicU32::new(UNWATCHED), begun: AtomicU32::new(0), ended: AtomicU32::new(0) };

const UNWATCHED: u32 = 0;
const WATCHED: u32 = 1;

/// The forks of this process, as the C library tells of them. All orders are SeqCst: a fork that begins while a file
/// is made must be seen by the look after it.
struct Forks {
    watched: AtomicU32,
    begun: AtomicU32,
    ended: AtomicU32,
}

impl Forks {
    /// Has the C library tell, from the first call on. Threads that race here have it told twice, which counts
    /// both beginnings and both ends.
    fn watch(&self) -> Result<()> {
        if self.watched.load(Ordering::SeqCst) == WATCHED {
            return Ok(());
        }
        // SAFETY: the three functions touch atomics only, so they may run around a fork (pthread_atfork(3)).
        match unsafe { libc::pthread_atfork(Some(before), Some(after_in_parent), Some(after_in_child)) } {
            0 => {
                self.watched.store(WATCHED, Ordering::SeqCst);
                Ok(())
            }
            errno => Err(Errno(errno)),
        }
    }

    /// The number of forks so far, if none is under way.
    fn none_under_way(&self) -> Option<u32> {
        let begun = self.begun.load(Ordering::SeqCst);
        // More ends than beginnings: a C library that tells of the end of a fork that began before `watch`.
        let under_way = begun.wrapping_sub(self.ended.load(Ordering::SeqCst)).cast_signed();
        (under_way <= 0).then_some(begun)
    }

    /// Whether none began since.
    fn still(&self, begun: u32) -> bool {
        self.begun.load(Ordering::SeqCst) == begun
    }
}

unsafe extern "C" fn before() {
    FORKS.begun.fetch_add(1, Ordering::SeqCst);
}

unsafe extern "C" fn after_in_parent() {
    FORKS.ended.fetch_add(1, Ordering::SeqCst);
}

/// Other threads of the parent that were forking are not there.
unsafe extern "C" fn after_in_child() {
    FORKS.ended.store(FORKS.begun.load(Ordering::SeqCst), Ordering::SeqCst);
}
