//! Doing ahead what takes time, or a system call that a sandbox forbids later.

use crate::{Error, exit, os, secret, wipe};

/// Does ahead what the first secret, the first isolated secret and the first scope of a process, and of the calling
/// thread, would have to wait for: asks the kernel what it has, reserves the heap, makes the table of pins (a ring),
/// the thread's part of the heap, one slab, one place for an isolated secret, a scope's stack and the thread's signal
/// stack, and arms the end of the process.
///
/// Call it at the start, on each thread that is in a hurry later, and then
/// [`SecretBox::reserve`](crate::SecretBox::reserve) and [`IsolatedBox::reserve`](crate::IsolatedBox::reserve) for as many
/// secrets of each type as there will be at once. From then on
///
/// * making, using and dropping that many causes no page fault;
/// * a `SecretBox` makes no system call, an `IsolatedBox` only `mprotect(2)`, a scope none: a sandbox may forbid all
///   others that `docs/system-calls.md` lists. (More secrets than were reserved need them again.)
///
/// Costs about a millisecond and 150 KiB of locked memory, the first time.
///
/// ```
/// use oubliette::{IsolatedBox, SecretBox};
///
/// oubliette::warm_up()?;
/// SecretBox::<[u8; 32]>::reserve(100)?;
/// IsolatedBox::<[u8; 32]>::reserve(10)?;
/// # Ok::<(), oubliette::Error>(())
/// ```
///
/// # Errors
///
/// What the first secret, or the first scope, would have failed with.
pub fn warm_up() -> Result<(), Error> {
    let _ = (os::features(), wipe::reach());
    exit::arm();
    secret::warm_up()?;
    scope()
}

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(miri, loom, oubliette_portable))
))]
fn scope() -> Result<(), Error> {
    crate::scope::try_scope(|| ())
}

#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(miri, loom, oubliette_portable))
)))]
#[expect(clippy::unnecessary_wraps, reason = "has the signature of its twin")]
const fn scope() -> Result<(), Error> {
    Ok(())
}
