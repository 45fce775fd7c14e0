//! The contract on Linux. The manual pages cited are those of the Linux man-pages project.
//!
//! `libc::syscall` is used where a C library or a sanitizer replaces the function: AddressSanitizer and
//! ThreadSanitizer make `mlock` do nothing.

// UNSAFETY: system calls take raw addresses and change the memory behind them.
#![expect(unsafe_code, reason = "makes system calls on raw addresses, see UNSAFETY above")]

mod abort;
mod advise;
mod clock;
#[cfg_attr(any(miri, loom), allow(dead_code, reason = "for files, which are not modelled"))]
pub(crate) mod direct;
mod hidden;
mod key;
mod limits;
mod lock;
mod map;
mod probe;
#[cfg(all(feature = "io-uring", target_os = "linux", not(any(miri, loom, oubliette_portable))))]
pub(crate) mod queue;
mod random;
mod ring;
pub(crate) mod signal;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) mod stacks;
#[cfg(all(feature = "vfio", not(oubliette_portable)))]
pub(super) mod vfio;
#[cfg(all(
    feature = "xdp",
    target_os = "linux",
    target_pointer_width = "64",
    not(any(miri, loom, oubliette_portable))
))]
pub(crate) mod xdp;

pub(super) use abort::{abort_with, preserve_errno, set_errno};
/// `MADV_DONTNEED` asks for no access.
pub(super) const DISCARDS_WITHOUT_ACCESS: bool = true;

pub(super) use advise::{advise, discard, install_guards, is_locked, resident};
pub(super) use clock::coarse_milliseconds;
pub(super) use hidden::{hide, unhide};
pub(super) use key::{key_free, key_new, key_protect};
pub(super) use limits::{
    address_space_limit, locked_bytes, may_exceed_memlock_limit, memlock_limit, page_size,
};
pub(super) use lock::{lock, unlock};
pub(super) use map::{map_huge, move_in, move_out, protect, release, reserve, reserve_at};
pub(super) use probe::features;
pub(super) use random::fill_random;
pub(super) use ring::{ring_close, ring_is_alive, ring_new, ring_register, ring_unregister};

use crate::os::{Errno, Result};

/// The result of a call that returns zero, or -1 and sets `errno`.
fn check(code: libc::c_long) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(Errno::last()) }
}

/// The result of a call that returns a count, or -1 and sets `errno`.
fn check_count(code: libc::c_long) -> Result<usize> {
    usize::try_from(code).map_err(|_| Errno::last())
}
