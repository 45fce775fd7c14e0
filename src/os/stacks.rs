//! What stacks need from the system: pages that tell whether they were written, the alternate signal
//! stack, and a handler for faults. The rules of [`os`](super) hold here as well, but for one: these run
//! when a thread enters its first scope, never in an allocator callback.

// UNSAFETY: forwards raw addresses to the backend, as its parent does.
#![expect(unsafe_code, reason = "forwards raw addresses to the backend, see UNSAFETY above")]

use core::ptr::NonNull;

use super::{Call, Result, backend, fake};

pub(crate) use backend::stacks::FaultHandler;

/// A part of the address space: an alternate signal stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    /// The lowest address.
    pub(crate) start: NonNull<u8>,
    /// The number of bytes.
    pub(crate) len: usize,
}

/// Makes `len` bytes at `ptr` readable and writable private copies of a new file in memory, and maps that
/// file itself somewhere else, shared: the result is its address there.
///
/// A page of the range follows what is written to the file until the range itself is written, by the
/// program or by the kernel on its behalf; from then on it is a copy of its own. `discard` ends that copy.
///
/// - Before: no access, not locked.
/// - Result: `NOSYS` where there are no such files, `NOMEM`, `MFILE`, `NFILE`. After an error the range is
///   as before.
/// - Contents: zero.
///
/// # Safety
///
/// - The whole range came from `reserve` and was not released, and nothing uses it.
pub(crate) unsafe fn map_tracked(ptr: NonNull<u8>, len: usize) -> Result<NonNull<u8>> {
    fake::gate(Call::Reserve)?;
    // SAFETY: forwarded: the caller promises the same.
    unsafe { backend::stacks::map_tracked(ptr, len) }
}

/// Undoes [`map_tracked`]: the range is reserved without access again, `control` is gone.
///
/// # Safety
///
/// - `map_tracked(ptr, len)` returned `control`, and nothing uses either range.
pub(crate) unsafe fn unmap_tracked(ptr: NonNull<u8>, len: usize, control: NonNull<u8>) -> Result<()> {
    // SAFETY: forwarded: the caller promises the same.
    unsafe { backend::stacks::unmap_tracked(ptr, len, control) }
}

/// The alternate signal stack of this thread, unless it has none.
pub(crate) fn signal_stack() -> Option<Area> {
    backend::stacks::signal_stack()
}

/// The least size of an alternate signal stack on this machine: what the kernel stores on it for a signal,
/// and as much again for the handler.
pub(crate) fn signal_stack_least() -> usize {
    backend::stacks::signal_stack_least()
}

/// Makes `area` the alternate signal stack of this thread, or takes it away with `None`.
///
/// - Result: `PERM` when called in a handler that runs on the present one, `NOMEM` when it is too small.
///
/// # Safety
///
/// - `area` is readable and writable, and nothing else uses it until another takes its place.
pub(crate) unsafe fn set_signal_stack(area: Option<Area>) -> Result<()> {
    // SAFETY: forwarded: the caller promises the same.
    unsafe { backend::stacks::set_signal_stack(area) }
}

/// From now on `handler` sees the address of every fault (SIGSEGV, SIGBUS) of the process first. If it
/// returns, whoever handled faults before does so, or the process dies of the signal as usual.
///
/// Once for each process: later calls do nothing.
pub(crate) fn watch_faults(handler: FaultHandler) -> Result<()> {
    backend::stacks::watch_faults(handler)
}
