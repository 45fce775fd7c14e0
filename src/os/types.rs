//! The vocabulary of the contract.

use super::Errno;

/// The access to a range of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Every access is a fault.
    None,
    /// Writing is a fault.
    Read,
    /// Reading and writing, never executing.
    ReadWrite,
}

/// How the kernel should treat a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    /// Keep it out of core dumps.
    DontDump,
    /// A forked child has no such mapping.
    DontFork,
    /// A forked child finds zeros.
    WipeOnFork,
    /// No huge pages: the kernel then does not move small pages together into one.
    NoHugePage,
    /// Never merge equal pages with those of other processes (KSM).
    Unmergeable,
    /// Huge pages where they fit.
    HugePage,
    /// Move the range into huge pages now.
    Collapse,
    /// It will be used soon.
    WillNeed,
    /// It will be used from start to end.
    Sequential,
    /// It will be used in no order.
    Random,
    /// It will not be used for a while: first to go when memory is short.
    Cold,
    /// Write it to swap now.
    PageOut,
    /// The kernel may take the pages back, contents and all, until they are written to again.
    Free,
    /// Fault every page in, to be read.
    PopulateRead,
    /// Fault every page in, to be written.
    PopulateWrite,
    /// Undoes `DontDump`.
    DoDump,
    /// Undoes `DontFork`.
    DoFork,
    /// Undoes `WipeOnFork`.
    KeepOnFork,
    /// Merge equal pages with those of other processes.
    Mergeable,
}

/// Whether a range is locked, for primitives that work differently then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockState {
    /// Locked by [`lock`](crate::os::lock).
    Locked,
    /// Not locked.
    Unlocked,
}

/// A resource limit in bytes; `None` is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// The limit in force.
    pub(crate) soft: Option<usize>,
    /// How far the process may raise it on its own.
    pub(crate) hard: Option<usize>,
}

/// Whether the system offers something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Support {
    /// Tried, and it worked.
    Yes,
    /// Tried, and the system said this.
    No(Errno),
    /// Not tried yet: trying it has side effects that nobody asked for so far.
    Untried,
}

/// What the system offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Features {
    /// Guards without a mapping of their own (Linux 6.13).
    pub(crate) guard_install: Support,
    /// Many ranges in one call, on the own process (Linux 6.13).
    pub(crate) process_madvise: Support,
    /// Locking pages as they are touched (Linux 4.4).
    pub(crate) lock_on_fault: Support,
    /// Giving locked memory back (Linux 5.18).
    pub(crate) dontneed_locked: Support,
    /// Zeros in a forked child (Linux 4.14).
    pub(crate) wipe_on_fork: Support,
    /// Pins by io_uring (Linux 5.19): known once the first ring was asked for, since a sandbox may kill a
    /// process for asking.
    pub(crate) io_uring: Support,
    /// Hidden memory by memfd_secret (Linux 5.14): known once it was first asked for, as for `io_uring`.
    pub(crate) hidden: Support,
}
