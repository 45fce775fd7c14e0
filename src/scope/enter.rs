//! Into a scope and out of it; out of it for a moment and back.

// UNSAFETY: runs closures on other stacks through the switch, which takes them as raw pointers.
#![expect(unsafe_code, reason = "switches stacks, see UNSAFETY above")]

use core::mem::{ManuallyDrop, MaybeUninit};
use core::ptr::{self, NonNull};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

use super::outcome::Outcome;
use super::stack::{Size, Stack};
use super::thread::{self as state, Before, Here, Place};
use super::{process, registers, switch};
use crate::{Error, Flush, wipe};

/// The most bytes that may leave a scope by value: a signature of RSA-8192.
const OUTCOME_BYTES: usize = 1 << 10;

/// Runs `f` with the heap covered, and nothing else.
#[inline]
pub(super) fn with_heap<R: Outcome, F: FnOnce() -> R>(flush: Flush, f: F) -> R {
    const { assert!(size_of::<R>() <= OUTCOME_BYTES, "too large to leave a scope by value") };
    state::with(|here| match here.place() {
        Place::Outside | Place::Hook => {
            let _settle = Settle { here, flush, before: here.go(Place::Heap, ptr::null()) };
            f()
        }
        Place::Heap | Place::Covered => f(),
    })
}

/// Goes back when dropped, in an unwind too.
struct Back<'a> {
    here: &'a Here,
    before: Before,
}

impl Drop for Back<'_> {
    #[inline]
    fn drop(&mut self) {
        self.here.back(self.before);
    }
}

/// Ends a scope of the heap alone when dropped, in an unwind too.
struct Settle<'a> {
    here: &'a Here,
    flush: Flush,
    before: Before,
}

impl Drop for Settle<'_> {
    #[inline]
    fn drop(&mut self) {
        self.here.back(self.before);
        self.here.settle(self.flush);
    }
}

/// Runs `f` with everything covered.
#[inline]
pub(super) fn covered<R: Outcome, F: FnOnce() -> R>(size: Size, flush: Flush, f: F) -> Result<R, Error> {
    const { assert!(size_of::<R>() <= OUTCOME_BYTES, "too large to leave a scope by value") };
    state::with(|here| {
        if here.place() == Place::Covered {
            // The scope around it runs on a stack of ours and clears everything at its end.
            return Ok(f());
        }
        process::prepare()?;
        let taken = here.take(size)?;
        // SAFETY: `take` gave the stack to us alone, and it lives until it is put back.
        let stack = unsafe { &*taken };
        let mut job = Job::new(f);
        let before = here.go(Place::Covered, taken);
        // SAFETY: nothing runs on the stack yet; the place of the stack pointer is this thread's.
        unsafe { run(stack, &mut job, here.outer_sp.as_ptr()) };
        here.back(before);
        here.settle(flush);
        // SAFETY: what ran on it has returned.
        unsafe { stack.clean(flush) };
        here.clean_alternate(flush);
        here.put(taken);
        let mut outcome = job.finish();
        if let Ok(value) = &mut outcome {
            value.wipe_unused();
        }
        Ok(outcome.unwrap_or_else(|payload| resume_unwind(payload)))
    })
}

/// Runs a job on a stack and clears the registers behind it.
///
/// # Safety
///
/// - Nothing runs on the stack.
/// - `outer_sp` is valid for a write.
#[inline(always)]
unsafe fn run<F: FnOnce() -> R, R>(stack: &Stack, job: &mut Job<F, R>, outer_sp: *mut *mut u8) {
    let data: *mut Job<F, R> = job;
    // SAFETY: the top is a multiple of 16 and the stack below it is free, the caller promises; `body` gets
    // the job that it was made for; `clear` is this processor's.
    unsafe {
        switch::call_inside(stack.top().as_ptr(), data.cast(), body::<F, R>, registers::clear(), outer_sp);
    };
}

/// Runs `f` as if there were no scope.
#[inline]
pub(super) fn suspended<R, F: FnOnce() -> R>(f: F) -> R {
    state::with(|here| match here.place() {
        Place::Outside | Place::Hook => f(),
        Place::Heap => {
            let _back = Back { here, before: here.go(Place::Outside, ptr::null()) };
            f()
        }
        Place::Covered => outside(here, Place::Outside, f),
    })
}

/// Runs `f` on the outer stack.
fn outside<R, F: FnOnce() -> R>(here: &Here, place: Place, f: F) -> R {
    let mut job = Job::new(f);
    let top = here.outer_sp.get();
    let before = here.go(place, ptr::null());
    let data: *mut Job<F, R> = &mut job;
    // SAFETY: `outer_sp` was stored by `call_inside` for the scope that runs now (`Here` 3): a multiple of
    // 16, below which nothing of the outer stack is in use; `body` gets the job that it was made for.
    unsafe { switch::call_outside(top, data.cast(), body::<F, R>, registers::clear()) };
    here.back(before);
    job.finish().unwrap_or_else(|payload| resume_unwind(payload))
}

/// Runs a panic hook of a scope: the heap suspended, on a stack of its own that is wiped afterwards, since
/// the hook of std copies the message, which may hold a secret, to its stack. Where there is no memory for
/// that, on the outer stack.
#[cold]
pub(super) fn hook<F: FnOnce()>(f: F) {
    state::with(|here| match here.place() {
        Place::Outside | Place::Hook => f(),
        Place::Heap => {
            let _back = Back { here, before: here.go(Place::Hook, ptr::null()) };
            f();
        }
        Place::Covered => {
            // Decoding debug information takes more than a scope may have left.
            let size = Size { stack_bytes: 512 << 10, window_bytes: 0 };
            match here.take(size) {
                Err(_) => outside(here, Place::Hook, f),
                Ok(taken) => {
                    // SAFETY: `take` gave the stack to us alone, and it lives until it is put back.
                    let stack = unsafe { &*taken };
                    let mut job = Job::new(f);
                    let before = here.go(Place::Hook, taken);
                    let mut unused = ptr::null_mut();
                    // SAFETY: nothing runs on the stack yet, and `unused` is a local.
                    unsafe { run(stack, &mut job, &raw mut unused) };
                    here.back(before);
                    // SAFETY: what ran on it has returned.
                    unsafe { stack.clean(Flush::Immediate) };
                    here.put_last(taken);
                    job.finish().unwrap_or_else(|payload| resume_unwind(payload));
                }
            }
        }
    });
}

/// Whether the panic hook of a scope runs now.
pub(super) fn is_in_hook() -> bool {
    state::with(|here| here.place() == Place::Hook)
}

/// Runs `f` on a stack and leaves it as it is then, for tests of the stack.
#[cfg(test)]
pub(super) fn on_stack<F: FnOnce()>(stack: &Stack, f: F) {
    let mut job = Job::new(f);
    let mut unused = ptr::null_mut();
    // SAFETY: the test owns the stack, and `unused` is a local.
    unsafe { run(stack, &mut job, &raw mut unused) };
    job.finish().unwrap_or_else(|payload| resume_unwind(payload));
}

/// A closure on its way to another stack, and its result on the way back.
///
/// # Invariants
///
/// 1. `body` was not called with it: `f` is there. After it was: `f` is gone, `outcome` is there.
struct Job<F, R> {
    f: ManuallyDrop<F>,
    outcome: MaybeUninit<thread::Result<R>>,
}

impl<F, R> Job<F, R> {
    #[inline]
    fn new(f: F) -> Self {
        Self { f: ManuallyDrop::new(f), outcome: MaybeUninit::uninit() }
    }

    /// The result, after `body` was called. What the closure held by value was moved to the other stack:
    /// the place that it left is wiped.
    #[inline]
    fn finish(mut self) -> thread::Result<R> {
        // SAFETY: a field of a local; the closure in it is gone (invariant 1).
        unsafe { wipe::zero(NonNull::from(&mut self.f).cast(), size_of::<F>()) };
        // SAFETY: written by `body` (invariant 1).
        unsafe { self.outcome.assume_init() }
    }
}

/// What runs on the other stack: the closure, and the end of any panic in it.
///
/// # Safety
///
/// - `data` is a `Job<F, R>` with its closure.
unsafe extern "C" fn body<F: FnOnce() -> R, R>(data: *mut u8) {
    let job = data.cast::<Job<F, R>>();
    // SAFETY: the caller promises the job; nobody else uses it during this call.
    let job = unsafe { &mut *job };
    // SAFETY: the closure is there (`Job` 1), and is not used again.
    let f = unsafe { ManuallyDrop::take(&mut job.f) };
    // A panic goes on outside, with nothing of it in between: whoever asserts unwind safety is the caller
    // of the scope, as for any call.
    job.outcome.write(catch_unwind(AssertUnwindSafe(f)));
}
