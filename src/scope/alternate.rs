//! The stack that signal handlers run on, for a thread that uses scopes.
//!
//! For a signal the kernel stores every register on a stack: on the alternate one, if the handler asks for
//! that (`SA_ONSTACK`), else below the stack pointer, which in a scope is our own memory. std gives each
//! thread an alternate stack that nobody wipes. So a thread's first scope puts one of ours in its place:
//! locked, guarded, at least as large as the one that was there. It stays for the rest of the thread's
//! life: to change it at each scope would cost two system calls of 200 ns.

// UNSAFETY: owns the memory of a signal stack, and tells the kernel about it.
#![expect(unsafe_code, reason = "hands raw memory to the kernel and wipes it, see UNSAFETY above")]

use core::ptr::NonNull;

use super::stack::zero;
use super::stats::COUNTERS;
use crate::os::{Hint, stacks};
use crate::pages::{PageBytes, PinId, Reservation, pins};
use crate::{Error, Flush, Operation};

/// The least size: twelve registers' worth of AVX-512 frames.
const LEAST_BYTES: usize = 16 << 10;

/// The part below the top that shows whether a signal came. What the kernel stores there is never all zero:
/// with XSAVE its end mark `FP_XSTATE_MAGIC2` is in the last 68 bytes, without it the saved registers, code
/// segment included, end 512 bytes below the top (arch/x86/kernel/fpu/signal.c, signal_64.c); on aarch64
/// the last 16 bytes are the frame record (arch/arm64/kernel/signal.c).
#[cfg(target_arch = "x86_64")]
const SIGN_BYTES: usize = 1 << 10;
#[cfg(target_arch = "aarch64")]
const SIGN_BYTES: usize = 16;

/// An alternate signal stack.
///
/// # Invariants
///
/// 1. `[start, start + len)` is in `pages`, readable, writable and locked.
/// 2. It is written by the kernel for a signal, and by handlers, alone.
#[derive(Debug)]
pub(super) struct Alternate {
    pages: Reservation,
    area: stacks::Area,
    pin: Option<PinId>,
}

impl Alternate {
    /// Makes one and tells the kernel.
    #[cold]
    pub(super) fn install() -> Result<Self, Error> {
        let before = stacks::signal_stack().map_or(0, |area| area.len);
        let wanted = before.max(stacks::signal_stack_least()).max(LEAST_BYTES);
        let page = PageBytes::one();
        let len = PageBytes::round_up(wanted).ok_or(Error::TooLarge)?;
        let guarded = len.checked_add(page).and_then(|len| len.checked_add(page)).ok_or(Error::TooLarge)?;
        let pages = Reservation::new(guarded, guarded)?;
        // SAFETY: one page is within the reservation.
        let start = unsafe { pages.base().add(page.get()) };
        let area = stacks::Area { start, len: len.get() };
        let mut alternate = Self { pages, area, pin: None };
        match alternate.furnish(page, len) {
            Ok(()) => Ok(alternate),
            Err(error) => {
                alternate.unmap();
                Err(error)
            }
        }
    }

    fn furnish(&mut self, start: PageBytes, len: PageBytes) -> Result<(), Error> {
        for hint in [Hint::NoHugePage, Hint::Unmergeable] {
            let _ = self.pages.hint(hint);
        }
        self.pages.hint(Hint::DontDump)?;
        if self.pages.hint(Hint::WipeOnFork).is_err() {
            self.pages.hint(Hint::DontFork)?;
        }
        self.pages.commit(start, len)?;
        self.pages.lock(start, len)?;
        // SAFETY: committed, and unpinned before it is released.
        let pin = unsafe { pins().pin(self.area.start, self.area.len) };
        let pin_errno = pin.as_ref().err().map(|errno| errno.0);
        self.pin = pin.ok();
        // SAFETY: readable and writable, and used for nothing else until `release` takes it away again.
        unsafe { stacks::set_signal_stack(Some(self.area)) }
            .map_err(|errno| Error::Os { operation: Operation::SignalStack, errno: errno.0 })?;
        COUNTERS.add_bytes(self.area.len, self.pinned_bytes(), pin_errno);
        Ok(())
    }

    /// The bytes that are pinned.
    const fn pinned_bytes(&self) -> usize {
        if self.pin.is_some() { self.area.len } else { 0 }
    }

    /// Wipes what signals left there, if any came.
    #[inline]
    pub(super) fn clean(&self, flush: Flush) {
        if self.was_used() {
            self.clean_slow(flush);
        }
    }

    #[cold]
    #[inline(never)]
    fn clean_slow(&self, flush: Flush) {
        // SAFETY: writable (invariant 1), and no handler of this thread runs on it: a scope ends in normal
        // code, or in a handler that itself is on the scope's stack.
        unsafe { zero(self.area.start, self.area.len, flush) };
    }

    /// Whether the end shows the mark of a signal.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn was_used(&self) -> bool {
        let sign = self.sign();
        // SAFETY: readable (invariant 1), aligned to 1 KiB as the end is to a page.
        unsafe { super::scan::first_used(sign, SIGN_BYTES) != SIGN_BYTES }
    }

    /// Whether the end shows the mark of a signal: a frame pointer and a return address.
    #[cfg(target_arch = "aarch64")]
    #[inline]
    fn was_used(&self) -> bool {
        // SAFETY: readable (invariant 1) and aligned. Volatile: the kernel writes it.
        let [frame, link] = unsafe { self.sign().cast::<[u64; 2]>().read_volatile() };
        frame | link != 0
    }

    /// The last [`SIGN_BYTES`].
    #[inline]
    fn sign(&self) -> NonNull<u8> {
        // SAFETY: `len >= LEAST_BYTES > SIGN_BYTES`, so it is inside.
        unsafe { self.area.start.add(self.area.len.wrapping_sub(SIGN_BYTES)) }
    }

    /// Takes it away and gives its memory back. The thread has no alternate stack then: the one from before
    /// may be gone by now.
    #[cold]
    pub(super) fn release(self) {
        COUNTERS.remove_bytes(self.area.len, self.pinned_bytes());
        self.unmap();
    }

    /// The same for one that was not counted yet.
    fn unmap(mut self) {
        if stacks::signal_stack() == Some(self.area) {
            // SAFETY: takes a stack away.
            if unsafe { stacks::set_signal_stack(None) }.is_err() {
                return;
            }
        }
        self.clean(Flush::Immediate);
        if self.pin.take().is_none_or(|pin| pins().unpin(pin).is_ok()) {
            // SAFETY: the kernel does not know of it any more, and no pin is left.
            let _ = unsafe { self.pages.release() };
        }
    }
}
