//! The contract on macOS, the BSDs and Windows, and on Linux under `--cfg oubliette_portable`, where it is
//! compiled and tested with the rest.
//!
//! What there is everywhere: reserved ranges, access, locking, random bytes. What there is not is refused
//! with `NOSYS`, so that the layers above step down and say so: guards that cost no mapping, locking on
//! fault, pins, residency. Memory that is discarded is zeroed but kept.

// UNSAFETY: system calls take raw addresses and change the memory behind them.
#![expect(unsafe_code, reason = "makes system calls on raw addresses, see UNSAFETY above")]

use core::ptr::NonNull;

use super::{Access, Errno, Features, LockState, Result, Ring, Support};

mod key;
#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(super) use unix::{
    abort_with, address_space_limit, advise, lock, memlock_limit, page_size, preserve_errno, protect,
    release, reserve, set_errno, unlock,
};

pub(super) use key::{key_free, key_new, key_protect};

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(super) use windows::{
    abort_with, address_space_limit, advise, lock, memlock_limit, page_size, preserve_errno, protect,
    release, reserve, set_errno, unlock,
};

/// [`discard`] writes, so the memory must be accessible.
pub(super) const DISCARDS_WITHOUT_ACCESS: bool = false;

/// There are none.
///
/// # Safety
///
/// None needed.
pub(super) const unsafe fn install_guards(
    _first: NonNull<u8>,
    _len: usize,
    _stride: usize,
    _count: usize,
) -> Result<()> {
    Err(Errno::NOSYS)
}

/// There are none.
///
/// # Safety
///
/// None needed.
pub(super) const unsafe fn map_huge(_ptr: NonNull<u8>, _len: usize) -> Result<()> {
    Err(Errno::NOSYS)
}

/// There is no way that all systems have.
///
/// # Safety
///
/// None needed.
pub(super) const unsafe fn move_out(_ptr: NonNull<u8>, _len: usize) -> Result<NonNull<u8>> {
    Err(Errno::NOSYS)
}

/// There is no way that all systems have.
///
/// # Safety
///
/// None needed.
pub(super) const unsafe fn move_in(
    _from: NonNull<u8>,
    _len: usize,
    _to: NonNull<u8>,
    _new_len: usize,
) -> Result<()> {
    Err(Errno::NOSYS)
}

/// Writes zeros and keeps the memory: what `madvise` promises about the contents differs between systems
/// (`MADV_DONTNEED` keeps them on macOS and the BSDs), and a fresh mapping in its place would lose the hints.
///
/// # Safety
///
/// As for `os::discard`.
pub(super) unsafe fn discard(ptr: NonNull<u8>, len: usize, _state: LockState) -> Result<()> {
    // SAFETY: the caller promises that the range is its own, readable and writable, and that no reference
    // into it is used across the call.
    unsafe { ptr.write_bytes(0, len) };
    Ok(())
}

/// There is no way that all systems have.
///
/// # Safety
///
/// None needed.
pub(super) const unsafe fn is_locked(_ptr: NonNull<u8>, _len: usize) -> Result<bool> {
    Err(Errno::NOSYS)
}

/// There is no way that all systems have.
pub(super) const fn reserve_at(_ptr: NonNull<u8>, _len: usize) -> Result<()> {
    Err(Errno::NOSYS)
}

/// Unknown, so no.
pub(super) const fn may_exceed_memlock_limit() -> bool {
    false
}

/// The standard library's clock, from its first use on.
pub(super) fn coarse_milliseconds() -> u64 {
    static BEGIN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let elapsed = BEGIN.get_or_init(std::time::Instant::now).elapsed();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// There is no figure that all systems give.
pub(super) const fn locked_bytes() -> Option<usize> {
    None
}

/// There is no answer that all systems give.
///
/// # Safety
///
/// None needed.
pub(super) const unsafe fn resident(_ptr: NonNull<u8>, _len: usize, _out: &mut [u8]) -> Result<()> {
    Err(Errno::NOSYS)
}

/// The `getrandom` crate: the system's own generator.
pub(super) fn fill_random(out: &mut [u8]) -> Result<()> {
    getrandom::fill(out).map_err(|error| error.raw_os_error().map_or(Errno::NOSYS, Errno))
}

/// Only what every system has.
pub(super) const fn features() -> Features {
    const NONE: Support = Support::No(Errno::NOSYS);
    Features {
        guard_install: NONE,
        process_madvise: NONE,
        lock_on_fault: NONE,
        dontneed_locked: NONE,
        wipe_on_fork: NONE,
        io_uring: NONE,
        hidden: NONE,
    }
}

/// There is none.
///
/// # Safety
///
/// None needed.
pub(super) const unsafe fn hide(_ptr: NonNull<u8>, _len: usize, _refused: Access) -> Result<()> {
    Err(Errno::NOSYS)
}

/// There is none.
///
/// # Safety
///
/// None needed.
pub(super) const unsafe fn unhide(_ptr: NonNull<u8>, _len: usize, _access: Access) -> Result<()> {
    Err(Errno::NOSYS)
}

/// There are no pins.
pub(super) const fn ring_new(_slots: u32) -> Result<Ring> {
    Err(Errno::NOSYS)
}

/// There are no pins.
///
/// # Safety
///
/// None needed.
pub(super) const unsafe fn ring_register(
    _ring: Ring,
    _slot: u32,
    _ptr: NonNull<u8>,
    _len: usize,
) -> Result<()> {
    Err(Errno::BADF)
}

/// There are no pins.
pub(super) const fn ring_unregister(_ring: Ring, _slot: u32) -> Result<()> {
    Err(Errno::BADF)
}

/// There are no pins.
pub(super) const fn ring_is_alive(_ring: Ring) -> bool {
    false
}

/// There are no pins.
pub(super) const fn ring_close(_ring: Ring) {}
