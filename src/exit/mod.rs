//! Wiping what is still alive when the process ends.
//!
//! A secret that is dropped is wiped by its owner. Some are alive when the process ends: leaked ones, those
//! of other threads, all of them where nothing unwinds. So the first secret of a process arms two things:
//!
//! * a function called by `exit(3)`, as when `main` returns;
//! * handlers for the signals that end a process, which wipe and then let the signal do what it did
//!   before: the process ends by the same signal, with the same status.
//!
//! ```text
//! signal            armed if its disposition is       what our handler does
//! ABRT FPE ILL      the default                       wipe, restore the default, let it happen again
//! SYS TRAP
//! SEGV BUS          the default                       the same
//!                   Rust's own handler                wipe, then call it
//!                   another handler                   call it, then wipe if it did not recover
//! HUP INT QUIT ...  the default                       wipe, restore the default, raise it again
//! ```
//!
//! A signal that is ignored stays ignored, and one for which the program has a handler (or gets one later)
//! is the program's. Libraries that hand signals on to the handler that was there before them (signal-hook,
//! and so tokio) reach ours where the default would have been: ours sees that it is not the one
//! installed, and does nothing, as the default did for them.
//!
//! The heap of a whole program is left alone: functions at exit and other threads still use it.
//!
//! Not covered: `SIGKILL`, `_exit(2)`, `quick_exit(3)`, power. The kernel gives the pages to nobody
//! without zeroing them, but nothing of ours runs.

#[cfg(all(target_os = "linux", not(oubliette_portable)))]
mod signals;
#[cfg(not(all(target_os = "linux", not(oubliette_portable))))]
#[path = "no_signals.rs"]
mod signals;

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::{heap, os};

/// What is done so that secrets that are alive when the process ends are wiped.
///
/// See [`set_wipe_at_end`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WipeAtEnd {
    /// At exit, and on every signal that ends the process and that the program does not handle or ignore.
    ExitAndSignals,
    /// At exit only. The dispositions of signals are left alone, or put back.
    ExitOnly,
    /// Never.
    Never,
}

/// Sets what is done to wipe the secrets that are alive when the process ends. The default is
/// [`WipeAtEnd::ExitAndSignals`].
///
/// # Side effects of the default
///
/// The first secret of the process (not the import of this crate, nor [`Oubliette`](crate::Oubliette) as
/// the global allocator)
///
/// * registers a function with `atexit(3)`;
/// * sets a handler for those of `SIGHUP`, `SIGINT`, `SIGQUIT`, `SIGILL`, `SIGTRAP`, `SIGABRT`, `SIGFPE`,
///   `SIGUSR1`, `SIGUSR2`, `SIGPIPE`, `SIGALRM`, `SIGTERM`, `SIGXCPU`, `SIGXFSZ`, `SIGVTALRM`, `SIGPROF` and
///   `SIGSYS` whose disposition is the default one, and for `SIGSEGV` and `SIGBUS` unless ignored, calling
///   the handler that was there (Rust's own, which reports stack overflows) first.
///
/// The status with which the process ends is unchanged. Secrets of threads that are still running then read
/// as zeros. Call this before the first secret to avoid any of it; called later with a lesser choice it
/// puts back the dispositions of those signals whose handler is still ours.
///
/// ```
/// oubliette::set_wipe_at_end(oubliette::WipeAtEnd::ExitOnly); // this program wants its signals untouched
/// ```
pub fn set_wipe_at_end(choice: WipeAtEnd) {
    // Relaxed, here and where it is read: the setting orders nothing else.
    CHOICE.store(encode(choice), Ordering::Relaxed);
    if STATE.load(Ordering::Acquire) == ARMED {
        match choice {
            WipeAtEnd::ExitAndSignals => signals::arm(),
            WipeAtEnd::ExitOnly | WipeAtEnd::Never => signals::disarm(),
        }
    }
}

/// Arms the end of the process, the first time that it is called.
#[inline]
pub(crate) fn arm() {
    // Relaxed: a thread that sees an old state goes the slow way, where the exchange decides.
    if STATE.load(Ordering::Relaxed) != ARMED {
        arm_slow();
    }
}

static CHOICE: AtomicU8 = AtomicU8::new(EXIT_AND_SIGNALS);
const EXIT_AND_SIGNALS: u8 = 0;
const EXIT_ONLY: u8 = 1;
const NEVER: u8 = 2;

/// One of these; [`ARMING`] together with the process that is at it, above [`PROCESS_SHIFT`].
static STATE: AtomicU64 = AtomicU64::new(UNARMED);
const UNARMED: u64 = 0;
const ARMING: u64 = 1;
const ARMED: u64 = 2;
const PROCESS_SHIFT: u32 = 32;

/// Whether the choice is still to wipe on signals.
fn are_signals_wanted() -> bool {
    CHOICE.load(Ordering::Relaxed) == EXIT_AND_SIGNALS
}

const fn encode(choice: WipeAtEnd) -> u8 {
    match choice {
        WipeAtEnd::ExitAndSignals => EXIT_AND_SIGNALS,
        WipeAtEnd::ExitOnly => EXIT_ONLY,
        WipeAtEnd::Never => NEVER,
    }
}

#[cold]
fn arm_slow() {
    let arming = u64::from(os::incarnation()) << PROCESS_SHIFT | ARMING;
    let seen = STATE.load(Ordering::Relaxed);
    // A thread of this process that is at it goes on. One of a parent's, which was at it when this child was
    // forked, does not: so the child begins anew. To be called twice at exit does no harm.
    if seen == ARMED || seen == arming {
        return;
    }
    // Acquire and Release pair with the load in `set_wipe_at_end`, which disarms only what is armed.
    if STATE.compare_exchange(seen, arming, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        return;
    }
    // Without room for another function at exit there is none: the kernel still zeroes the pages before
    // anybody else gets them.
    let _ = os::at_exit(on_exit);
    if are_signals_wanted() {
        signals::arm();
    }
    STATE.store(ARMED, Ordering::Release);
    if !are_signals_wanted() {
        // Set meanwhile, by a thread that saw that we were not ready.
        signals::disarm();
    }
}

extern "C" fn on_exit() {
    if CHOICE.load(Ordering::Relaxed) != NEVER {
        heap::purge_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{forked, passes};

    /// Forked at the moment at which another thread of its parent arms.
    #[test]
    fn a_child_of_a_process_that_was_arming_arms_itself() {
        const TEST: &str = concat!(module_path!(), "::a_child_of_a_process_that_was_arming_arms_itself");
        passes(TEST, "forked", || {
            let arming = u64::from(os::incarnation()) << PROCESS_SHIFT | ARMING;
            STATE.store(arming, Ordering::Relaxed);
            arm();
            assert_eq!(
                STATE.load(Ordering::Relaxed),
                arming,
                "the control: left to the thread that is at it"
            );
            let status = forked(|| {
                arm();
                assert_eq!(STATE.load(Ordering::Relaxed), ARMED);
            });
            assert_eq!(status, 0);
            STATE.store(UNARMED, Ordering::Relaxed);
            arm();
            assert_eq!(STATE.load(Ordering::Relaxed), ARMED);
        });
    }
}
