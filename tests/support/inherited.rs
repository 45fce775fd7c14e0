//! What a process inherits and a test must not depend on: signals that whoever started it ignores or blocks.
//!
//! `nohup`, and a shell for what it runs in the background, ignore SIGHUP, SIGINT and SIGQUIT, and that survives
//! execve(2). The crate leaves an ignored signal alone, as it should.

use std::ptr;

/// The last of the standard signals and of those of real time (signal(7)).
const LAST: libc::c_int = 64;

/// Gives every signal that is ignored its default, and blocks none in this thread. Makes system calls only, so it may run
/// between fork and exec.
///
/// SIGPIPE stays ignored: that is how Rust's library starts every program.
pub(crate) fn take_no_signal_as_ignored() {
    for signal in (1..=LAST).filter(|signal| *signal != libc::SIGPIPE) {
        // SAFETY: `sigaction` consists of integers, for which all zeros are a value: no flags, no mask, the default.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: `action` is valid for a write. A number that is no signal's is an error (sigaction(2)).
        let read = unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) };
        if read == 0 && action.sa_sigaction == libc::SIG_IGN {
            action.sa_sigaction = libc::SIG_DFL;
            // SAFETY: `action` is valid for a read, and names no handler.
            unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
        }
    }
    // SAFETY: as above: an empty set.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` is valid for a write (sigsetops(3)).
    unsafe { libc::sigemptyset(&raw mut none) };
    // SAFETY: `none` is valid for a read (pthread_sigmask(3)).
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) };
}
