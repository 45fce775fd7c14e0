//! Memory for devices: pinned, and out of reach of its owner while a device may touch it.
//!
//! [`DmaBuffer`] is memory that the kernel does not move, between guards, locked, zeros in a forked child, wiped
//! when it is dropped. `mlock` alone is not that: a locked page is never swapped, but it is moved (compaction,
//! `khugepaged`), and the frame that it left keeps the secret.
//!
//! # The end of a buffer
//!
//! What a device does is not stopped by unmapping or protecting memory, so the order counts:
//!
//! ```text
//! stop the device -> reap -> IOMMU unmap -> wipe -> flush, fence -> unpin -> unlock -> unmap
//! `----------- owners that hold the buffer -----------'  `--------- `Drop` of DmaBuffer ---------'
//! ```
//!
//! No other order can be written: a transfer owns its buffer, and so does a mapping, and the rest is one `Drop`.
//! Nothing here moves, remaps or re-protects the pages, or gives them back early.
//!
//! # What pins: two designs, and why one won
//!
//! 1. *The table of pins that secrets share* (`pages::pins`): a ring that never runs, made once. A buffer
//!    costs one `io_uring_register(2)`, needs no feature of this crate, and its pin ends when it is unregistered,
//!    since no transfer can ever use the table.
//! 2. *A ring for each buffer*, closed at its end. No slots to manage, but closing a ring unpins 16 to 55 ms later
//!    (measured on Linux 6.18), and each takes a descriptor.
//!
//! The first won. A `Ring` has a table of its own, in which a buffer must be for a transfer;
//! there the pin moves over, so that the limit counts it once.

mod buffer;
mod pin;
#[cfg(all(feature = "io-uring", target_os = "linux", not(any(miri, loom, oubliette_portable))))]
mod ring;
#[cfg(all(feature = "vfio", target_os = "linux", not(oubliette_portable)))]
pub mod vfio;

#[cfg(all(target_os = "linux", not(oubliette_portable)))]
mod secret_file;
#[cfg(all(
    feature = "xdp",
    target_os = "linux",
    target_pointer_width = "64",
    not(any(miri, loom, oubliette_portable))
))]
pub mod xdp;

pub use buffer::{DmaBuffer, DmaBufferBuilder};
pub use pin::{Pinning, Provider};
#[cfg(all(feature = "io-uring", target_os = "linux", not(any(miri, loom, oubliette_portable))))]
pub use ring::{
    Attempt, BufferPool, Descriptor, InFlight, Offset, PooledBuffer, Ring, Source, TransferBuffer,
    TransferError,
};

#[cfg(all(target_os = "linux", not(oubliette_portable)))]
pub use secret_file::{SecretFile, read_into_secret};

pub use crate::pages::HugePages;
pub(crate) use pin::{Stats, stats};

#[cfg(all(test, target_os = "linux", not(oubliette_portable)))]
mod tests;
