//! A reserved range of addresses, committed, guarded and locked piece by piece.
//!
//! ```text
//! base                                                                        base + len
//!  |  committed   |G|  committed   |G|        reserved: no access, no memory       |
//!  '----------------- hints apply to all of it, once, at the start ----------------'
//! ```
//!
//! Order matters: [`hint`](Reservation::hint) first, then guards, then [`lock`](Reservation::lock), since
//! the kernel installs no guard in locked memory (Linux 6.13 to 6.18) and then an `mprotect` guard is made
//! instead, which splits the mapping.

// UNSAFETY: turns ranges of addresses that it owns into memory and back by system calls.
#![expect(unsafe_code, reason = "calls the os contract on addresses that it owns, see UNSAFETY above")]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use super::PageBytes;
use crate::os::{self, Access, Errno, Hint, LockState};
use crate::{Error, Operation};

/// A reserved range of addresses. Dropping it leaves the range reserved: heaps keep theirs for the life of
/// the process. All methods take `&self`, so many threads may work on different parts at once.
///
/// # Invariants
///
/// 1. `[base, base + len)` came from `os::reserve` and is not released while this value exists; `len > 0`.
/// 2. `base` is a multiple of the page size.
#[derive(Debug)]
pub(crate) struct Reservation {
    base: NonNull<u8>,
    len: PageBytes,
    /// The protection key of its pages, or [`NO_KEY`].
    key: AtomicU32,
}

/// The key of all memory that nobody gave another.
const NO_KEY: u32 = 0;

// SAFETY: the range belongs to the process, not to a thread; the methods do nothing but system calls on it,
// which may come from any thread.
unsafe impl Send for Reservation {}

// SAFETY: as for Send: through `&self` only system calls are made, which the kernel orders among themselves.
unsafe impl Sync for Reservation {}

/// What a guard is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GuardKind {
    /// A mark in the page table: costs no mapping, and outlasts a change of access.
    Marker,
    /// Pages without access: splits the mapping, and ends when access is given again.
    NoAccess,
}

/// How an attempt to move pages ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// They are at their new place.
    There,
    /// The system would not move these: all is as it was.
    Refused,
    /// The system moves none: all is as it was.
    Unsupported,
    /// They are back at their old place, by copying. The new place is not to be used ever again: for a moment it
    /// belonged to nobody, and somebody else may have got it.
    Back,
}

impl Reservation {
    /// Reserves `wanted` bytes, or half, a quarter and so on down to `least` where the limit of addresses
    /// (`RLIMIT_AS`, or `RLIMIT_MEMLOCK` under `mlockall(MCL_FUTURE)`) is too small.
    pub(crate) fn new(wanted: PageBytes, least: PageBytes) -> Result<Self, Error> {
        Self::new_aligned(wanted, least, PageBytes::one())
    }

    /// Reserves exactly these addresses, if none is in use.
    pub(crate) fn new_at(start: usize, size: PageBytes) -> Result<Self, Error> {
        let refused = || failed(Operation::Reserve, Errno::INVAL, size);
        let base = NonNull::new(core::ptr::with_exposed_provenance_mut(start)).ok_or_else(refused)?;
        if start & os::page_size().wrapping_sub(1) != 0 || size == PageBytes::ZERO {
            return Err(refused());
        }
        os::reserve_at(base, size.get()).map_err(|errno| failed(Operation::Reserve, errno, size))?;
        // Under mlockall(MCL_FUTURE): as in `try_aligned`.
        // SAFETY: just reserved.
        let _ = unsafe { os::unlock(base, size.get()) };
        Ok(Self { base, len: size, key: AtomicU32::new(NO_KEY) })
    }

    /// The same at a multiple of `align`, a power of two.
    pub(crate) fn new_aligned(wanted: PageBytes, least: PageBytes, align: PageBytes) -> Result<Self, Error> {
        let mut size = wanted;
        loop {
            let errno = match Self::try_aligned(size, align) {
                Ok(reservation) => return Ok(reservation),
                Err(errno) => errno,
            };
            let half = size.half();
            let scarce = errno == Errno::NOMEM || errno == Errno::AGAIN;
            if !scarce || half < least || half == PageBytes::ZERO {
                return Err(failed(Operation::Reserve, errno, size));
            }
            size = half;
        }
    }

    /// Reserves exactly `size` bytes at a multiple of `align` by reserving more and releasing both ends.
    fn try_aligned(size: PageBytes, align: PageBytes) -> Result<Self, Errno> {
        let surplus = align.checked_sub(PageBytes::one()).ok_or(Errno::INVAL)?;
        let whole = size.checked_add(surplus).ok_or(Errno::NOMEM)?;
        let start = os::reserve(whole.get())?;
        // Under mlockall(MCL_FUTURE) the range was locked as it was made. It must not be: guards cannot be
        // installed then, and all of it counts against the limit. Where it is not locked this does nothing.
        // SAFETY: just reserved. A failure leaves it as it was, and shows when the first guard is made.
        let _ = unsafe { os::unlock(start, whole.get()) };
        let head = start.addr().get().wrapping_neg() & align.get().wrapping_sub(1);
        // SAFETY: `start` is page-aligned, so `head <= align - page = surplus <= whole`.
        let base = unsafe { start.add(head) };
        if head > 0 {
            // SAFETY: [start, start + head) was reserved above, and nothing knows its addresses. A failure
            // leaves addresses reserved that nothing uses: no harm.
            let _ = unsafe { os::release(start, head) };
        }
        let tail = surplus.get().wrapping_sub(head);
        if tail > 0 {
            // SAFETY: `head + size + tail == whole`, so the sum is within the range reserved above.
            let end = unsafe { base.add(size.get()) };
            // SAFETY: [end, end + tail) was reserved above, and nothing knows its addresses; as for the head.
            let _ = unsafe { os::release(end, tail) };
        }
        Ok(Self { base, len: size, key: AtomicU32::new(NO_KEY) })
    }

    /// The first address.
    #[inline]
    pub(crate) const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The size.
    #[inline]
    pub(crate) const fn len(&self) -> PageBytes {
        self.len
    }

    /// Whether the address lies in the range: one subtraction and one compare.
    #[inline]
    pub(crate) fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.base.addr().get()) < self.len.get()
    }

    /// Tells the kernel how to treat the whole range.
    pub(crate) fn hint(&self, hint: Hint) -> Result<(), Error> {
        // SAFETY: the range is reserved (invariant 1).
        unsafe { os::advise(self.base, self.len.get(), hint) }
            .map_err(|errno| failed(Operation::Advise, errno, self.len))
    }

    /// Tells the kernel how to treat a part.
    pub(crate) fn hint_part(&self, offset: PageBytes, len: PageBytes, hint: Hint) -> Result<(), Error> {
        let start = self.part(Operation::Advise, offset, len)?;
        // SAFETY: the part is reserved (invariant 1).
        unsafe { os::advise(start, len.get(), hint) }.map_err(|errno| failed(Operation::Advise, errno, len))
    }

    /// Makes a part readable and writable. Marker guards in it stay guards.
    pub(crate) fn commit(&self, offset: PageBytes, len: PageBytes) -> Result<(), Error> {
        let start = self.part(Operation::Commit, offset, len)?;
        // SAFETY: the part is reserved (invariant 1), and this access is the most there is.
        unsafe { os::protect(start, len.get(), Access::ReadWrite) }
            .map_err(|errno| failed(Operation::Commit, errno, len))
    }

    /// Gives the whole range a protection key. It has no access then; what is committed later keeps the key.
    ///
    /// # Safety
    ///
    /// - No reference into the range is used, until a part is committed, and then by a thread while it has no
    ///   right to the key.
    pub(crate) unsafe fn seal(&self, key: u32) -> Result<(), Error> {
        // SAFETY: the range is reserved (invariant 1), and the caller answers for references.
        unsafe { os::key_protect(self.base, self.len.get(), Access::None, key) }
            .map_err(|errno| failed(Operation::ProtectionKey, errno, self.len))?;
        // Relaxed: who is to use the range gets it by a way that orders this.
        self.key.store(key, Ordering::Relaxed);
        Ok(())
    }

    /// Takes all access to a part away. Its contents and its lock stay: wipe, and discard, first.
    ///
    /// # Safety
    ///
    /// - No reference into the part is used until it is committed again.
    pub(crate) unsafe fn decommit(&self, offset: PageBytes, len: PageBytes) -> Result<(), Error> {
        let start = self.part(Operation::Protect, offset, len)?;
        // SAFETY: the part is reserved (invariant 1), and the caller answers for references.
        unsafe { os::protect(start, len.get(), Access::None) }
            .map_err(|errno| failed(Operation::Protect, errno, len))
    }

    /// Sets the access to a part; its contents and its lock stay. For callers that open and close pages all the
    /// time and know what a refusal means.
    ///
    /// # Safety
    ///
    /// - If `access` allows less than before, no reference into the part is used while it is in force.
    #[inline]
    pub(crate) unsafe fn set_access(
        &self,
        offset: PageBytes,
        len: PageBytes,
        access: Access,
    ) -> Result<(), Errno> {
        let start = self.part(Operation::Protect, offset, len).map_err(|_| Errno::INVAL)?;
        // SAFETY: the part is reserved (invariant 1), and the caller answers for references.
        unsafe { os::protect(start, len.get(), access) }
    }

    /// Makes `count` guards of `len` bytes, the first at `offset`, one every `stride` bytes, in few system
    /// calls, before they are locked. All are of the kind returned: after an error, or a marker refused
    /// halfway, none is trusted.
    ///
    /// # Safety
    ///
    /// - No reference into any of the guards is used from now on.
    pub(crate) unsafe fn guard_each(
        &self,
        offset: PageBytes,
        len: PageBytes,
        stride: PageBytes,
        count: usize,
    ) -> Result<GuardKind, Error> {
        let Some(last) = count.checked_sub(1) else { return Ok(GuardKind::Marker) };
        let span = stride.checked_mul(last).and_then(|before| before.checked_add(len));
        let span = span.ok_or_else(|| failed(Operation::Guard, Errno::INVAL, len))?;
        let first = self.part(Operation::Guard, offset, span)?;
        // SAFETY: all guards lie within `span`, which is reserved (invariant 1), and the caller answers for
        // references.
        if unsafe { os::install_guards(first, len.get(), stride.get(), count) }.is_ok() {
            return Ok(GuardKind::Marker);
        }
        let mut guard = first;
        for index in 0..count {
            // SAFETY: the guard lies within `span`, as above.
            unsafe { os::protect(guard, len.get(), Access::None) }
                .map_err(|errno| failed(Operation::Guard, errno, len))?;
            if index < last {
                // SAFETY: guard `index + 1 <= last` starts within `span`.
                guard = unsafe { guard.add(stride.get()) };
            }
        }
        Ok(GuardKind::NoAccess)
    }

    /// Locks a part: each page stays in RAM from its first touch on. On an error nothing of it is locked.
    pub(crate) fn lock(&self, offset: PageBytes, len: PageBytes) -> Result<(), Error> {
        let start = self.part(Operation::Lock, offset, len)?;
        // SAFETY: the part is reserved (invariant 1).
        unsafe { os::lock(start, len.get()) }.map_err(|errno| {
            // mlock(2) may fail halfway, and then leaves locked and charged what it did so far.
            // SAFETY: as above.
            let _ = unsafe { os::unlock(start, len.get()) };
            failed(Operation::Lock, errno, len)
        })
    }

    /// Unlocks a part. Its contents may be swapped from now on: wipe first.
    pub(crate) fn unlock(&self, offset: PageBytes, len: PageBytes) -> Result<(), Error> {
        let start = self.part(Operation::Lock, offset, len)?;
        // SAFETY: the part is reserved (invariant 1).
        unsafe { os::unlock(start, len.get()) }.map_err(|errno| failed(Operation::Lock, errno, len))
    }

    /// Makes a part hidden memory, readable and writable, all zero; children do not get it. What it was before
    /// (reserved, or hidden) is gone. On an error it is reserved only, with the access `refused`.
    ///
    /// # Safety
    ///
    /// - No reference into the part is used across the call.
    pub(crate) unsafe fn hide(
        &self,
        offset: PageBytes,
        len: PageBytes,
        refused: Access,
    ) -> Result<(), Error> {
        let start = self.part(Operation::Hide, offset, len)?;
        // SAFETY: the part is reserved (invariant 1), and the caller answers for references.
        unsafe { os::hide(start, len.get(), refused) }
            .map_err(|errno| failed(Operation::Hide, errno, len))?;
        let key = self.key.load(Ordering::Relaxed);
        if key == NO_KEY {
            return Ok(());
        }
        // A new mapping, which has the key of ordinary memory until now; there is nothing in it yet.
        // SAFETY: the part is reserved (invariant 1); the caller of `seal` answers for references.
        unsafe { os::key_protect(start, len.get(), Access::ReadWrite, key) }.map_err(|errno| {
            // SAFETY: nobody knows that it was hidden.
            let _ = unsafe { os::unhide(start, len.get(), refused) };
            failed(Operation::ProtectionKey, errno, len)
        })
    }

    /// Turns a part that is hidden back to reserved addresses, with this access at once. Wipe first: what was hidden together with it stays.
    ///
    /// # Safety
    ///
    /// - No reference into the part is used any more.
    pub(crate) unsafe fn unhide(
        &self,
        offset: PageBytes,
        len: PageBytes,
        access: Access,
    ) -> Result<(), Error> {
        let start = self.part(Operation::Hide, offset, len)?;
        // SAFETY: the part is reserved (invariant 1), and the caller answers for references.
        unsafe { os::unhide(start, len.get(), access) }.map_err(|errno| failed(Operation::Hide, errno, len))
    }

    /// Gives the memory of a part back and keeps its access, hints, guards and lock. It reads as zero from now
    /// on; the old pages go back unwiped, so wipe first, and unpin.
    ///
    /// # Safety
    ///
    /// - No reference into the part is used across the call.
    pub(crate) unsafe fn discard(
        &self,
        offset: PageBytes,
        len: PageBytes,
        state: LockState,
    ) -> Result<(), Error> {
        let start = self.part(Operation::Advise, offset, len)?;
        // SAFETY: the part is reserved (invariant 1), and the caller answers for references.
        unsafe { os::discard(start, len.get(), state) }.map_err(|errno| failed(Operation::Advise, errno, len))
    }

    /// Moves the pages of a part to the start of another, of `new_len` bytes, which is readable and writable then; the
    /// rest of it is zero. The old part stays readable and writable, all zero. Hints go along; locked pages are refused.
    ///
    /// # Safety
    ///
    /// - The old part is readable and writable and not pinned; nothing uses an address in either part meanwhile, or in
    ///   the new one at all before.
    pub(crate) unsafe fn move_pages(
        &self,
        old: PageBytes,
        len: PageBytes,
        new: PageBytes,
        new_len: PageBytes,
    ) -> Moved {
        let (Ok(from), Ok(to)) =
            (self.part(Operation::Commit, old, len), self.part(Operation::Commit, new, new_len))
        else {
            return Moved::Refused;
        };
        if len > new_len || self.key.load(Ordering::Relaxed) != NO_KEY {
            return Moved::Refused;
        }
        // Whoever locked them: see `os::move_out`. Where the system does not tell, it does not move pages either.
        // SAFETY: the part is reserved (invariant 1).
        if !matches!(unsafe { os::is_locked(from, len.get()) }, Ok(false)) {
            return Moved::Refused;
        }
        // SAFETY: the part is reserved (invariant 1), and the caller answers for references.
        let between = match unsafe { os::move_out(from, len.get()) } {
            Ok(between) => between,
            // Linux before 5.7 does not know the flag.
            Err(Errno::NOSYS | Errno::INVAL) => return Moved::Unsupported,
            Err(_) => return Moved::Refused,
        };
        // SAFETY: `between` was moved out just now, with this length; the new part is reserved (invariant 1), and the
        // caller answers for its addresses.
        if unsafe { os::move_in(between, len.get(), to, new_len.get()) }.is_ok() {
            return Moved::There;
        }
        // Refilled as far as it is still free. It has no hints, and is not used again.
        let _ = os::reserve_at(to, new_len.get());
        // SAFETY: both are `len` bytes, readable and writable as before, and apart from each other: the kernel gave
        // `between` addresses that nothing used.
        unsafe { core::ptr::copy_nonoverlapping(between.as_ptr(), from.as_ptr(), len.get()) };
        // SAFETY: mapped and writable, and nobody else knows it.
        unsafe { crate::wipe::zero_and_flush(between, len.get()) };
        // SAFETY: it came from `move_out`, and nobody knows its addresses.
        let _ = unsafe { os::release(between, len.get()) };
        Moved::Back
    }

    /// Tells which pages of a part are in RAM: the lowest bit of one byte a page. `out` needs that many bytes.
    pub(crate) fn resident(&self, offset: PageBytes, len: PageBytes, out: &mut [u8]) -> Result<(), Error> {
        let start = self.part(Operation::Advise, offset, len)?;
        // SAFETY: the part is reserved (invariant 1).
        unsafe { os::resident(start, len.get(), out) }.map_err(|errno| failed(Operation::Advise, errno, len))
    }

    /// Reserves the same addresses again, in a forked child that was given none of the range
    /// ([`Hint::DontFork`]). An error if something else lies there by now.
    pub(crate) fn reserve_again(&self) -> Result<(), Error> {
        os::reserve_at(self.base, self.len.get()).map_err(|errno| failed(Operation::Reserve, errno, self.len))
    }

    /// Gives the whole range back to the system.
    ///
    /// # Safety
    ///
    /// - Nothing uses an address in the range any more, and no part of it is pinned.
    pub(crate) unsafe fn release(self) -> Result<(), Error> {
        // SAFETY: the range is reserved (invariant 1), this value ends here, and the caller answers for the
        // rest.
        unsafe { os::release(self.base, self.len.get()) }
            .map_err(|errno| failed(Operation::Reserve, errno, self.len))
    }

    /// The start of a part; an error if the part is not within the range.
    fn part(&self, operation: Operation, offset: PageBytes, len: PageBytes) -> Result<NonNull<u8>, Error> {
        match offset.checked_add(len) {
            // SAFETY: `offset <= offset + len <= self.len`, so the sum is within the range (invariant 1).
            Some(end) if end <= self.len => Ok(unsafe { self.base.add(offset.get()) }),
            _ => Err(failed(operation, Errno::INVAL, len)),
        }
    }
}

/// The error for a failed step on `len` bytes.
#[cold]
fn failed(operation: Operation, errno: Errno, len: PageBytes) -> Error {
    let needed_bytes = len.get();
    match operation {
        Operation::Lock if matches!(errno, Errno::NOMEM | Errno::PERM | Errno::AGAIN) => {
            match os::memlock_limit().soft {
                Some(limit_bytes) => Error::LockLimit { needed_bytes, limit_bytes },
                // Unlimited: it was something else, such as too many mappings.
                None => Error::Os { operation, errno: errno.0 },
            }
        }
        Operation::Hide if errno == Errno::AGAIN => match os::memlock_limit().soft {
            Some(limit_bytes) => Error::LockLimit { needed_bytes, limit_bytes },
            None => Error::Os { operation, errno: errno.0 },
        },
        Operation::Hide if errno == Errno::NOMEM => Error::MappingLimit,
        Operation::Hide if matches!(errno, Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::ACCES) => {
            Error::CannotHide { errno: errno.0 }
        }
        Operation::Reserve | Operation::Commit | Operation::Guard | Operation::Protect
            if errno == Errno::NOMEM || errno == Errno::AGAIN =>
        {
            Error::AddressSpace { needed_bytes }
        }
        _ => Error::Os { operation, errno: errno.0 },
    }
}

#[cfg(test)]
mod tests;
