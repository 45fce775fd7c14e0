//! Slots for isolated secrets: pages of their own between guards, without access at rest.
//!
//! # Two designs, and why one won
//!
//! Each secret needs a page, a guard on either side, and no access while it is at rest; a million of them must
//! fit in the 65,530 mappings that a process may have (`vm.max_map_count`).
//!
//! 1. *A mapping of its own for each secret*, as other libraries have it ([`GuardedPages`]
//!    sealed by `mprotect`). Simple, nothing shared, and every operation is as cheap as a system call gets.
//!    But guard, page, guard are three mappings: it ends at 21,000 secrets, and making one is ten system
//!    calls.
//! 2. *Slots of one range without access*, guards between them. At rest slots and guards have the same
//!    access, the same hints and the same lock, so the kernel keeps them as one mapping, however many
//!    there are. Opening one splits a mapping in three and sealing it merges them again, which costs half as
//!    much again; there are slots to recycle, so there is a free list to get right.
//!
//! The second won: it is the only one that reaches a million, and its price is only paid by who has
//! thousands. While there are few secrets the range is deliberately kept in pieces, by locking the slots and
//! not the guards, so that opening costs what it costs in the first design ([`regime`]). Making a secret
//! in a slot that is still warm is one system call, the one that seals it.
//!
//! The guards need no marker (`MADV_GUARD_INSTALL`) to guard: they are never given access. They get one
//! all the same, 64 in a call: a stray `mprotect` over the range does not open them, and `purge` opens all
//! slots by one call for that reason. Without markers nothing is less guarded.
//!
//! # Locked, pinned, sealed
//!
//! A slot is opened, locked and pinned when it is first used, in this order: the kernel pins no page
//! without access, and no range with a guard in it. It stays locked and pinned while it is sealed
//! ([`pinning`]). When it is given back it is wiped, and kept as it is for the next owner, up to 4 MiB an
//! arena; beyond that it is unpinned, its memory given back, unlocked and sealed.
//!
//! # Where things are
//!
//! | file | what |
//! |---|---|
//! | [`window`] | where a block lies in its slot: pure arithmetic |
//! | [`record`] | what is known of each slot, in a side table |
//! | [`openings`] | who unseals and who seals: modelled by loom |
//! | [`arena`] | the ranges of one class of slots, and how they grow |
//! | [`regime`] | few mappings or fast ones |
//! | [`slot`] | taking, opening, closing, giving back |
//! | [`upkeep`] | purge, report |
//!
//! # Fork
//!
//! The kernel gives a child zeros for the secrets, and for a sentinel page beside the records, which are
//! copied. A child that finds the sentinel wiped leaves the arena alone: handles that it inherited do nothing
//! when they are dropped and refuse to be opened, and new secrets go to a new arena.
//!
//! [`GuardedPages`]: crate::GuardedPages

mod openings;

#[cfg(not(loom))]
mod arena;
#[cfg(not(loom))]
mod pinning;
#[cfg(not(loom))]
mod record;
#[cfg(not(loom))]
mod regime;
#[cfg(not(loom))]
mod slot;
#[cfg(not(loom))]
mod upkeep;
#[cfg(not(loom))]
mod window;

#[cfg(not(loom))]
pub(crate) use slot::Slot;
#[cfg(not(loom))]
pub(crate) use upkeep::{Stats, purge, stats, trim};
