//! What scopes have, and where that is less than they ask for.

use core::fmt;
use core::sync::atomic::{AtomicI32, AtomicUsize, Ordering::Relaxed};

use super::registers;
use super::thread::outliving_blocks;

pub use registers::Registers;

/// The stacks of scopes, as [`report()`](crate::report()) shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScopeReport {
    /// Stacks that threads keep for scopes.
    pub stacks: usize,
    /// Bytes locked for them, the alternate signal stacks included.
    pub locked_bytes: usize,
    /// Bytes of these that are pinned as long as the stack exists. Deeper parts are pinned once used.
    pub pinned_bytes: usize,
    /// Times that a stack was locked but could not be pinned.
    pub not_pinned: usize,
    /// The `errno` of the last such refusal.
    pub not_pinned_errno: i32,
    /// Stacks that are looked through as a whole at the end of each scope, since the system does not tell
    /// which of their pages were written (no files in memory, or no locking of pages as they are touched).
    pub not_tracked: usize,
    /// Blocks that were allocated in a scope and are still there after it, under
    /// [`ScopedAlloc`](crate::ScopedAlloc).
    pub outliving_blocks: usize,
    /// The registers that a scope clears on this processor.
    pub registers: Registers,
}

/// Counters of the process. Relaxed: they order nothing.
#[derive(Debug)]
pub(super) struct Counters {
    stacks: AtomicUsize,
    locked_bytes: AtomicUsize,
    pinned_bytes: AtomicUsize,
    not_pinned: AtomicUsize,
    pin_errno: AtomicI32,
    not_tracked: AtomicUsize,
}

/// Those of this process.
pub(super) static COUNTERS: Counters = Counters {
    stacks: AtomicUsize::new(0),
    locked_bytes: AtomicUsize::new(0),
    pinned_bytes: AtomicUsize::new(0),
    not_pinned: AtomicUsize::new(0),
    pin_errno: AtomicI32::new(0),
    not_tracked: AtomicUsize::new(0),
};

/// Whether a stack tells which of its pages were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tracking {
    /// It does, or has no part that would have to.
    Yes,
    /// It does not.
    No,
}

impl Counters {
    /// Counts a new stack.
    pub(super) fn add_stack(&self, tracking: Tracking) {
        self.stacks.fetch_add(1, Relaxed);
        if tracking == Tracking::No {
            self.not_tracked.fetch_add(1, Relaxed);
        }
    }

    /// Counts the end of one.
    pub(super) fn remove_stack(&self, tracking: Tracking) {
        self.stacks.fetch_sub(1, Relaxed);
        if tracking == Tracking::No {
            self.not_tracked.fetch_sub(1, Relaxed);
        }
    }

    /// Counts bytes locked, and pinned or not.
    pub(super) fn add_bytes(&self, locked: usize, pinned: usize, pin_errno: Option<i32>) {
        self.locked_bytes.fetch_add(locked, Relaxed);
        self.pinned_bytes.fetch_add(pinned, Relaxed);
        if let Some(errno) = pin_errno {
            self.not_pinned.fetch_add(1, Relaxed);
            self.pin_errno.store(errno, Relaxed);
        }
    }

    /// Counts their end.
    pub(super) fn remove_bytes(&self, locked: usize, pinned: usize) {
        self.locked_bytes.fetch_sub(locked, Relaxed);
        self.pinned_bytes.fetch_sub(pinned, Relaxed);
    }
}

impl ScopeReport {
    /// Now.
    pub(crate) fn now() -> Self {
        Self {
            stacks: COUNTERS.stacks.load(Relaxed),
            locked_bytes: COUNTERS.locked_bytes.load(Relaxed),
            pinned_bytes: COUNTERS.pinned_bytes.load(Relaxed),
            not_pinned: COUNTERS.not_pinned.load(Relaxed),
            not_pinned_errno: COUNTERS.pin_errno.load(Relaxed),
            not_tracked: COUNTERS.not_tracked.load(Relaxed),
            outliving_blocks: outliving_blocks(),
            registers: registers::level(),
        }
    }
}

impl fmt::Display for ScopeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "scopes: {} stacks, locked {}, pinned {}, blocks that outlived their scope {}, clears {:?}",
            self.stacks, self.locked_bytes, self.pinned_bytes, self.outliving_blocks, self.registers
        )?;
        if self.not_pinned > 0 {
            let (n, errno) = (self.not_pinned, self.not_pinned_errno);
            writeln!(f, "  step down: stacks locked, not pinned, {n} times (errno {errno})")?;
        }
        if self.not_tracked > 0 {
            writeln!(
                f,
                "  note: {} stacks are looked through as a whole after each scope",
                self.not_tracked
            )?;
        }
        Ok(())
    }
}
