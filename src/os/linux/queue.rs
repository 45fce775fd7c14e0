//! The contract of transfers: a ring that runs requests on registered buffers, by the io-uring crate.
//!
//! Part of the contract itself, since no other system has it; it exists with the feature `io-uring` only.
//!
//! One lock holds both queues and the caller's own records about them, so that no thread can see the one without
//! the other. Waiting in the kernel is done without the lock.
//!
//! # Forks
//!
//! The queues are shared memory, which a child would share with its parent, and whose entries the kernel would take
//! for the parent's. They are left out of a child (`MADV_DONTFORK`), and each use asks first whether this is the
//! process that made them. A child's copy of the descriptor is closed when the queue is dropped there; what lies by
//! then at the addresses of the queues is the child's own and is not unmapped.

use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::ptr::{self, NonNull};
use core::time::Duration;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, opcode, squeue};

use super::{probe, ring};
use crate::os::{Call, Errno, Result, fake, incarnation};

/// What a request does to the buffer's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The file's bytes come into the buffer.
    Read,
    /// The buffer's bytes go into the file.
    Write,
}

/// A transfer on a part of a registered buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) direction: Direction,
    pub(crate) descriptor: RawFd,
    pub(crate) start: NonNull<u8>,
    pub(crate) len: u32,
    /// The slot in which the buffer is registered.
    pub(crate) slot: u16,
    /// Where in the file; [`CURRENT`](Self::CURRENT) for where it stands.
    pub(crate) offset: u64,
}

impl Request {
    /// The offset that means the file's own position.
    pub(crate) const CURRENT: u64 = u64::MAX;
}

// SAFETY: the address is a number until the kernel uses it, which `Locked::push` answers for.
unsafe impl Send for Request {}
// SAFETY: as for Send.
unsafe impl Sync for Request {}

/// A submission and a completion queue, a table of buffers, and records `T` under the same lock.
///
/// # Invariants
///
/// 1. The queues are touched only by who holds the lock, in the process `owner`.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    ring: ManuallyDrop<Uring>,
    owner: u32,
    device: u64,
    inode: u64,
    records: Mutex<T>,
    turn: Condvar,
}

struct Uring(IoUring);

impl core::fmt::Debug for Uring {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Uring").field(&self.0.as_raw_fd()).finish()
    }
}

impl<T> Queue<T> {
    /// Makes the queues, and a table of `slots` empty slots, at most 16,384. `records` gets the number of requests
    /// that fit, which is `entries` rounded up to a power of two; the queue of completions has twice as many.
    ///
    /// - Result: as for `os::Ring::new`; `INVAL` also for 0 or more than 32,768 entries.
    pub(crate) fn new(entries: u32, slots: u32, records: impl FnOnce(u32) -> T) -> Result<Self> {
        fake::gate(Call::RingSetup)?;
        let ring = make(entries, slots);
        probe::note_io_uring(ring.as_ref().map(drop).map_err(|errno| *errno));
        let ring = ring?;
        let (device, inode) = ring::file_of(ring.as_raw_fd())?;
        let records = Mutex::new(records(ring.params().sq_entries()));
        let owner = incarnation();
        Ok(Self { ring: ManuallyDrop::new(Uring(ring)), owner, device, inode, records, turn: Condvar::new() })
    }

    /// Whether this process made it.
    pub(crate) fn is_ours(&self) -> bool {
        self.owner == incarnation()
    }

    /// Closes the descriptor under the queue, as programs do that close all of theirs.
    #[cfg(test)]
    pub(crate) fn close_descriptor(&self) {
        ring::close(self.ring.0.as_raw_fd());
    }

    /// Whether the descriptor is still the one that was made.
    pub(crate) fn is_alive(&self) -> bool {
        self.is_ours() && ring::file_of(self.ring.0.as_raw_fd()) == Ok((self.device, self.inode))
    }

    /// The queues; nothing in a child, where there are none.
    pub(crate) fn lock(&self) -> Option<Locked<'_, T>> {
        // First: in a child the lock may be held for ever, by a thread that is not there.
        self.is_ours().then(|| Locked { queue: self, records: lock(&self.records) })
    }

    /// Pins a range of at most 1 GiB into an empty slot. Conditions and result are those of `os::Ring::register`.
    ///
    /// # Safety
    ///
    /// - The whole range came from `os::reserve` and was not released.
    pub(crate) unsafe fn register(&self, slot: u32, ptr: NonNull<u8>, len: usize) -> Result<()> {
        fake::gate(Call::RingRegister)?;
        let range = libc::iovec { iov_base: ptr.as_ptr().cast(), iov_len: len };
        // SAFETY: the caller promises that the range is its own.
        unsafe { self.update(slot, range) }
    }

    /// Empties a slot. Does nothing in a child.
    ///
    /// - Before: no transfer on that slot is under way. Linux up to 6.12 ends the pin once the requests that were
    ///   made before on any slot have ended, later ones at once.
    pub(crate) fn unregister(&self, slot: u32) -> Result<()> {
        fake::gate(Call::RingUnregister)?;
        let nothing = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        // SAFETY: an empty range is nobody's.
        unsafe { self.update(slot, nothing) }
    }

    /// Waits in the kernel until the queue of completions is not empty. Without the lock: whoever calls it takes
    /// care that no other thread empties the queue meanwhile.
    ///
    /// - Result: `TIME` after `most`, `INTR` after a signal.
    pub(crate) fn wait(&self, most: Option<Duration>) -> Result<()> {
        fake::gate(Call::RingEnter)?;
        let span = most.map(|most| Timespec::new().sec(most.as_secs()).nsec(most.subsec_nanos()));
        let arguments = SubmitArgs::new();
        let arguments = match &span {
            Some(span) => arguments.timespec(span),
            None => arguments,
        };
        let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        // SAFETY: nothing is submitted; `arguments` is what `EXT_ARG` says it is, and lives during the call
        // (io_uring_enter(2)).
        let waited = unsafe { self.ring.0.submitter().enter(0, 1, flags.bits(), Some(&arguments)) };
        waited.map(drop).map_err(errno)
    }

    /// `io_uring_register(IORING_REGISTER_BUFFERS_UPDATE)` on one slot.
    ///
    /// # Safety
    ///
    /// - The range is empty, or the caller's own.
    unsafe fn update(&self, slot: u32, range: libc::iovec) -> Result<()> {
        if !self.is_ours() {
            return Ok(());
        }
        // SAFETY: the caller promises that the range is its own. It is read or written by requests only, for which
        // `Locked::push` answers.
        match unsafe { self.ring.0.submitter().register_buffers_update(slot, &[range], None) } {
            Ok(()) => Ok(()),
            Err(error) => Err(errno(error)),
        }
    }
}

impl<T> Drop for Queue<T> {
    fn drop(&mut self) {
        if self.is_ours() {
            // SAFETY: a value is dropped once, and nothing below uses the field.
            unsafe { ManuallyDrop::drop(&mut self.ring) };
        } else {
            // The rest is not dropped: the queues are not mapped here.
            ring::close(self.ring.0.as_raw_fd());
        }
    }
}

/// The queues, held by one thread.
pub(crate) struct Locked<'a, T> {
    queue: &'a Queue<T>,
    records: MutexGuard<'a, T>,
}

impl<'a, T> Locked<'a, T> {
    /// Puts a transfer into the queue. It begins with the next [`submit`](Self::submit), whoever calls it, and has
    /// ended when [`reap`](Self::reap) gives its tag.
    ///
    /// - Result: `BUSY` where the queue is full. Then nothing was put into it.
    ///
    /// # Safety
    ///
    /// - The bytes of the request are registered in its slot, and until the transfer has ended nobody else writes
    ///   to them, nobody reads them if it reads from a file, and they are not unregistered or unmapped.
    /// - The descriptor stays open until the request is submitted.
    pub(crate) unsafe fn push(&mut self, request: &Request, tag: u64) -> Result<()> {
        let Request { direction, descriptor, start, len, slot, offset } = *request;
        let file = Fd(descriptor);
        let entry = match direction {
            Direction::Read => opcode::ReadFixed::new(file, start.as_ptr(), len, slot).offset(offset).build(),
            Direction::Write => {
                opcode::WriteFixed::new(file, start.as_ptr(), len, slot).offset(offset).build()
            }
        };
        // SAFETY: the caller promises that its memory and its descriptor stay.
        unsafe { self.push_entry(&entry.user_data(tag)) }
    }

    /// Asks the kernel to cancel the transfer of this tag. The answer is a completion with the tag `answer`.
    pub(crate) fn push_cancel(&mut self, tag: u64, answer: u64) -> Result<()> {
        let entry = opcode::AsyncCancel::new(tag).build().user_data(answer);
        // SAFETY: names a request by its tag, and no memory.
        unsafe { self.push_entry(&entry) }
    }

    /// # Safety
    ///
    /// - What the entry names stays valid until its end.
    unsafe fn push_entry(&mut self, entry: &squeue::Entry) -> Result<()> {
        for _ in 0..2 {
            // SAFETY: this thread holds the lock (invariant 1), and the other one is gone at the end of the statement.
            let mut entries = unsafe { self.queue.ring.0.submission_shared() };
            // SAFETY: forwarded: the caller promises the same.
            if unsafe { entries.push(entry) }.is_ok() {
                return Ok(());
            }
            drop(entries);
            // Full of what earlier attempts could not submit.
            self.submit()?;
        }
        Err(Errno::BUSY)
    }

    /// Submits everything in the queue. After an error some of it may still be there, for the next call.
    pub(crate) fn submit(&mut self) -> Result<()> {
        while self.unsubmitted() > 0 {
            fake::gate(Call::RingEnter)?;
            if self.queue.ring.0.submit().map_err(errno)? == 0 {
                return Err(Errno::AGAIN);
            }
        }
        Ok(())
    }

    /// Entries that the kernel has not taken yet.
    pub(crate) fn unsubmitted(&mut self) -> usize {
        // SAFETY: this thread holds the lock (invariant 1), and no other one exists in it at this moment.
        unsafe { self.queue.ring.0.submission_shared() }.len()
    }

    /// Takes every completion out of the queue: its tag, and bytes transferred or a negative `errno`. Those that the kernel
    /// had to keep back, since the queue was full, too.
    pub(crate) fn reap(&mut self, mut each: impl FnMut(&mut T, u64, i32)) {
        loop {
            let mut nr_taken = 0_usize;
            // SAFETY: this thread holds the lock (invariant 1), and no other one exists in it at this moment.
            let completions = unsafe { self.queue.ring.0.completion_shared() };
            for completion in completions {
                nr_taken = nr_taken.wrapping_add(1);
                each(&mut self.records, completion.user_data(), completion.result());
            }
            // SAFETY: as above, of the other queue.
            let has_more = unsafe { self.queue.ring.0.submission_shared() }.cq_overflow();
            if !has_more || nr_taken == 0 || fake::gate(Call::RingEnter).is_err() {
                return;
            }
            // The kernel fills the queue again when it is entered; the crate asks it to, seeing the same mark.
            if self.queue.ring.0.submit().is_err() {
                return;
            }
        }
    }

    /// Lets go of the lock until another thread calls [`wake_all`](Self::wake_all), or at most this long.
    pub(crate) fn park(self, most: Option<Duration>) -> Self {
        let Self { queue, records } = self;
        let records = match most {
            Some(most) => {
                let woken = queue.turn.wait_timeout(records, most);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
            None => queue.turn.wait(records).unwrap_or_else(PoisonError::into_inner),
        };
        Self { queue, records }
    }

    /// Wakes those who [`park`](Self::park).
    pub(crate) fn wake_all(&self) {
        self.queue.turn.notify_all();
    }
}

impl<T> Deref for Locked<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.records
    }
}

impl<T> DerefMut for Locked<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.records
    }
}

/// Blocks every signal on this thread: handlers belong to the threads of the program. `pthread_sigmask(3)`.
pub(crate) fn block_signals() {
    let mut all = core::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: writes one `sigset_t`.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: reads the set written above.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), ptr::null_mut()) };
}

/// `io_uring_setup(2)` and a sparse table (Linux 5.19).
fn make(entries: u32, slots: u32) -> Result<IoUring> {
    let ring = IoUring::builder().dontfork().build(entries).map_err(errno)?;
    // Without them completions could be lost (Linux 5.5), or a wait could not end in time (5.11). The table is newer
    // than both.
    if !ring.params().is_feature_nodrop() || !ring.params().is_feature_ext_arg() {
        return Err(Errno::NOSYS);
    }
    ring.submitter().register_buffers_sparse(slots).map_err(errno)?;
    Ok(ring)
}

/// A thread that panics under the lock leaves nothing half-done: each change is one assignment.
fn lock<T>(records: &Mutex<T>) -> MutexGuard<'_, T> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::needless_pass_by_value, reason = "fits `map_err`")]
fn errno(error: io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(libc::EIO))
}
