//! Handlers for the signals that end a process.
//!
//! What each does is in the table of the module above.

// UNSAFETY: a signal handler gets pointers from the kernel, and changing a signal's disposition is unsafe
// because what it names runs at any point of any thread.
#![expect(unsafe_code, reason = "handles signals")]

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::os::signal::{self, Disposition, Info};
use crate::{heap, os};

/// Sets our handlers where the disposition allows it.
pub(super) fn arm() {
    for number in signal::ENDINGS.into_iter().chain(signal::FAULTS) {
        if signal::disposition(number).is_ok_and(|current| current.is_default()) {
            let handler = if signal::FAULTS.contains(&number) { on_fault } else { on_ending };
            // SAFETY: both handlers do only what is async-signal-safe: see there.
            let _ = unsafe { signal::set_disposition(number, &Disposition::handled_by(handler)) };
        }
    }
    for chained in &CHAINED {
        chained.arm();
    }
}

/// Faults for which there may be a handler that is to run before ours.
static CHAINED: [Chained; 2] = [Chained::new(signal::SIGSEGV), Chained::new(signal::SIGBUS)];

/// Puts back what was there before our handlers, where they still are.
pub(super) fn disarm() {
    let default = Disposition::default_action();
    for number in signal::ENDINGS.into_iter().chain(signal::FAULTS) {
        if is_ours(number) {
            // SAFETY: names no handler.
            let _ = unsafe { signal::set_disposition(number, &default) };
        }
    }
    for chained in &CHAINED {
        chained.disarm();
    }
}

/// Whether the handler that is installed for a signal is ours.
fn is_ours(number: c_int) -> bool {
    signal::disposition(number).is_ok_and(|current| {
        let ours: [signal::Handler; 3] = [on_fault, on_ending, on_chained_fault];
        ours.into_iter().any(|handler| current.is_handled_by(handler))
    })
}

/// Async-signal-safe, as are all functions from here on: no allocation, no lock, no formatting, no panic;
/// system calls only from the list of signal-safety(7).
extern "C" fn on_ending(number: c_int, _info: *mut Info, _context: *mut c_void) {
    // Called by a handler that replaced ours, instead of a default that it would not have called; or sent
    // to process 1, where the default is to do nothing (pid_namespaces(7)).
    if !is_ours(number) || os::process_id() == 1 {
        return;
    }
    wipe_before_the_end();
    end_by(number);
}

extern "C" fn on_fault(number: c_int, info: *mut Info, _context: *mut c_void) {
    // SAFETY: `info` is the kernel's.
    if unsafe { is_nothing_to_process_1(info) } {
        return;
    }
    wipe_before_the_end();
    end_by(number);
}

extern "C" fn on_chained_fault(number: c_int, info: *mut Info, context: *mut c_void) {
    let previous = CHAINED.iter().find(|chained| chained.number == number).and_then(Chained::previous);
    let Some(previous) = previous.filter(|previous| !previous.is_default()) else {
        return on_fault(number, info, context);
    };
    // SAFETY: `info` is the kernel's.
    if unsafe { is_nothing_to_process_1(info) } {
        return;
    }
    if is_rusts(&previous) {
        // It never recovers. For a stack overflow it prints a message and aborts; that signal would need a
        // second frame on the alternate stack, where there is room for one, so everything is done before.
        wipe_before_the_end();
        if is_ours(signal::SIGABRT) {
            put_default(signal::SIGABRT);
        }
    }
    let before = signal::disposition(number);
    // SAFETY: read from the kernel when ours replaced it; the arguments are the kernel's.
    unsafe { previous.call(number, info, context) };
    // A handler that can do nothing for the fault puts another disposition in place and returns, so that the
    // fault happens again: Rust's own puts the default. One that changes nothing has recovered.
    match (before, signal::disposition(number)) {
        (Ok(before), Ok(after)) if before.is_like(&after) => {}
        (_, Ok(after)) if !after.is_default() => wipe_before_the_end(),
        _ => {
            wipe_before_the_end();
            end_by(number);
        }
    }
}

/// Whether this is the handler of Rust's standard library: it sets the same one for both signals.
fn is_rusts(previous: &Disposition) -> bool {
    let is_the_same = |chained: &Chained| chained.previous().is_some_and(|other| other.is_like(previous));
    previous.looks_like_rusts() && CHAINED.iter().all(is_the_same)
}

/// Whether this is process 1 and another process sent the signal, which the default then ignores
/// (pid_namespaces(7)).
///
/// # Safety
///
/// * `info` is what the kernel gave to the handler that runs now.
unsafe fn is_nothing_to_process_1(info: *const Info) -> bool {
    // SAFETY: the kernel's, says the caller.
    os::process_id() == 1 && unsafe { signal::is_sent_by_another(info) }
}

/// Lets the signal do what it does by default, once the handler has returned.
fn end_by(number: c_int) {
    put_default(number);
    signal::raise(number);
}

fn put_default(number: c_int) {
    // SAFETY: names no handler.
    let _ = unsafe { signal::set_disposition(number, &Disposition::default_action()) };
}

/// Wipes every secret. A second thread that gets here waits for the end: it may have faulted only because
/// a secret turned to zeros, and must not be what ends the process.
fn wipe_before_the_end() {
    /// The thread that is at it, below its process: a child that was forked meanwhile has neither. Or 0.
    static WIPER: AtomicU64 = AtomicU64::new(0);
    if !super::are_signals_wanted() {
        // Opted out after a handler was set in front of ours, so that ours could not be taken away.
        return;
    }
    signal::block_all();
    let process = u64::from(os::incarnation()) << 32;
    let this = process | u64::from(signal::thread_id().cast_unsigned());
    // Relaxed: nothing is read that the other thread wrote.
    let before = WIPER.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |other| {
        // A thread may come twice, as when a handler that was there before us aborts.
        (other >> 32 << 32 != process || other == this).then_some(this)
    });
    match before {
        Ok(_) => heap::purge_all(),
        Err(_) => signal::wait_for_the_end(),
    }
}

/// A signal on which a handler that was there before ours is called first.
struct Chained {
    number: c_int,
    state: AtomicU8,
    /// # Invariants
    ///
    /// 1. Written once, by the thread that took `state` from `EMPTY` to `WRITING`, before it sets `KNOWN`.
    /// 2. Read only where `state` is seen `KNOWN`.
    previous: UnsafeCell<MaybeUninit<Disposition>>,
}

const EMPTY: u8 = 0;
const WRITING: u8 = 1;
const KNOWN: u8 = 2;

// SAFETY: by its invariants the cell is never read while it is written, nor written twice.
unsafe impl Sync for Chained {}

impl Chained {
    const fn new(number: c_int) -> Self {
        Self { number, state: AtomicU8::new(EMPTY), previous: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    /// What was there before ours. Async-signal-safe.
    fn previous(&self) -> Option<Disposition> {
        // Acquire pairs with the Release in `remember`.
        if self.state.load(Ordering::Acquire) != KNOWN {
            return None;
        }
        // SAFETY: `KNOWN`, so nobody writes any more (invariant 1).
        let cell = unsafe { &*self.previous.get() };
        // SAFETY: `KNOWN`, so it is written (invariant 1).
        Some(unsafe { cell.assume_init() })
    }

    /// Keeps the disposition that is found first, and tells whether `found` is that one.
    fn remember(&self, found: &Disposition) -> bool {
        // Relaxed: whoever takes it knows that nothing was written before.
        if self.state.compare_exchange(EMPTY, WRITING, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            // SAFETY: this thread took the state to `WRITING`, so it alone writes and none reads (1, 2).
            unsafe { self.previous.get().write(MaybeUninit::new(*found)) };
            // Release pairs with the Acquire in `previous`.
            self.state.store(KNOWN, Ordering::Release);
            return true;
        }
        self.previous().is_some_and(|previous| previous.is_like(found))
    }

    fn arm(&self) {
        let Ok(found) = signal::disposition(self.number) else { return };
        if found.is_ignored() || found.is_handled_by(on_chained_fault) || !self.remember(&found) {
            return;
        }
        let ours = if found.is_default() {
            Disposition::handled_by(on_chained_fault)
        } else {
            found.replaced_by(on_chained_fault)
        };
        // SAFETY: `on_chained_fault` does only what is async-signal-safe, and so does what it calls, which
        // was a handler of this signal.
        let _ = unsafe { signal::set_disposition(self.number, &ours) };
    }

    fn disarm(&self) {
        if let Some(previous) = self.previous().filter(|_| is_ours(self.number)) {
            // SAFETY: what was there before, so it may run.
            let _ = unsafe { signal::set_disposition(self.number, &previous) };
        }
    }
}
