//! Dispositions of signals, and functions to run at exit.
//!
//! Thin: which signals are handled, and what for, is decided in `exit`.

use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr;

use super::check;
use crate::os::Result;

pub(crate) use libc::{SIGABRT, SIGBUS, SIGSEGV};

/// Signals that the kernel or another process sends, and whose default is to end the process (signal(7)).
pub(crate) const ENDINGS: [c_int; 12] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGPIPE,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGXCPU,
    libc::SIGXFSZ,
    libc::SIGVTALRM,
    libc::SIGPROF,
];

/// Signals by which a thread ends the process for something that it did, besides [`SIGSEGV`] and [`SIGBUS`].
pub(crate) const FAULTS: [c_int; 5] = [SIGABRT, libc::SIGFPE, libc::SIGILL, libc::SIGSYS, libc::SIGTRAP];

/// The highest number of a standard signal (signal(7)).
const MOST_SIGNALS: c_int = 31;

/// What the kernel calls when a signal arrives (`SA_SIGINFO`): its number, what is known of it, and the
/// interrupted context.
pub(crate) type Handler = extern "C" fn(c_int, *mut Info, *mut c_void);

/// What the kernel tells of a signal.
pub(crate) type Info = libc::siginfo_t;

/// What the process does on a signal.
#[derive(Clone, Copy)]
pub(crate) struct Disposition(libc::sigaction);

impl Disposition {
    /// `SIG_DFL`.
    pub(crate) fn default_action() -> Self {
        Self::new(libc::SIG_DFL, 0)
    }

    /// Calls `handler` on the alternate stack, if the thread has one, and with every signal blocked.
    pub(crate) fn handled_by(handler: Handler) -> Self {
        let mut disposition = Self::new(address(handler), libc::SA_SIGINFO | libc::SA_ONSTACK);
        // SAFETY: writes a signal set of ours (sigsetops(3)).
        unsafe { libc::sigfillset(&raw mut disposition.0.sa_mask) };
        disposition
    }

    /// Calls `handler` with the mask and flags of this disposition.
    pub(crate) fn replaced_by(self, handler: Handler) -> Self {
        let mut disposition = self;
        disposition.0.sa_sigaction = address(handler);
        disposition.0.sa_flags |= libc::SA_SIGINFO | libc::SA_ONSTACK;
        disposition
    }

    pub(crate) const fn is_default(&self) -> bool {
        self.0.sa_sigaction == libc::SIG_DFL
    }

    pub(crate) const fn is_ignored(&self) -> bool {
        self.0.sa_sigaction == libc::SIG_IGN
    }

    pub(crate) fn is_handled_by(&self, handler: Handler) -> bool {
        self.0.sa_sigaction == address(handler)
    }

    /// Whether the two name the same handler, or both none.
    pub(crate) const fn is_like(&self, other: &Self) -> bool {
        self.0.sa_sigaction == other.0.sa_sigaction
    }

    /// Whether it has the flags and the empty mask that Rust's own handler of stack overflows is set with
    /// (`std::sys::pal::unix::stack_overflow`, Rust 1.93). Most handlers of runtimes that recover from faults
    /// are set with more: Go's and Java's with `SA_RESTART` and a full mask, Wasmtime's with `SA_NODEFER`.
    /// V8's is set with the same, but for `SIGSEGV` alone.
    pub(crate) fn looks_like_rusts(&self) -> bool {
        /// Added by the C library, "not intended for application use" (sigaction(2)).
        const RESTORER: c_int = 0x0400_0000;
        // SAFETY: reads a signal set of ours (sigsetops(3)).
        let is_masked = |signal| unsafe { libc::sigismember(&raw const self.0.sa_mask, signal) } == 1;
        !self.is_default()
            && !self.is_ignored()
            && self.0.sa_flags & !RESTORER == libc::SA_SIGINFO | libc::SA_ONSTACK
            && !(1..=MOST_SIGNALS).any(is_masked)
    }

    /// Calls the handler of this disposition, if it has one, as the kernel would.
    ///
    /// # Safety
    ///
    /// * The disposition was read from the kernel, so that what it names is a handler.
    /// * The arguments are those that the kernel gave to the handler that runs now.
    pub(crate) unsafe fn call(&self, signal: c_int, info: *mut Info, context: *mut c_void) {
        if self.is_default() || self.is_ignored() {
            return;
        }
        let handler = ptr::with_exposed_provenance::<()>(self.0.sa_sigaction);
        if self.0.sa_flags & libc::SA_SIGINFO == 0 {
            // SAFETY: without SA_SIGINFO the field is the address of a function of this type (sigaction(2)).
            let handler = unsafe { core::mem::transmute::<*const (), extern "C" fn(c_int)>(handler) };
            handler(signal);
        } else {
            // SAFETY: with SA_SIGINFO the field is the address of a function of this type (sigaction(2)).
            let handler = unsafe { core::mem::transmute::<*const (), Handler>(handler) };
            handler(signal, info, context);
        }
    }

    fn new(action: libc::sighandler_t, flags: c_int) -> Self {
        // SAFETY: `struct sigaction` is integers and a function pointer that may be null: zeros are valid.
        let mut raw: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        raw.sa_sigaction = action;
        raw.sa_flags = flags;
        Self(raw)
    }
}

/// What the process does on a signal now. Async-signal-safe.
pub(crate) fn disposition(signal: c_int) -> Result<Disposition> {
    let mut current = Disposition::default_action();
    // SAFETY: reads into a `struct sigaction` of ours and changes nothing (sigaction(2)).
    check(unsafe { libc::sigaction(signal, ptr::null(), &raw mut current.0) }.into())?;
    Ok(current)
}

/// Changes what the process does on a signal. Async-signal-safe.
///
/// # Safety
///
/// * A handler that `wanted` names may run at any point of any thread: it does only what is
///   async-signal-safe (signal-safety(7)).
pub(crate) unsafe fn set_disposition(signal: c_int, wanted: &Disposition) -> Result<()> {
    // SAFETY: `wanted` is a valid `struct sigaction`, and what it names may run, says the caller.
    check(unsafe { libc::sigaction(signal, &raw const wanted.0, ptr::null_mut()) }.into())
}

/// Sends a signal to this thread. It arrives when it is not blocked, or no longer. Async-signal-safe.
pub(crate) fn raise(signal: c_int) {
    // SAFETY: no memory is involved. Fails only for a number that is no signal (raise(3)).
    let _ = unsafe { libc::raise(signal) };
}

/// Blocks every signal in this thread. Async-signal-safe.
pub(crate) fn block_all() {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: writes a signal set of ours (sigsetops(3)).
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: reads the set that was just filled; no old set is asked for (pthread_sigmask(3)).
    let _ = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), ptr::null_mut()) };
}

/// Waits until the process ends; with every signal blocked, for good. Async-signal-safe.
pub(crate) fn wait_for_the_end() -> ! {
    block_all();
    loop {
        // SAFETY: no memory is involved (pause(2)).
        let _ = unsafe { libc::pause() };
    }
}

/// Whether a process other than this one sent the signal, so that it names no fault of ours.
///
/// # Safety
///
/// * `info` is what the kernel gave to the handler that runs now.
pub(crate) unsafe fn is_sent_by_another(info: *const Info) -> bool {
    // SAFETY: the kernel's `siginfo_t`, says the caller.
    let info = unsafe { &*info };
    if !matches!(info.si_code, libc::SI_USER | libc::SI_QUEUE | libc::SI_TKILL) {
        return false;
    }
    // SAFETY: these codes have a sender (sigaction(2)).
    let sender = unsafe { info.si_pid() };
    sender != crate::os::process_id().cast_signed()
}

/// The number of this thread. Async-signal-safe.
pub(crate) fn thread_id() -> i32 {
    // SAFETY: no memory is involved (gettid(2)).
    unsafe { libc::gettid() }
}

#[expect(clippy::as_conversions, reason = "there is no other way from a function to its address")]
fn address(handler: Handler) -> libc::sighandler_t {
    let pointer = handler as *const ();
    pointer.expose_provenance()
}
