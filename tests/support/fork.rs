//! A forked child that runs a closure and says how it went by its exit status.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// How a forked child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChildEnd {
    /// It ran to its end.
    Done,
    /// Something in it panicked.
    Panicked,
    /// A signal ended it.
    Signal(i32),
    /// Anything else.
    Status(i32),
}

const PANICKED: i32 = 99;

/// Forks, runs `work` in the child, and waits for it. The child leaves by `_exit`, so that nothing of the
/// harness runs twice.
///
/// The caller's process may have other threads; they are not in the child. So `work` must not wait for a lock
/// that one of them might hold: the C library takes care of its own allocator's.
pub(crate) fn in_child(work: impl FnOnce()) -> ChildEnd {
    // SAFETY: the child runs only `work`, which keeps to what is said above, and leaves by `_exit`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        let code = if catch_unwind(AssertUnwindSafe(work)).is_ok() { 0 } else { PANICKED };
        // SAFETY: ends this process.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: `status` is valid for a write; the process is our child and not yet reaped.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid);
    match status {
        0 => ChildEnd::Done,
        _ if libc::WIFSIGNALED(status) => ChildEnd::Signal(libc::WTERMSIG(status)),
        _ if libc::WEXITSTATUS(status) == PANICKED => ChildEnd::Panicked,
        _ => ChildEnd::Status(libc::WEXITSTATUS(status)),
    }
}
