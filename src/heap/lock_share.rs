//! How much a heap that can do without locks may lock: half of the limit, so that those that cannot find the rest.
//!
//! Asking the kernel costs two system calls, and every unit of a growing heap would ask. The answer is kept, and asked
//! for again every [`USES`] times, after a lock that failed, and so often while the share is used up: a program may
//! raise its limit, or drop the capability to exceed it.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::os;

/// How often an answer is used.
const USES: u32 = 64;

/// The share of one heap.
///
/// # Invariant
/// 1. `bytes` is what the kernel said at most [`USES`] uses ago, or `uses_left` is 0.
#[derive(Debug, Default)]
pub(crate) struct LockShare {
    bytes: AtomicUsize,
    uses_left: AtomicU32,
}

impl LockShare {
    /// The most that the heap may have locked in all.
    pub(crate) fn bytes(&self) -> usize {
        // Relaxed: threads that race ask once more than they need.
        match self.uses_left.load(Ordering::Relaxed) {
            0 => {
                let bytes = ask();
                self.bytes.store(bytes, Ordering::Relaxed);
                self.uses_left.store(USES, Ordering::Relaxed);
                bytes
            }
            left => {
                self.uses_left.store(left.saturating_sub(1), Ordering::Relaxed);
                self.bytes.load(Ordering::Relaxed)
            }
        }
    }

    /// The answer is out of date.
    pub(crate) fn forget(&self) {
        self.uses_left.store(0, Ordering::Relaxed);
    }
}

fn ask() -> usize {
    match os::memlock_limit().soft {
        Some(limit_bytes) if !os::may_exceed_memlock_limit() => limit_bytes / 2,
        _ => usize::MAX,
    }
}
