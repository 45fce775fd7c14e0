//! What the process gets once, with the first scope: a handler that names an overflow of a scope's stack,
//! and a panic hook that runs outside.

use core::sync::atomic::{AtomicBool, Ordering};
use std::backtrace::Backtrace;
use std::io::{self, Write};
use std::sync::Once;
use std::{env, panic, thread};

use super::{enter, thread as state};
use crate::os::{self, Errno, stacks};
use crate::{Error, Operation, exit};

/// Whether all is done.
static IS_READY: AtomicBool = AtomicBool::new(false);

/// Done once, by one thread; the others wait.
static ONCE: Once = Once::new();

/// Prepares the process at the first call. One load afterwards.
#[inline]
pub(super) fn prepare() -> Result<(), Error> {
    // Relaxed: what was prepared is the kernel's and std's, both with locks of their own.
    if IS_READY.load(Ordering::Relaxed) { Ok(()) } else { prepare_slow() }
}

#[cold]
#[inline(never)]
fn prepare_slow() -> Result<(), Error> {
    let mut result = Ok(());
    ONCE.call_once(|| {
        // First, so that its handlers find those of std in place, which they know, and ours come before.
        exit::arm();
        result = stacks::watch_faults(on_fault);
    });
    result.map_err(|Errno(errno)| Error::Os { operation: Operation::SignalStack, errno })?;
    // std refuses to change the hook in a thread that panics. Then a later scope does it.
    if !thread::panicking() && !IS_READY.swap(true, Ordering::Relaxed) {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            enter::hook(|| {
                resolve_a_backtrace();
                before(info);
            });
        }));
    }
    Ok(())
}

/// Makes std's table of debug information, on a stack that is still all zero.
///
/// std's hook first formats the message into a buffer on its stack, then makes the table, by copying
/// structures that are not initialised in full from the same part of the stack into a static: 32 bytes of a
/// message that held a secret were found there. Once the table is made it is only read.
#[cold]
fn resolve_a_backtrace() {
    if !enter::is_in_hook() || env::var_os("RUST_BACKTRACE").is_none_or(|value| value == "0") {
        return;
    }
    // A sink cannot fail.
    let _ = write!(io::sink(), "{}", Backtrace::force_capture());
}

/// Runs in a signal handler.
fn on_fault(address: usize) {
    if state::is_overflow(address) {
        os::abort_with(
            "stack overflow in a scope: give it a larger stack with Scope::builder().stack_bytes(..)",
        );
    }
}
