//! The secret heap.
//!
//! A process has a few heaps, one for each layout policy ([`Backing`], [`Lock`], [`Fork`]) in use. A heap is
//! two reserved ranges: memory, which holds nothing but blocks, and metadata, which holds everything else
//! ([`geometry`]). Small blocks are slots of slabs ([`class`], [`slab`]), each slab is owned by the thread
//! heap ([`thread`]; [`bin`] for its free slots) of one thread, large blocks have pages of their own ([`large`]).
//!
//! | path | what it does | where |
//! |---|---|---|
//! | allocate, hot | pop a slot, check that it is zero, write canary and state | [`hot`] |
//! | free, hot | check state, canary, neighbour; wipe; remember lines; quarantine | [`hot`] |
//! | free of another thread's block | check, wipe, mark; keep at hand, or wait for more of the same word and send home | [`outgoing`], [`inbox`] |
//! | refill, spill | move slots between stash and slabs; take blocks freed elsewhere | [`slab`] |
//! | units | guard, commit, lock, pin; keep warm; give back | [`units`], [`warm`] |
//! | threads | set up, take over, give up; find what a thread holds | [`threads`], [`registry`], [`held`] |
//! | fork | notice it by a wiped page; forget what the child does not have | [`shared`] |
//!
//! **No locks.** All that threads share changes by single atomic operations, so a fork at any moment leaves
//! the child with a heap that works, without handlers; and nothing here can deadlock in a signal handler.
//!
//! [`Backing`]: crate::Backing
//! [`Lock`]: crate::Lock
//! [`Fork`]: crate::Fork

pub(crate) mod geometry;
pub(crate) mod inbox;
pub(crate) mod index_stack;
mod isolated;
mod parked;
mod registry;
mod watermark;

#[cfg(not(loom))]
mod bin;
mod canary;
#[cfg(not(loom))]
pub(crate) mod class;
#[cfg(not(loom))]
mod corruption;
#[cfg(not(loom))]
mod facade;
#[cfg(not(loom))]
mod held;
#[cfg(not(loom))]
mod hot;
#[cfg(not(loom))]
mod large;
#[cfg(not(loom))]
mod lock_share;
#[cfg(not(loom))]
mod outgoing;
#[cfg(not(loom))]
mod pending;
#[cfg(not(loom))]
mod reserve;
#[cfg(not(loom))]
mod rng;
#[cfg(not(loom))]
mod shadow;
#[cfg(not(loom))]
mod shared;
#[cfg(not(loom))]
mod slab;
#[cfg(not(loom))]
mod stats;
#[cfg(not(loom))]
mod tables;
#[cfg(not(loom))]
mod thread;
#[cfg(not(loom))]
mod threads;
#[cfg(not(loom))]
mod units;
#[cfg(not(loom))]
mod upkeep;
#[cfg(all(not(loom), any(test, feature = "fault-injection")))]
pub(crate) mod walk;
#[cfg(not(loom))]
mod warm;

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(not(loom), feature = "fault-injection"))]
pub(crate) use facade::private::PrivateHeap;
#[cfg(not(loom))]
#[allow(unused_imports, reason = "for the layers above")]
pub(crate) use facade::{HEAPS, Heap, MOST_SECRET_BYTES, NR_HEAPS, of};
#[cfg(not(loom))]
pub(crate) use isolated::{Slot, Stats as IsolatedStats, stats as isolated_stats};
#[cfg(not(loom))]
#[allow(unused_imports, reason = "for the layers above")]
pub(crate) use pending::{BYTES_PER_FENCE, PENDING_LINES};
#[cfg(not(loom))]
#[allow(unused_imports, reason = "for the layers above")]
pub(crate) use stats::Stats;
#[cfg(not(loom))]
#[allow(unused_imports, reason = "for the layers above")]
pub(crate) use upkeep::{flush_all, purge_all, trim_all};
