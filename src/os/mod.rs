//! Every system call of the crate, as one contract.
//!
//! Each primitive is documented here: what must hold before, what it returns, and what it does to the
//! contents of the pages. A backend offers the same names and nothing else: `linux` on Linux, `portable`
//! elsewhere (and on Linux under `--cfg oubliette_portable`, so that it is compiled and tested there).
//! Policy lives above, in `pages/`.
//!
//! Rules for all of them:
//!
//! - They run inside allocator callbacks: none allocates, formats, panics, unwinds or takes a lock.
//! - `ptr` and `len` are multiples of [`page_size`], and `len` is not zero.
//! - All may be called from several threads at once.
//! - They change `errno`; a caller whose own caller must not see that uses [`preserve_errno`].
//! - Every call passes `fake::gate` first, where tests make it fail.

// UNSAFETY: a system call takes raw addresses, so the contract is made of unsafe functions that forward to
// the backend; nothing else is done here.
#![expect(unsafe_code, reason = "forwards raw addresses to the backend, see UNSAFETY above")]

use core::ptr::NonNull;

mod at_exit;
pub(crate) mod call;
mod errno;
pub(crate) mod fake;
mod incarnation;
mod ring;
#[cfg(all(
    target_os = "linux",
    not(oubliette_portable),
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
pub(crate) mod stacks;
mod types;
#[cfg(all(feature = "vfio", target_os = "linux", not(oubliette_portable)))]
mod vfio;

#[cfg(all(target_os = "linux", not(oubliette_portable)))]
mod linux;
#[cfg(all(target_os = "linux", not(oubliette_portable)))]
use linux as backend;
#[cfg(not(all(target_os = "linux", not(oubliette_portable))))]
mod portable;
#[cfg(all(feature = "io-uring", target_os = "linux", not(any(miri, loom, oubliette_portable))))]
pub(crate) use linux::queue;
#[cfg(all(
    feature = "xdp",
    target_os = "linux",
    target_pointer_width = "64",
    not(any(miri, loom, oubliette_portable))
))]
pub(crate) use linux::xdp;
#[cfg(all(target_os = "linux", not(oubliette_portable)))]
pub(crate) use linux::{direct, signal};
#[cfg(not(all(target_os = "linux", not(oubliette_portable))))]
use portable as backend;

pub(crate) use at_exit::at_exit;
pub(crate) use call::Call;
pub(crate) use errno::{Errno, Result};
pub(crate) use incarnation::incarnation;
pub(crate) use ring::Ring;
pub(crate) use types::{Access, Features, Hint, Limit, LockState, Support};
#[cfg(all(feature = "vfio", target_os = "linux", not(oubliette_portable)))]
pub(crate) use vfio::{
    DeviceAccess, DeviceRegion, VfioContainer, VfioDevice, VfioGroup, group_members, group_of,
    is_given_by_iommufd,
};

/// Whether [`discard`] works on memory without access.
pub(crate) const DISCARDS_WITHOUT_ACCESS: bool = backend::DISCARDS_WITHOUT_ACCESS;

/// The size of a huge page: 2 MiB where a page has 4 KiB (x86-64, most aarch64).
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// The size of a page in bytes: a power of two, the same for the life of the process.
#[inline]
pub(crate) fn page_size() -> usize {
    backend::page_size()
}

/// Reserves `len` bytes of addresses: no access, no memory, no commit charge.
///
/// - Result: the first address, aligned to a page. `NOMEM` when addresses or mappings run out (also
///   `RLIMIT_AS`), `AGAIN` when the process locks all future memory and the limit of that is too small.
/// - Contents: zero once access is given by [`protect`].
pub(crate) fn reserve(len: usize) -> Result<NonNull<u8>> {
    fake::gate(Call::Reserve)?;
    backend::reserve(len)
}

/// Reserves exactly these addresses, of which none is in use.
///
/// - Result: as for [`reserve`]; `EXIST` when some of them are in use, `NOSYS` where the system cannot tell.
pub(crate) fn reserve_at(ptr: NonNull<u8>, len: usize) -> Result<()> {
    fake::gate(Call::Reserve)?;
    backend::reserve_at(ptr, len)
}

/// Puts explicit huge pages of [`HUGE_PAGE_BYTES`] in the place of a reserved range: readable, writable, never
/// swapped. They come from the system's pool, and as many as it takes are set aside by this call.
///
/// - Before: `ptr` and `len` are multiples of [`HUGE_PAGE_BYTES`].
/// - Result: `NOMEM` when the pool has too few, `NOSYS` where there are none.
/// - Contents: zero.
///
/// # Safety
///
/// - The whole range came from [`reserve`] and was not released, and nothing uses an address in it.
pub(crate) unsafe fn map_huge(ptr: NonNull<u8>, len: usize) -> Result<()> {
    fake::gate(Call::Reserve)?;
    // SAFETY: forwarded: the caller promises the same.
    unsafe { backend::map_huge(ptr, len) }
}

/// Gives a range of addresses back to the system.
///
/// - Result: `NOMEM` when the range lies inside one mapping and the process has too many mappings to split it.
/// - Contents: gone, not wiped.
///
/// # Safety
///
/// - The whole range came from [`reserve`].
/// - Nothing uses an address in it any more: no reference, no pinned page that the kernel still writes to.
pub(crate) unsafe fn release(ptr: NonNull<u8>, len: usize) -> Result<()> {
    fake::gate(Call::Release)?;
    // SAFETY: forwarded: the caller promises the same two things.
    unsafe { backend::release(ptr, len) }
}

/// Sets the access to a range.
///
/// - Result: `NOMEM` when the process has too many mappings, or too little memory to commit.
/// - Contents: kept.
///
/// # Safety
///
/// - The whole range came from [`reserve`] and was not released.
/// - If `access` allows less than before, no reference into the range is used while it is in force.
pub(crate) unsafe fn protect(ptr: NonNull<u8>, len: usize, access: Access) -> Result<()> {
    fake::gate(Call::Protect)?;
    // SAFETY: forwarded: the caller promises the same two things.
    unsafe { backend::protect(ptr, len, access) }
}

/// Moves the pages of a range out of it, to addresses of the system's choice: no page is copied, and each exists once
/// all the time. The range keeps its access and its hints, which the pages take along.
///
/// - Before: readable and writable, one mapping, neither locked nor pinned (Linux 6.18 counts moved pages that are
///   locked twice against the limit).
/// - Result: where they are now: for [`move_in`], or [`release`]. `NOSYS` or `INVAL` where the system cannot (Linux
///   before 5.7), `FAULT` when it is more than one mapping, `NOMEM`; after an error all is as it was.
/// - Contents: those of the range are zero afterwards.
///
/// # Safety
///
/// - The whole range came from [`reserve`] and was not released.
/// - No reference into it is used across the call.
pub(crate) unsafe fn move_out(ptr: NonNull<u8>, len: usize) -> Result<NonNull<u8>> {
    fake::gate(Call::MovePages)?;
    // SAFETY: forwarded: the caller promises the same two things.
    unsafe { backend::move_out(ptr, len) }
}

/// Moves pages that were moved out to the range of `new_len` bytes at `to`, as its first `len` bytes. The rest of it is
/// new, and like them.
///
/// - Before: `len <= new_len`.
/// - Result: as for [`move_out`]; after an error the pages are where they were, but `to` may have been released.
/// - Contents: what `to` held is gone; zero behind the pages.
///
/// # Safety
///
/// - `[from, from + len)` came from [`move_out`]; it is released by this call, unless that fails.
/// - The whole range at `to` came from [`reserve`] and was not released, and nothing uses an address in it.
pub(crate) unsafe fn move_in(from: NonNull<u8>, len: usize, to: NonNull<u8>, new_len: usize) -> Result<()> {
    fake::gate(Call::MovePages)?;
    // SAFETY: forwarded: the caller promises the same two things.
    unsafe { backend::move_in(from, len, to, new_len) }
}

/// Takes a memory protection key for this process. This thread has no access to what gets the key, and no
/// thread has that was started before anybody first had the key (pkeys(7)).
///
/// - Result: `NOSPC` where none is free, which is also what a CPU without keys gives; `NOSYS` or `INVAL` where
///   the kernel has none.
pub(crate) fn key_new() -> Result<u32> {
    fake::gate(Call::KeyNew)?;
    fake::simulated_key().map_or_else(backend::key_new, Ok)
}

/// Gives a key back that came from [`key_new`] and that no page has.
pub(crate) fn key_free(key: u32) {
    if !fake::simulates_keys() {
        backend::key_free(key);
    }
}

/// Gives a key to a range and sets the access to it. [`protect`] leaves the key as it is.
///
/// - Result: as for [`protect`]; `INVAL` where the key is not one of the process.
/// - Contents: kept.
///
/// # Safety
///
/// - The whole range came from [`reserve`] and was not released.
/// - No reference into the range is used by a thread while it has no right to the key, or `access` does not
///   allow it.
pub(crate) unsafe fn key_protect(ptr: NonNull<u8>, len: usize, access: Access, key: u32) -> Result<()> {
    fake::gate(Call::KeyProtect)?;
    if fake::simulates_keys() {
        // SAFETY: forwarded: the caller promises the same two things.
        return unsafe { backend::protect(ptr, len, access) };
    }
    // SAFETY: as above.
    unsafe { backend::key_protect(ptr, len, access, key) }
}

/// Makes `count` ranges of `len` bytes guards, the first at `first`, each `stride` bytes after the one before,
/// in few system calls: any access to one is a fault, whatever [`protect`] says, and no mapping is split.
///
/// - Before: not locked. Reserved pages without access will do.
/// - Result: `INVAL` or `NOSYS` where the system has no such guards or a range is locked: use [`protect`] with
///   [`Access::None`] instead. After an error some of the guards may be there.
/// - Contents: gone.
///
/// # Safety
///
/// - All ranges lie within one that came from [`reserve`] and was not released.
/// - No reference into them is used afterwards.
pub(crate) unsafe fn install_guards(
    first: NonNull<u8>,
    len: usize,
    stride: usize,
    count: usize,
) -> Result<()> {
    fake::gate(Call::InstallGuard)?;
    // SAFETY: forwarded: the caller promises the same two things.
    unsafe { backend::install_guards(first, len, stride, count) }
}

/// Locks a range in RAM, page by page as it is touched: an untouched page costs no memory, yet the whole
/// range counts against the limit at once, guards included.
///
/// - Before: guards are in place. Memory without access, and guards, may lie in the range where
///   `Features::lock_on_fault` is `Yes`.
/// - Result: `NOMEM` (limit reached, or too many mappings), `PERM` (limit is zero), `AGAIN`. After an error
///   part of the range may be locked and charged: call [`unlock`].
/// - Contents: kept. A locked page is not swapped, but may still be moved to another frame.
///
/// # Safety
///
/// - The whole range came from [`reserve`] and was not released.
pub(crate) unsafe fn lock(ptr: NonNull<u8>, len: usize) -> Result<()> {
    fake::gate(Call::Lock)?;
    // SAFETY: forwarded: the caller promises the same.
    unsafe { backend::lock(ptr, len) }
}

/// Ends [`lock`], however often it was called on the range.
///
/// - Contents: kept, and from now on they may be swapped: wipe first.
///
/// # Safety
///
/// - The whole range came from [`reserve`] and was not released.
pub(crate) unsafe fn unlock(ptr: NonNull<u8>, len: usize) -> Result<()> {
    fake::gate(Call::Unlock)?;
    // SAFETY: forwarded: the caller promises the same.
    unsafe { backend::unlock(ptr, len) }
}

/// Tells the kernel how to treat a range from now on.
///
/// - Result: `INVAL` or `NOSYS` where the system does not know the hint, or not for such memory.
/// - Contents: kept; after `Hint::Free` each page may turn to zeros until it is written to.
///
/// # Safety
///
/// - The whole range came from [`reserve`] and was not released.
/// - No reference into it is used across `Hint::Free`.
pub(crate) unsafe fn advise(ptr: NonNull<u8>, len: usize, hint: Hint) -> Result<()> {
    fake::gate(Call::Advise)?;
    // SAFETY: forwarded: the caller promises the same.
    unsafe { backend::advise(ptr, len, hint) }
}

/// Gives the memory of a range back and keeps the addresses, the access, the hints and the lock.
///
/// - Before: readable and writable, and not pinned (the pin would stay on the old page).
/// - Contents: zero at the next touch. The old pages are not wiped by this call: wipe first.
/// - Result: after an error the contents are kept, or zero; the lock may be lost where the system needs
///   to take it off for a moment (Linux before 5.18), and the error is then that of locking again.
///
/// # Safety
///
/// - The whole range came from [`reserve`] and was not released.
/// - No reference into it is used across the call.
pub(crate) unsafe fn discard(ptr: NonNull<u8>, len: usize, state: LockState) -> Result<()> {
    fake::gate(Call::Discard)?;
    // SAFETY: forwarded: the caller promises the same two things.
    unsafe { backend::discard(ptr, len, state) }
}

/// Puts hidden memory in the place of a range: memory that the kernel itself has no mapping of, so that neither
/// a debugger nor `/proc/PID/mem` nor a device gets at it. Readable and writable, locked by nature, never moved,
/// not in core dumps; a child made by fork has no such mapping.
///
/// - Before: no access, nothing of it locked or pinned; or hidden, and then what it holds is gone.
/// - Result: `NOSYS` where the system has none or it is switched off, `PERM` or what else a sandbox says, `AGAIN` at the
///   limit of locked memory, `NOMEM` with too many mappings, `MFILE` without a free descriptor, `BUSY` where other
///   threads fork all the time. After an error the range is reserved as before, or with
///   the access `refused`, at any moment.
/// - Contents: zero. The pages are taken at the first touch; with no memory left for them that is a fault.
/// - The machine does not hibernate as long as there is any.
///
/// # Safety
///
/// - The whole range came from [`reserve`] and was not released.
/// - No reference into it is used across the call.
pub(crate) unsafe fn hide(ptr: NonNull<u8>, len: usize, refused: Access) -> Result<()> {
    fake::gate(Call::Hide)?;
    // SAFETY: forwarded: the caller promises the same two things.
    unsafe { backend::hide(ptr, len, refused) }
}

/// Ends [`hide`] for a range, or for the part of one: reserved addresses again, with this access at once, that
/// children do not get.
///
/// - Result: `NOMEM` with too many mappings; then it is as it was.
/// - Contents: gone, and zeroed by the kernel once nothing else maps what was hidden together.
///
/// # Safety
///
/// - The whole range came from [`reserve`] and was not released.
/// - No reference into it is used afterwards.
pub(crate) unsafe fn unhide(ptr: NonNull<u8>, len: usize, access: Access) -> Result<()> {
    fake::gate(Call::Unhide)?;
    // SAFETY: forwarded: the caller promises the same two things.
    unsafe { backend::unhide(ptr, len, access) }
}

/// Tells which pages of a range are in RAM: `out` gets one byte a page, whose lowest bit says so.
///
/// - Before: `out` has at least one byte for every page of the range, else `INVAL`.
///
/// # Safety
///
/// - The whole range came from [`reserve`] and was not released.
pub(crate) unsafe fn resident(ptr: NonNull<u8>, len: usize, out: &mut [u8]) -> Result<()> {
    fake::gate(Call::Resident)?;
    // SAFETY: forwarded: the caller promises the same.
    unsafe { backend::resident(ptr, len, out) }
}

/// Whether any page of a range is locked, as the system knows it.
///
/// - Result: `NOSYS` where the system does not tell.
///
/// # Safety
///
/// - The whole range came from [`reserve`] and was not released.
pub(crate) unsafe fn is_locked(ptr: NonNull<u8>, len: usize) -> Result<bool> {
    fake::gate(Call::Resident)?;
    // SAFETY: forwarded: the caller promises the same.
    unsafe { backend::is_locked(ptr, len) }
}

/// Fills `out` with random bytes from the kernel, in place. Waits until the kernel's generator is seeded.
///
/// - Result: after an error `out` may be filled in part.
pub(crate) fn fill_random(out: &mut [u8]) -> Result<()> {
    fake::gate(Call::Random)?;
    backend::fill_random(out)
}

/// The number of this process, as the system gives it. A child made by fork may have the same, in a namespace of its
/// own: what is to be told apart from it goes by [`incarnation()`].
pub(crate) fn process_id() -> u32 {
    std::process::id()
}

/// Whether the calling thread is the one that the process began with, at whose end the process as a rule ends.
#[cfg(all(target_os = "linux", not(any(oubliette_portable, miri))))]
pub(crate) fn is_main_thread() -> bool {
    signal::thread_id().cast_unsigned() == process_id()
}

/// The same where the system does not tell.
#[cfg(not(all(target_os = "linux", not(any(oubliette_portable, miri)))))]
pub(crate) fn is_main_thread() -> bool {
    false
}

/// The limit of locked memory (`RLIMIT_MEMLOCK`). Unlimited where the system has no such limit.
pub(crate) fn memlock_limit() -> Limit {
    backend::memlock_limit()
}

/// Milliseconds since some moment: may be some milliseconds old, and may stand still where there is no clock. Costs no
/// system call on Linux.
pub(crate) fn coarse_milliseconds() -> u64 {
    backend::coarse_milliseconds()
}

/// Whether this thread may lock more than [`memlock_limit`] says (`CAP_IPC_LOCK` on Linux).
pub(crate) fn may_exceed_memlock_limit() -> bool {
    backend::may_exceed_memlock_limit()
}

/// Bytes that the whole process has locked, as the system counts them. `None` if it does not tell.
pub(crate) fn locked_bytes() -> Option<usize> {
    backend::locked_bytes()
}

/// The limit of address space (`RLIMIT_AS`). Unlimited where the system has no such limit.
pub(crate) fn address_space_limit() -> Limit {
    backend::address_space_limit()
}

/// What this system offers, probed on a scratch page at the first call and kept.
pub(crate) fn features() -> Features {
    fake::adjust(backend::features())
}

/// Writes `oubliette: `, the message and a line end to the standard error, then aborts the process.
/// Allocates nothing, runs no destructor, and is safe in a signal handler.
#[cold]
pub(crate) fn abort_with(message: &'static str) -> ! {
    backend::abort_with(message)
}

/// Runs `f` and puts `errno` back to what it was: `free(3)` must not change it (POSIX.1-2024).
#[inline]
pub(crate) fn preserve_errno<R>(f: impl FnOnce() -> R) -> R {
    backend::preserve_errno(f)
}

/// Sets `errno`, where there is one.
#[cold]
pub(crate) fn set_errno(errno: Errno) {
    backend::set_errno(errno);
}

#[cfg(test)]
mod tests;
