//! One stack for scopes: locked, pinned, guarded, and all zero while nothing runs on it.
//!
//! ```text
//!  reservation
//!  | guard (no access) |  deep: tracked pages   |      window      | mark | guard (no access) |
//!                      '- grows down <----------'------------------' <- top
//!                         a page is asked whether   always looked
//!                         it was written            through
//! ```
//!
//! How deep was a stack used? It is all zero at the start, so the used part ends at the deepest byte that
//! is not; but to look for that from the deep end costs a microsecond for 64 KiB, and to look from the
//! shallow end is wrong, since a large frame may leave whole pages untouched above what it writes. Hence
//! two parts. The *window*, next to the top, is looked through from its deep end each time: 8 KiB take 40
//! ns. Of the *deep* part each page answers for itself whether it was written ([`tracked`](super::tracked)):
//! 15 ns for all of them. When one was, the window grows down to include it, and shrinks again after
//! [`PATIENCE`] scopes in a row that did not need it, so a closure that always goes deep pays for its depth
//! by looking through it, and a shallow one does not.
//!
//! The window is pinned. A deep page cannot be before it is first touched: to pin it is to write it. It is
//! locked, and pinned from the end of the first scope that went there on. A window as large as the stack
//! ([`Scope`](super::Scope)) has it all pinned from the start, and looked through each time.

// UNSAFETY: owns a range of addresses, wipes parts of it by address and gives parts of it back.
#![expect(unsafe_code, reason = "wipes and discards raw memory that it owns, see UNSAFETY above")]
#![expect(
    clippy::arithmetic_side_effects,
    reason = "offsets are within the reservation, by invariant 1, which is less than isize::MAX"
)]

use core::cell::Cell;
use core::num::NonZeroU64;
use core::ptr::{self, NonNull};

use super::scan::{self, BLOCK_BYTES};
use super::stats::{COUNTERS, Tracking};
use super::tracked::Tracked;
use crate::os::{self, Hint, LockState, Support};
use crate::pages::{PageBytes, PinId, Reservation, pins};
use crate::wipe;
use crate::{Error, Flush, Operation};

/// Pages without access below the stack: a frame of C code that does not probe its pages may jump over a
/// single one.
const GUARD_PAGES: usize = 16;

/// Scopes in a row that stay above the deep part before it is given back. To discard a page and touch it
/// anew costs 2 to 3 µs, to look through it 20 ns: so giving back early or late costs the same at worst.
const PATIENCE: u32 = 128;

/// Bytes above the top, which hold the mark.
const MARK_BYTES: usize = 64;

/// Nonzero while the stack belongs to this process: a forked child finds zero.
const MARK: u64 = 0x6f75_626c_6965_7474;

/// A stack.
///
/// # Invariants
///
/// 1. `guard <= deep_start <= window <= base_window < end <= pages.len()`, all multiples of the page size.
/// 2. While nothing runs on it, `[window, end - MARK_BYTES)` is zero, and every page of `[deep_start,
///    window)` is unwritten since it was last discarded.
/// 3. `[deep_start, end)` is readable, writable and locked.
/// 4. `[base_window, end)` is pinned if `pin` is there, `[window, base_window)` if `deep_pin` is.
/// 5. Without `tracked`, `deep_start == base_window`.
/// 6. A forked child finds zeros in the window, or, if there is an `owner`, no window.
pub(super) struct Stack {
    pages: Reservation,
    tracked: Option<Tracked>,
    tracking: Tracking,
    owner: Option<u32>,
    deep_start: usize,
    base_window: usize,
    end: usize,
    window: Cell<usize>,
    shallow: Cell<u32>,
    pin: Option<PinId>,
    deep_pin: Cell<Option<NonZeroU64>>,
    /// The next idle stack of the thread.
    pub(super) next: Cell<*mut Self>,
}

/// The sizes of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    /// All that can be used.
    pub(super) stack_bytes: usize,
    /// The part next to the top that is pinned from the start.
    pub(super) window_bytes: usize,
}

impl Stack {
    /// Reserves, guards, locks and pins.
    #[cold]
    pub(super) fn new(size: Size) -> Result<Self, Error> {
        let page = PageBytes::one();
        let window = PageBytes::round_up(size.window_bytes).ok_or(Error::TooLarge)?.max(page);
        let whole = PageBytes::round_up(size.stack_bytes).ok_or(Error::TooLarge)?.max(window);
        let guard = PageBytes::from_pages(GUARD_PAGES).ok_or(Error::TooLarge)?;
        let end = guard.checked_add(whole).ok_or(Error::TooLarge)?;
        let total = end.checked_add(page).ok_or(Error::TooLarge)?;
        let pages = Reservation::new(total, total)?;
        let stack = Self {
            pages,
            tracked: None,
            tracking: Tracking::Yes,
            owner: None,
            deep_start: end.get() - window.get(),
            base_window: end.get() - window.get(),
            end: end.get(),
            window: Cell::new(end.get() - window.get()),
            shallow: Cell::new(0),
            pin: None,
            deep_pin: Cell::new(None),
            next: Cell::new(ptr::null_mut()),
        };
        stack.furnish(guard, whole)
    }

    /// The steps of [`new`](Self::new) after which there is something to give back.
    fn furnish(mut self, guard: PageBytes, whole: PageBytes) -> Result<Self, Error> {
        match self.try_furnish(guard, whole) {
            Ok(()) => {
                COUNTERS.add_stack(self.tracking);
                Ok(self)
            }
            Err(error) => {
                self.unmap();
                Err(error)
            }
        }
    }

    fn try_furnish(&mut self, guard: PageBytes, whole: PageBytes) -> Result<(), Error> {
        let deep = PageBytes::exact(self.base_window - guard.get()).unwrap_or(PageBytes::ZERO);
        // Where locking a page writes it (Linux before 4.4), there is no telling who else did.
        if deep > PageBytes::ZERO && os::features().lock_on_fault == Support::Yes {
            // SAFETY: reserved, not committed, and known to nobody else yet.
            self.tracked = unsafe { Tracked::new(self.at(guard.get()), deep.pages()) }
                .map_err(|errno| Error::Os { operation: Operation::Reserve, errno: errno.0 })?;
        }
        self.deep_start = guard.get();
        if self.tracked.is_none() && deep > PageBytes::ZERO {
            self.tracking = Tracking::No;
            self.base_window = guard.get();
            self.window.set(guard.get());
        }
        // After the mapping was replaced: hints belong to the mapping. Those that a kernel does not know
        // take nothing away that was promised.
        for hint in [Hint::NoHugePage, Hint::Unmergeable] {
            let _ = self.pages.hint(hint);
        }
        self.pages.hint(Hint::DontDump)?;
        let [from, len] = self.part(self.base_window, self.end);
        self.pages.commit(from, len)?;
        if self.pages.hint_part(from, len, Hint::WipeOnFork).is_err() {
            self.pages.hint_part(from, len, Hint::DontFork)?;
            self.owner = Some(os::incarnation());
        }
        self.pages.lock(guard, whole)?;
        // SAFETY: just committed: `end - MARK_BYTES` is a multiple of 64 inside the window.
        unsafe { self.at(self.end - MARK_BYTES).cast::<u64>().write(MARK) };
        let pin = self.pin_part(self.base_window, self.end);
        let pin_errno = pin.as_ref().err().map(|errno| errno.0);
        self.pin = pin.ok();
        COUNTERS.add_bytes(whole.get(), self.pinned_bytes(), pin_errno);
        Ok(())
    }

    /// The bytes that are pinned from the start.
    const fn pinned_bytes(&self) -> usize {
        if self.pin.is_some() { self.end - self.base_window } else { 0 }
    }

    /// Whether it is at least as large as asked for.
    #[inline]
    pub(super) const fn fits(&self, size: Size) -> bool {
        self.end - self.deep_start >= size.stack_bytes && self.end - self.base_window >= size.window_bytes
    }

    /// Whether this is still the process that made it: a forked child does not have its pages.
    #[inline]
    pub(super) fn is_here(&self) -> bool {
        if let Some(owner) = self.owner {
            return owner == os::incarnation();
        }
        // SAFETY: the mark's page is readable (invariant 3), in a forked child too (invariant 6). Volatile:
        // fork is not known to the compiler.
        unsafe { self.at(self.end - MARK_BYTES).cast::<u64>().read_volatile() == MARK }
    }

    /// Where to start: a multiple of 64.
    #[inline]
    pub(super) fn top(&self) -> NonNull<u8> {
        self.at(self.end - MARK_BYTES)
    }

    /// Whether the address is in the guard below.
    pub(super) fn is_overflow(&self, address: usize) -> bool {
        address.wrapping_sub(self.pages.base().addr().get()) < self.deep_start
    }

    /// The size of the window now.
    #[cfg(test)]
    pub(super) fn window_bytes(&self) -> usize {
        self.end - self.window.get()
    }

    /// Whether its deep pages tell if they were written.
    #[cfg(test)]
    pub(super) const fn is_tracked(&self) -> bool {
        self.tracked.is_some()
    }

    /// Whether the first part of the window is pinned.
    #[cfg(test)]
    pub(super) const fn is_pinned(&self) -> bool {
        self.pin.is_some()
    }

    /// Whether there is a deep part of the window, and it is pinned.
    #[cfg(test)]
    pub(super) const fn is_deep_part_pinned(&self) -> bool {
        self.deep_pin.get().is_some()
    }

    /// The window without the mark.
    #[cfg(test)]
    pub(super) fn window_range(&self) -> (NonNull<u8>, usize) {
        (self.at(self.window.get()), self.window_bytes() - MARK_BYTES)
    }

    /// Makes it all zero again after use, and as far past the caches as `flush` says.
    ///
    /// # Safety
    ///
    /// - Nothing runs on it, and no reference into it is used.
    #[inline]
    pub(super) unsafe fn clean(&self, flush: Flush) {
        if let Some(tracked) = &self.tracked {
            let deep_pages = PageBytes::round_down(self.window.get() - self.deep_start).pages();
            if let Some(page) = tracked.first_written(deep_pages) {
                self.grow_slow(page, flush);
            }
        }
        let window = self.window.get();
        let scanned = self.end - BLOCK_BYTES - window;
        // SAFETY: `[window, window + scanned)` is readable (invariant 3), starts at a page, and is whole
        // blocks: pages less one block.
        let used = window + unsafe { scan::first_used(self.at(window), scanned) };
        // SAFETY: `[used, end - MARK_BYTES)` is writable (invariant 3), and nothing uses it.
        unsafe { zero(self.at(used), self.end - MARK_BYTES - used, flush) };
        if window < self.base_window {
            self.shrink_sometimes(used);
        }
    }

    /// Takes deep pages into the window: the whole part from the first written page on becomes zero.
    #[cold]
    #[inline(never)]
    fn grow_slow(&self, page: usize, flush: Flush) {
        let from = self.deep_start + page * PageBytes::one().get();
        let window = self.window.get();
        // SAFETY: writable (invariant 3), and nothing runs on the stack: `clean` is the only caller.
        unsafe { zero(self.at(from), window - from, flush) };
        self.unpin_deep();
        self.window.set(from);
        self.shallow.set(0);
        self.deep_pin.set(self.pin_part(from, self.base_window).ok().map(PinId::into_bits));
    }

    /// Counts scopes that did not need the deep part of the window, and gives it back after enough of them.
    #[inline]
    fn shrink_sometimes(&self, used: usize) {
        if used < self.base_window {
            self.shallow.set(0);
            return;
        }
        self.shallow.set(self.shallow.get() + 1);
        if self.shallow.get() >= PATIENCE {
            self.shrink_slow();
        }
    }

    /// Gives the deep part of the window back. It was just found to be zero, so nothing is lost with it.
    #[cold]
    #[inline(never)]
    fn shrink_slow(&self) {
        self.shallow.set(0);
        if !self.unpin_deep() {
            return;
        }
        let [from, len] = self.part(self.window.get(), self.base_window);
        // SAFETY: nothing runs on the stack: `clean` is the only caller.
        if unsafe { self.pages.discard(from, len, LockState::Locked) }.is_ok() {
            self.window.set(self.base_window);
        }
        // After an error it stays in the window: there it need not be tracked, only looked through.
    }

    /// Ends the pin of the deep part, and tells whether none is left.
    fn unpin_deep(&self) -> bool {
        let Some(bits) = self.deep_pin.get() else { return true };
        let unpinned = pins().unpin(PinId::from_bits(bits)).is_ok();
        if unpinned {
            self.deep_pin.set(None);
        }
        unpinned
    }

    /// Pins a part, where the kernel offers that.
    fn pin_part(&self, from: usize, to: usize) -> os::Result<PinId> {
        // SAFETY: the part is reserved, readable and writable, and unpinned before it is released.
        unsafe { pins().pin(self.at(from), to - from) }
    }

    /// Gives everything back. It is all zero (invariant 2).
    #[cold]
    pub(super) fn release(self) {
        COUNTERS.remove_stack(self.tracking);
        COUNTERS.remove_bytes(self.end - self.deep_start, self.pinned_bytes());
        self.unmap();
    }

    /// The same for one that was not counted yet.
    fn unmap(mut self) {
        let unpinned = self.unpin_deep() && self.pin.take().is_none_or(|pin| pins().unpin(pin).is_ok());
        if let Some(tracked) = self.tracked.take() {
            tracked.release();
        }
        if unpinned {
            // SAFETY: nothing runs on it, it is not in the list of idle stacks, and no pin is left. A
            // failure leaves zeros mapped.
            let _ = unsafe { self.pages.release() };
        }
    }

    /// An address of the range.
    #[inline]
    fn at(&self, offset: usize) -> NonNull<u8> {
        debug_assert!(offset <= self.end, "an offset of the stack");
        // SAFETY: `offset <= end`, which is within the reservation (invariant 1).
        unsafe { self.pages.base().add(offset) }
    }

    /// Two offsets as a start and a length in pages.
    fn part(&self, from: usize, to: usize) -> [PageBytes; 2] {
        [PageBytes::round_down(from), PageBytes::round_down(to - from)]
    }
}

/// Zeros, flushed or not.
///
/// # Safety
///
/// - `ptr` is valid for writes of `len` bytes, and nothing uses them.
#[inline]
pub(super) unsafe fn zero(ptr: NonNull<u8>, len: usize, flush: Flush) {
    match flush {
        // SAFETY: forwarded.
        Flush::Off => unsafe { wipe::zero(ptr, len) },
        // SAFETY: forwarded.
        Flush::Immediate | Flush::Bounded => unsafe { wipe::zero_and_flush(ptr, len) },
    }
}
