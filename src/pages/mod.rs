//! Runs of pages: a size that is a multiple of a page, a reserved range that is committed, guarded and
//! locked piece by piece, guarded runs, and pins. Nothing here allocates, panics or formats: it runs inside
//! allocator callbacks.

mod bytes;
mod device_run;
mod hints;
pub(crate) mod layout;
mod pins;
mod registry;
mod reservation;
mod run;
mod slot_map;

pub(crate) use bytes::PageBytes;
pub(crate) use device_run::DeviceRun;
pub use device_run::HugePages;
pub(crate) use hints::Hints;
pub(crate) use pins::{PinId, Pins, pins};
pub(crate) use registry::{Owner, Registered, purge as purge_runs, stats as run_stats};
pub(crate) use reservation::{GuardKind, Moved, Reservation};
pub use run::Placement;
pub(crate) use run::{GuardedRun, Kind};
#[allow(unused_imports, reason = "for tables of transfers, which are a feature")]
pub(crate) use slot_map::{claim as claim_slot, release as release_slot};
