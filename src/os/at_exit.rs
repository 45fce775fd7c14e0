//! A function that runs when the process exits: the same on every system, from the C library.

// UNSAFETY: calls the C library.
#![expect(unsafe_code, reason = "calls the C library, see UNSAFETY above")]

use super::{Errno, Result};

/// Has `function` called when the process exits by `exit(3)` or by returning from `main`: `atexit(3)`.
///
/// - Result: `NOMEM` when there is no room for one more.
pub(crate) fn at_exit(function: extern "C" fn()) -> Result<()> {
    // SAFETY: it is registered only; it lives as long as this code does, and it may be called at any time,
    // as its type says.
    match unsafe { libc::atexit(function) } {
        0 => Ok(()),
        _ => Err(Errno::NOMEM),
    }
}
