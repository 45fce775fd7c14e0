//! A thread heap: the part of a heap that one thread works on alone.

// UNSAFETY: skips a bounds check in the hottest path.
#![expect(unsafe_code, reason = "one table access without a bounds check")]

use core::cell::Cell;
use core::sync::atomic::AtomicU32;

use super::class::{NR_CLASSES, QUARANTINE_MAX, STASH_MAX};
use super::geometry::THREAD_HEAP_BYTES;
use super::inbox::Inbox;
use super::pending::Pending;
use super::rng::Rng;
use super::tables::Tables;

/// What a thread needs to allocate and free without looking anywhere else.
///
/// Lives in a place of its own in the metadata range, is never freed, and is handed on to another thread
/// when its own has ended. Valid when all its bytes are zero: that is its state before the first use, and in
/// a forked child of a heap that is wiped there; then every operation ends on its slow path.
///
/// # Invariants
/// 1. The `Cell`s are touched only by the thread that holds the thread heap (by `registry`), the atomics by
///    any.
/// 2. `known_bytes` never exceeds the slab bytes whose metadata is committed; it is 0 while `tables` and
///    `base` are not set.
/// 3. `stash[..len]` and the non-zero numbers in `quarantine` of a bin are granules that free slots of this
///    class start with, in slabs of this thread heap, each slot in one place only; their bit in the free
///    bitmap is clear.
/// 4. `id` is the number of its place plus one; 0 while it is not set up.
#[repr(C, align(64))]
pub(crate) struct ThreadHeap {
    pub(crate) base: Cell<*mut u8>,
    pub(crate) known_bytes: Cell<usize>,
    pub(crate) key: Cell<u64>,
    pub(crate) tables: Cell<Tables>,
    pub(crate) id: Cell<u32>,
    pub(crate) rng: Cell<Rng>,
    /// First slab with free slots, by class; 0 for none.
    pub(crate) partial: [Cell<u32>; NR_CLASSES],
    /// Slabs owned.
    pub(crate) nr_slabs: Cell<u32>,
    /// Of these, the ones without a block in use.
    pub(crate) nr_empty: Cell<u32>,
    /// Empty slabs to keep on request, more than the usual.
    pub(crate) empty_kept: Cell<u32>,
    /// Number of the heap's forks when it was set up.
    pub(crate) generation: Cell<u32>,
    /// Slabs with blocks that other threads freed.
    pub(crate) inbox: Inbox,
    /// Link in the stack of idle thread heaps.
    pub(crate) idle_link: AtomicU32,
    pub(crate) pending: Pending,
    pub(crate) bins: [Bin; NR_CLASSES],
}

const _: () = assert!(size_of::<ThreadHeap>() <= THREAD_HEAP_BYTES);

/// The free slots of one class that a thread has at hand.
#[repr(C)]
pub(crate) struct Bin {
    /// Slots in the stash.
    len: Cell<u32>,
    stash: [Cell<u32>; STASH_MAX],
    quarantine: [Cell<u32>; QUARANTINE_MAX],
}

#[expect(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    reason = "indexes are masked by the arrays' lengths, powers of two; lengths stay below 65 by the checks beside them"
)]
impl Bin {
    /// Takes a slot: the granule that it starts with.
    #[inline(always)]
    pub(crate) fn pop(&self) -> Option<u32> {
        let len = self.len.get();
        if len == 0 {
            return None;
        }
        self.len.set(len - 1);
        Some(self.stash[(len - 1) as usize % STASH_MAX].get())
    }

    /// Puts a slot into the stash, which must not be full ([`Bin::is_full`]).
    #[inline(always)]
    pub(crate) fn push(&self, granule: u32) {
        let len = self.len.get();
        self.stash[len as usize % STASH_MAX].set(granule);
        self.len.set(len + 1);
    }

    /// Whether the stash holds `limit` slots.
    #[inline(always)]
    pub(crate) fn is_full(&self, limit: u32) -> bool {
        self.len.get() >= limit
    }

    /// Puts a freed slot into the quarantine and gives the one that leaves it, or 0. `mask` is its length
    /// less one.
    #[inline(always)]
    pub(crate) fn quarantine(&self, granule: u32, random: u32, mask: u32) -> u32 {
        let place = &self.quarantine[(random & mask) as usize % QUARANTINE_MAX];
        place.replace(granule)
    }

    /// Slots in the stash.
    pub(crate) fn len(&self) -> u32 {
        self.len.get()
    }

    /// Hands out the oldest `n` slots of the stash and keeps the others.
    pub(crate) fn spill(&self, n: u32, mut give: impl FnMut(u32)) {
        let len = self.len.get().min(STASH_MAX as u32);
        let n = n.min(len);
        for cell in &self.stash[..n as usize] {
            give(cell.get());
        }
        for i in n..len {
            self.stash[(i - n) as usize].set(self.stash[i as usize].get());
        }
        self.len.set(len - n);
    }

    /// Hands out every slot of stash and quarantine.
    pub(crate) fn empty(&self, mut give: impl FnMut(u32)) {
        self.spill(STASH_MAX as u32, &mut give);
        for place in &self.quarantine {
            let granule = place.replace(0);
            if granule != 0 {
                give(granule);
            }
        }
    }

    /// Brings the stash into a random order.
    pub(crate) fn shuffle(&self, rng: &mut Rng) {
        let len = self.len.get().min(STASH_MAX as u32);
        for i in (1..len).rev() {
            let j = rng.below(i + 1);
            self.stash[i as usize].swap(&self.stash[j as usize]);
        }
    }

    /// Every slot in stash and quarantine.
    pub(crate) fn visit(&self, mut see: impl FnMut(u32)) {
        for cell in &self.stash[..self.len.get().min(STASH_MAX as u32) as usize] {
            see(cell.get());
        }
        for place in &self.quarantine {
            if place.get() != 0 {
                see(place.get());
            }
        }
    }
}

impl ThreadHeap {
    /// The bin of a class.
    #[inline(always)]
    pub(crate) fn bin(&self, class: usize) -> &Bin {
        #[expect(
            clippy::indexing_slicing,
            reason = "classes come from `class`, whose numbers are below NR_CLASSES"
        )]
        &self.bins[class]
    }

    /// The bin of a class.
    ///
    /// # Safety
    /// - `class` is below `NR_CLASSES`.
    #[inline(always)]
    pub(crate) unsafe fn bin_unchecked(&self, class: usize) -> &Bin {
        debug_assert!(class < NR_CLASSES, "a class below NR_CLASSES");
        // SAFETY: in bounds, as the caller promises.
        unsafe { self.bins.get_unchecked(class) }
    }

    /// The next random number.
    #[inline(always)]
    pub(crate) fn random(&self) -> u32 {
        let mut rng = self.rng.get();
        let next = rng.next();
        self.rng.set(rng);
        next
    }
}
