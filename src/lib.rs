//! Memory for secrets that forgets.
//!
//! A secure heap, and four ways to use it: as owners of single secrets, as the allocator of single
//! collections, of what runs in a scope, or of the whole program.
//!
//! | | |
//! |---|---|
//! | [`SecretBox`], [`SecretVec`], [`SecretString`] | own a secret: made in place, never printed, cloned or serialised, compared in constant time |
//! | [`Inline`], [`Plain`], [`impl_inline!`] | what a type promises before it may live there |
//! | `SecretAlloc` | the same heap for the collections of `allocator-api2` and `hashbrown` |
//! | `scope`, `ScopedAlloc` | run code of others so that its heap, stack and registers leave nothing |
//! | [`Oubliette`] | the whole program: every free is wiped |
//! | [`DmaBuffer`], [`dma`] | memory that the kernel does not move, for devices and transfers without copies |
//! | [`Policy`] | what a heap promises |
//! | [`report()`] | what there is, what protects it, and where that is less than promised |
//! | [`purge()`], [`flush()`], [`wipe()`] | wipe every secret now; write back what is pending; wipe a buffer of your own |
//! | [`warm_up()`], [`SecretBox::reserve`], [`IsolatedBox::reserve`] | everything that takes time or a system call, ahead |
//! | [`set_wipe_at_end`], [`set_secret_flush`], [`set_secret_backing`] | what happens at the end of the process, at each drop, and what backs secrets |
//! | [`set_secret_seal`], [`Seal`], [`unsealed`] | what keeps the process itself from reading a secret at rest |
//!
//! ```
//! use oubliette::SecretBox;
//!
//! # fn read_key(bytes: &mut [u8; 32]) { bytes.fill(7) }
//! # fn cipher(_key: &[u8; 32]) {}
//! let key = SecretBox::<[u8; 32]>::new_with(|bytes| read_key(bytes))?; // in place: no copy on the stack
//! cipher(key.expose());
//! # Ok::<(), oubliette::Error>(())
//! ```
//!
//! # What it guarantees
//!
//! * **A freed block is zero** before the call returns, also what `realloc` leaves. Past the CPU's caches
//!   too: when the drop of a secret returns, within a bound for a whole program ([`Flush`]).
//! * **A secret is locked, or there is an [`Error`]** that names the limit and how to raise it. It is pinned
//!   where the kernel offers that, so that no copy is left behind in another page; [`report()`] says which.
//! * **Nothing but your data lies in secret pages.** They are not in core dumps; a forked child sees zeros.
//! * **Corruption ends the process** with a message: overflow, underflow, double free, invalid free, write
//!   after free. Limits of resources are an [`Error`].
//! * **What is alive at the end is wiped**: at exit, on abort, on fatal signals, leaked secrets included.
//!
//! # What it does not
//!
//! * Copies that your code makes of a secret are yours: on the stack, in registers (a scope covers those),
//!   in memory of other allocators.
//! * Whoever may read the process while a secret is in use can read the secret.
//! * `SIGKILL`, `_exit` and loss of power leave no time to wipe.
//! * A secret type cannot hold what lies elsewhere: `SecretBox<String>` does not compile.
//!
//! # Side effects
//!
//! None at import. The first secret or scope of a process arms its end ([`set_wipe_at_end`]): a function that
//! runs at exit, and handlers for fatal signals that the program does not handle itself. Pins hold one file
//! descriptor, close-on-exec, out of the low numbers. Every system call is listed in
//! `docs/system-calls.md`.
//!
//! # Features
//!
//! * `allocator-api2` (default): `SecretAlloc`.
//! * `io-uring`: `Ring`, transfers on pinned buffers ([`dma`]; Linux 5.19).
//! * `serde`: `Deserialize` for the secret types. There is no `Serialize`.
//! * `vfio`: `dma::vfio`, devices that are driven from the process, behind an IOMMU (Linux).
//! * `xdp`: `dma::xdp`, packets as slices of pinned memory (Linux).
//! * `fault-injection`: for tests of this crate only.

#![cfg_attr(
    test,
    allow(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing,
        clippy::unwrap_used,
        reason = "unit tests may panic: that is how they fail"
    )
)]
#![cfg_attr(loom, allow(dead_code, unused_imports, reason = "only leaf structures are modelled"))]

mod error;
mod policy;
mod sync;

#[cfg_attr(
    not(all(target_os = "linux", not(oubliette_portable))),
    allow(dead_code, reason = "the same contract everywhere, of which some systems need less")
)]
mod os;
mod wipe;

#[cfg(not(loom))]
mod keys;

#[cfg_attr(
    not(all(target_os = "linux", not(oubliette_portable))),
    allow(dead_code, reason = "the same contract everywhere, of which some systems need less")
)]
mod pages;

#[allow(dead_code, reason = "used by report()")]
mod heap;

// Loom knows the leaf structures of the heap only, not the heap.
#[cfg(not(loom))]
mod report;

#[cfg(not(loom))]
mod exit;
#[cfg(not(loom))]
mod guarded;
#[cfg(not(loom))]
mod secret;

#[cfg(not(loom))]
pub mod dma;

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(miri, loom, oubliette_portable))
))]
mod scope;

#[cfg(not(loom))]
mod global;
#[cfg(not(loom))]
mod warm_up;

#[cfg(feature = "fault-injection")]
pub mod fault;
#[cfg(all(feature = "fault-injection", not(loom)))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod testing;

#[cfg(not(loom))]
pub use dma::DmaBuffer;
#[cfg(all(feature = "io-uring", target_os = "linux", not(any(miri, loom, oubliette_portable))))]
pub use dma::Ring;
#[cfg(all(target_os = "linux", not(any(loom, oubliette_portable))))]
pub use dma::read_into_secret;
pub use error::{Error, IommuRefusal, Operation, Refusal, XdpRefusal};
#[cfg(not(loom))]
pub use exit::{WipeAtEnd, set_wipe_at_end};
#[cfg(not(loom))]
pub use global::Oubliette;
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(miri, loom, oubliette_portable))
))]
pub use global::ScopedAlloc;
#[cfg(all(feature = "allocator-api2", not(loom)))]
pub use global::SecretAlloc;
#[cfg(not(loom))]
pub use guarded::{Advice, Contents, GuardedPages, Ordinary, Secret};
pub use pages::{HugePages, Placement};
pub use policy::{Backing, Flush, Fork, Lock, Policy, Seal, secret_backing, set_secret_backing};
#[cfg(not(loom))]
pub use report::{DmaReport, HeapReport, IsolatedReport, LockLimit, Report, SealReport, StepsDown, report};
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(miri, loom, oubliette_portable))
))]
pub use scope::{
    Cover, Outcome, Registers, Scope, ScopeBuilder, ScopeReport, ScopedFuture, is_in_scope, scope,
    spawn_scoped, suspended, try_scope,
};
#[cfg(not(loom))]
pub use secret::{
    Inline, IsolatedBox, IsolatedBytes, NewWithError, Open, OpenMut, Opened, OpenedMut, Plain, SecretBox,
    SecretString, SecretVec, seal_thread, secret_flush, secret_seal, set_secret_flush, set_secret_seal,
    unsealed,
};
#[cfg(not(loom))]
pub use warm_up::warm_up;
pub use wipe::{Instruction, Reach, wipe, wipe_value};

#[cfg(not(loom))]
#[doc(hidden)]
pub use secret::writes_behind_shared;

/// Writes every freed cache line that any thread still remembers ([`Flush::Bounded`]) back to memory and
/// waits until that is done.
///
/// Takes no lock and allocates nothing. Costs a few nanoseconds for each line, of which a thread remembers
/// 135,168 at most.
#[cfg(not(loom))]
pub fn flush() {
    heap::flush_all();
}

/// Gives memory that no block uses back to the system, and its share of `RLIMIT_MEMLOCK` with it.
///
/// Heaps do so on their own, but late and in bulk, since taking pages again costs more than anything else:
/// a thread keeps eight empty slabs of 64 KiB (or a quarter of its slabs), and the free blocks that it has
/// at hand. This gives all of that back, of the calling thread and of threads that have ended; what other
/// running threads hold stays theirs.
///
/// The places that are kept ready for isolated secrets are given back too, and what a heap keeps of large blocks for
/// the next: 16 MiB at most (1 MiB where every page must be locked), and 68 MiB in the heap of a whole program.
///
/// Costs about 10 µs for each slab given back. Never touches a block in use.
#[cfg(not(loom))]
pub fn trim() {
    heap::trim_all();
}

/// Wipes every secret of the process now: each block of each heap that is not inherited by children, in use
/// or leaked, whoever holds it. What is read from a secret afterwards is zero; freeing one is in order.
///
/// The heap of a whole program ([`Policy::PROGRAM`]) is not wiped: the program could not go on, not even to
/// its end. What it frees is wiped at once anyway.
///
/// Takes no lock, allocates nothing, and may be called from any thread at any time, also in a signal handler
/// (it is async-signal-safe in the sense of `signal-safety(7)`). Secrets in registers, on stacks, and copies
/// that were made elsewhere are not reached.
#[cfg(not(loom))]
pub fn purge() {
    heap::purge_all();
}

/// The programs of the README, compiled and run. They use the default features.
#[cfg(all(doctest, feature = "allocator-api2"))]
#[doc = include_str!("../README.md")]
struct Readme;
