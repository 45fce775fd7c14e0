//! What this kernel offers: each feature is tried once on a scratch page.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use super::{advise, check, lock, map};
use crate::os::{Errno, Features, Hint, Result, Support};

/// The answer for one feature, kept in a word so that no lock is needed: two threads that probe at once find
/// the same.
struct Answer(AtomicU32);

/// Not asked yet.
const UNTRIED: u32 = 0;
/// The kernel has it.
const YES: u32 = 1;
/// The kernel does not: this plus its `errno`.
const NO: u32 = 2;

impl Answer {
    const fn new() -> Self {
        Self(AtomicU32::new(UNTRIED))
    }

    /// What is known so far.
    fn get(&self) -> Support {
        // Relaxed: the word says all; no other memory depends on it.
        match self.0.load(Ordering::Relaxed) {
            UNTRIED => Support::Untried,
            YES => Support::Yes,
            no => Support::No(Errno(i32::try_from(no.wrapping_sub(NO)).unwrap_or(libc::EINVAL))),
        }
    }

    fn set(&self, result: Result<()>) {
        let word = match result {
            Ok(()) => YES,
            Err(errno) => NO.wrapping_add(errno.0.unsigned_abs()),
        };
        self.0.store(word, Ordering::Relaxed);
    }

    /// What is known, after trying if nothing is.
    fn get_or_try(&self, attempt: impl FnOnce(NonNull<u8>, usize) -> Result<()>) -> Support {
        if self.get() == Support::Untried {
            self.set(on_scratch_page(attempt));
        }
        self.get()
    }
}

static GUARD_INSTALL: Answer = Answer::new();
static PROCESS_MADVISE: Answer = Answer::new();
static LOCK_ON_FAULT: Answer = Answer::new();
static DONTNEED_LOCKED: Answer = Answer::new();
static WIPE_ON_FORK: Answer = Answer::new();
static IO_URING: Answer = Answer::new();
static HIDDEN: Answer = Answer::new();

/// What the kernel offers. The first call makes some 20 system calls, later ones none.
pub(in crate::os) fn features() -> Features {
    Features {
        guard_install: GUARD_INSTALL.get_or_try(|page, len| {
            // SAFETY: `on_scratch_page` gives a page that nothing else uses.
            unsafe { advise::install_guard(page, len) }
        }),
        process_madvise: PROCESS_MADVISE.get_or_try(|page, len| {
            // SAFETY: as above.
            unsafe { advise::install_batch(page, len, len, 1) }.map(drop)
        }),
        lock_on_fault: LOCK_ON_FAULT.get_or_try(|_, _| {
            // Zero bytes at address zero: known or not, nothing is locked and no limit matters.
            // SAFETY: the call reads and writes no memory (mlock2(2)).
            check(unsafe { libc::syscall(libc::SYS_mlock2, 0_usize, 0_usize, libc::MLOCK_ONFAULT) })
        }),
        dontneed_locked: DONTNEED_LOCKED.get_or_try(|page, len| {
            // SAFETY: `on_scratch_page` gives a page that nothing else uses.
            unsafe { advise::dontneed_locked(page, len) }
        }),
        wipe_on_fork: WIPE_ON_FORK.get_or_try(|page, len| {
            // SAFETY: as above.
            unsafe { advise::advise(page, len, Hint::WipeOnFork) }
        }),
        io_uring: IO_URING.get(),
        hidden: HIDDEN.get(),
    }
}

/// Remembers how asking for a ring ended.
pub(super) fn note_io_uring(result: Result<()>) {
    IO_URING.set(result);
}

/// Remembers how asking for hidden memory ended. A limit of descriptors says nothing of the kernel.
pub(super) fn note_hidden(result: Result<()>) {
    if !matches!(result, Err(Errno(libc::EMFILE | libc::ENFILE))) {
        HIDDEN.set(result);
    }
}

fn on_scratch_page(attempt: impl FnOnce(NonNull<u8>, usize) -> Result<()>) -> Result<()> {
    let len = super::page_size();
    let page = map::reserve(len)?;
    // Under mlockall(MCL_FUTURE) it was locked as it was made, and locked memory takes no guard.
    // SAFETY: reserved above. A failure shows in what is tried next.
    let _ = unsafe { lock::unlock(page, len) };
    let result = attempt(page, len);
    // SAFETY: reserved above, and no address in it is kept.
    unsafe { map::release(page, len) }?;
    result
}
