//! Runs of pages: a size that is a multiple of a page, a reserved range that is committed, guarded and
//! locked piece by piece, guarded runs, and pins. Nothing here allocates, panics or formats: it runs inside
//! allocator callbacks.

mod bytes;
// Guarded runs are what `IsolatedBox` and the public `GuardedPages` will be made of.
#[cfg_attr(not(test), expect(dead_code, reason = "waits for its first user"))]
mod guarded;
mod hints;
pub(crate) mod layout;
mod pins;
mod reservation;
mod slot_map;

pub(crate) use bytes::PageBytes;
pub(crate) use pins::{PinId, Pins, pins};
pub(crate) use reservation::{GuardKind, Reservation};
