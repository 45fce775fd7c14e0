//! A thread heap: the part of a heap that one thread works on alone.

// UNSAFETY: finds bins by their offsets, and skips bounds checks in the hottest path.
#![expect(unsafe_code, reason = "table accesses without a bounds check, by the invariants of `ThreadHeap`")]

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::AtomicU32;

use super::bin::{Bin, Order};
use super::class::{
    self, CLASSES, MID_MAX_BYTES, NR_CLASSES, NR_MID, NR_SHORT, NR_SMALL, NR_STEPS, SMALL_MAX_BYTES,
};
use super::geometry::{GRANULE_BYTES, THREAD_HEAP_BYTES};
use super::inbox::Inbox;
use super::outgoing::Outgoing;
use super::pending::Pending;
use super::rng::Rng;
use super::tables::Tables;

/// What a thread needs to allocate and free without looking anywhere else.
///
/// Lives in a place of its own in the metadata range, is never freed, and is handed on to another thread
/// when its own has ended. Valid when all its bytes are zero: that is its state before the first use, and in
/// a forked child of a heap that is wiped there; then every operation ends on its slow path. A thread that has
/// none yet finds [`NONE`] in its place.
///
/// # Invariants
/// 1. The `Cell`s are touched only by the thread that holds the thread heap (by `registry`), the atomics by
///    any. The cells of [`NONE`] are only read.
/// 2. `known_granules` never exceeds the granules whose metadata is committed; it is 0 while `tables` and
///    `base` are not set.
/// 3. The numbers in the stash of a bin are granules that free slots of its class start with, in slabs of this thread
///    heap or common ones of another ([`Keeper`]), each slot in one place only; their bit in the free bitmap is clear.
/// 4. `id` is the number of its place plus one; 0 while it is not set up.
/// 5. `offsets` and `small_offsets` hold offsets of bins in this thread heap: those of the classes of each size, or
///    while it is not set up 0, where the first bin is, empty.
#[repr(C, align(64))]
pub(crate) struct ThreadHeap {
    /// First, so that the offset 0 is a bin's.
    bins: [Bin; NR_CLASSES],
    pub(crate) base: Cell<*mut u8>,
    known_granules: Cell<usize>,
    pub(crate) key: Cell<u64>,
    pub(crate) tables: Cell<Tables>,
    pub(crate) rng: Cell<Rng>,
    pub(crate) id: Cell<u32>,
    /// Slabs owned.
    pub(crate) nr_slabs: Cell<u32>,
    /// Of these, the ones without a block in use.
    pub(crate) nr_empty: Cell<u32>,
    /// Empty slabs to keep on request, more than the usual.
    pub(crate) empty_kept: Cell<u32>,
    /// Number of the heap's forks when it was set up.
    pub(crate) generation: Cell<u32>,
    /// Where the bin for a small size is, by the size.
    small_offsets: [Cell<u16>; SMALL_MAX_BYTES + 1],
    /// The same for sizes up to [`MID_MAX_BYTES`], by [`class::step`].
    offsets: [Cell<u16>; NR_STEPS],
    /// First slab with free slots, by class; 0 for none.
    pub(crate) partial: [Cell<u32>; NR_CLASSES],
    /// A bit for each class of which a slab became common since the last trim.
    pub(crate) passing: Cell<u64>,
    pub(crate) pending: Pending,
    /// Blocks of other thread heaps, freed here, that are not yet sent home.
    pub(crate) outgoing: Outgoing,
    /// What other threads write to.
    pub(crate) mail: MailBox,
}

const _: () = assert!(size_of::<ThreadHeap>() <= THREAD_HEAP_BYTES);
const _: () = assert!(size_of::<[Bin; NR_CLASSES]>() <= 0x1_0000, "offsets of bins fit in 16 bits");
const _: () = assert!(NR_CLASSES <= 64, "a bit for each class");

/// The part of a thread heap that other threads write to, on cache lines of its own. Two, since processors fetch
/// lines in pairs.
#[repr(C, align(128))]
pub(crate) struct MailBox {
    /// Slabs with blocks that other threads freed.
    pub(crate) inbox: Inbox,
    /// Link in the stack of idle thread heaps.
    pub(crate) idle_link: AtomicU32,
}

/// The thread heap of a thread that has none: without a slot, an address or a name.
pub(crate) static NONE: Unused = Unused::new();

/// A thread heap that is never written to.
#[repr(transparent)]
pub(crate) struct Unused(ThreadHeap);

// SAFETY: its cells are only read, by `ThreadHeap` 1, and its atomics are for any thread.
unsafe impl Sync for Unused {}

impl Unused {
    pub(crate) const fn new() -> Self {
        // SAFETY: valid when all its bytes are zero, as its documentation says: numbers, null pointers and atomics.
        Self(unsafe { core::mem::zeroed() })
    }

    pub(crate) const fn get(&self) -> &ThreadHeap {
        &self.0
    }
}

/// How far the bins of small classes reach from the start of a thread heap, those of short and of mid ones, and those
/// of all.
pub(crate) const SMALL_BINS_BYTES: usize = size_of::<Bin>() * NR_SMALL;
pub(crate) const SHORT_BINS_BYTES: usize = size_of::<Bin>() * NR_SHORT;
pub(crate) const MID_BINS_BYTES: usize = size_of::<Bin>() * NR_MID;
pub(crate) const BINS_BYTES: usize = size_of::<Bin>() * NR_CLASSES;

/// How far behind a bin the home of a common slab is: in the other half of the thread heap's place, so that the fast
/// paths of its owner do not take it for their own.
const COMMON_BYTES: usize = THREAD_HEAP_BYTES / 2;
const _: () = assert!(BINS_BYTES <= COMMON_BYTES);

/// Into whose stash a block goes when it is freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeper {
    /// Into that of the thread that owns the slab.
    Owner,
    /// Into that of the thread that frees it, if there is room: the slab is *common* (`outgoing`).
    Freer,
}

/// What a home says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Index of the thread heap that owns the slab.
    pub(crate) index: usize,
    /// Offset in any thread heap of the bin of the slab's class.
    pub(crate) bin_offset: usize,
    pub(crate) keeper: Keeper,
}

/// Whether a home that lies `offset` behind that of any thread heap, or before it, is that of a common slab. (That of no
/// slab may seem to be.)
#[inline(always)]
pub(crate) const fn is_common(offset: usize) -> bool {
    // Places are that long, so it does not matter whose it is.
    offset % THREAD_HEAP_BYTES >= COMMON_BYTES
}

impl Place {
    /// What a home says that lies `offset` behind the first thread heap.
    #[inline(always)]
    pub(crate) const fn at(offset: usize) -> Self {
        let within = offset % THREAD_HEAP_BYTES;
        Self {
            index: offset / THREAD_HEAP_BYTES,
            bin_offset: within % COMMON_BYTES,
            keeper: if is_common(offset) { Keeper::Freer } else { Keeper::Owner },
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

    /// The bin for small blocks of `size` bytes.
    ///
    /// # Safety
    /// - `size` is not above `SMALL_MAX_BYTES`.
    #[inline(always)]
    pub(crate) unsafe fn small_bin_for(&self, size: usize) -> &Bin {
        debug_assert!(size <= SMALL_MAX_BYTES, "a size that the table has");
        // SAFETY: in bounds, as the caller promises.
        let offset = unsafe { self.small_offsets.get_unchecked(size) };
        // SAFETY: the offset of a bin, by `ThreadHeap` 5.
        unsafe { self.bin_at(usize::from(offset.get())) }
    }

    /// The bin for blocks of `size` bytes, which is [`MID_MAX_BYTES`] at most.
    ///
    /// # Safety
    /// - `size` is not above `MID_MAX_BYTES`.
    #[inline(always)]
    pub(crate) unsafe fn bin_for(&self, size: usize) -> &Bin {
        debug_assert!(size <= MID_MAX_BYTES, "a size that the table has");
        // SAFETY: `step` grows with the size, and the table has a place for the largest.
        let offset = unsafe { self.offsets.get_unchecked(class::step(size)) };
        // SAFETY: the offset of a bin, by `ThreadHeap` 5.
        unsafe { self.bin_at(usize::from(offset.get())) }
    }

    /// The offset of a bin of this thread heap.
    #[inline(always)]
    pub(crate) fn bin_offset(&self, bin: &Bin) -> usize {
        self.offset_of(ptr::from_ref(bin).addr())
    }

    /// The bin at an offset in this thread heap.
    ///
    /// # Safety
    /// - A bin of this thread heap starts at `offset`.
    #[inline(always)]
    pub(crate) unsafe fn bin_at(&self, offset: usize) -> &Bin {
        // SAFETY: inside this thread heap, as the caller promises.
        let bin = unsafe { ptr::from_ref(self).byte_add(offset) }.cast::<Bin>();
        // SAFETY: a bin, as the caller promises, which lives as long as the thread heap.
        unsafe { &*bin }
    }

    /// The bin that an offset is in, if it is in one.
    #[expect(clippy::arithmetic_side_effects, reason = "divides by a constant that is not zero")]
    pub(crate) fn bin_of(&self, offset: usize) -> Option<&Bin> {
        self.bins.get(offset / size_of::<Bin>())
    }

    /// How far behind the start of this thread heap a home is: below [`BINS_BYTES`] for its own bins, and there
    /// the offset of one; some larger number for anything else.
    #[inline(always)]
    pub(crate) fn offset_of(&self, home: usize) -> usize {
        home.wrapping_sub(ptr::from_ref(self).addr())
    }

    /// The home of a slab of this class.
    #[expect(clippy::arithmetic_side_effects, reason = "both lie in the place of this thread heap")]
    pub(crate) fn home(&self, class: usize, keeper: Keeper) -> usize {
        let bin = ptr::from_ref(self.bin(class)).addr();
        match keeper {
            Keeper::Owner => bin,
            Keeper::Freer => bin + COMMON_BYTES,
        }
    }

    /// What a home says, counted from this thread heap, whose index is 0 then; and the bin of its class in this one. `None`
    /// for that of no slab.
    #[inline(always)]
    pub(crate) fn place_of(&self, home: usize) -> Option<(Place, &Bin)> {
        if home == 0 {
            return None;
        }
        // Thread heaps lie whole places apart, so it does not matter from which one it is counted.
        let place = Place::at(self.offset_of(home));
        // SAFETY: a home says where the bin of its class lies in any thread heap.
        Some((place, unsafe { self.bin_at(place.bin_offset) }))
    }

    /// The granules that this thread heap knows of.
    #[inline(always)]
    pub(crate) fn known_granules(&self) -> usize {
        self.known_granules.get()
    }

    /// Notes that the metadata of the first `bytes` of the slab zone are committed.
    pub(crate) fn know(&self, bytes: usize) {
        self.known_granules.set(bytes / GRANULE_BYTES);
    }

    /// Fills in what never changes about the bins.
    pub(crate) fn set_up_bins(&self, order: Order) {
        for (bin, class) in self.bins.iter().zip(CLASSES) {
            bin.set_up(class, order);
        }
        let offset_for = |size| {
            let bytes = class::plain(size).unwrap_or(0).saturating_mul(size_of::<Bin>());
            u16::try_from(bytes).unwrap_or(0)
        };
        for (size, offset) in self.small_offsets.iter().enumerate() {
            offset.set(offset_for(size));
        }
        for (step, offset) in self.offsets.iter().enumerate() {
            // The largest size of this step; the first step has none.
            offset.set(offset_for(step.saturating_mul(GRANULE_BYTES).saturating_sub(class::CANARY_BYTES)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_bin_of_every_size() {
        // SAFETY: valid when all its bytes are zero.
        let heap: Box<ThreadHeap> = unsafe { Box::new_zeroed().assume_init() };
        // SAFETY: not above the largest size.
        let empty = (0..=MID_MAX_BYTES).map(|size| unsafe { heap.bin_for(size) }.len());
        assert_eq!(empty.sum::<u32>(), 0);
        heap.set_up_bins(Order::Lot);
        for size in 0..=MID_MAX_BYTES {
            let class = class::plain(size).unwrap();
            // SAFETY: as above.
            let bin = unsafe { heap.bin_for(size) };
            assert!(ptr::eq(bin, heap.bin(class)), "size {size}");
            if size <= SMALL_MAX_BYTES {
                // SAFETY: not above the largest of these.
                assert!(ptr::eq(bin, unsafe { heap.small_bin_for(size) }), "size {size}");
            }
            assert_eq!(heap.offset_of(heap.home(class, Keeper::Owner)), class * size_of::<Bin>());
        }
        for class in 0..NR_CLASSES {
            for keeper in [Keeper::Owner, Keeper::Freer] {
                let offset = heap.offset_of(heap.home(class, keeper));
                let bin_offset = class * size_of::<Bin>();
                assert_eq!(Place::at(5 * THREAD_HEAP_BYTES + offset), Place { index: 5, bin_offset, keeper });
                assert_eq!(offset < BINS_BYTES, keeper == Keeper::Owner, "who takes it for its own");
                for far in [3 * THREAD_HEAP_BYTES, 0_usize.wrapping_sub(2 * THREAD_HEAP_BYTES)] {
                    assert_eq!(is_common(offset.wrapping_add(far)), keeper == Keeper::Freer);
                }
            }
        }
        assert!(heap.offset_of(heap.home(NR_SMALL, Keeper::Owner)) == SMALL_BINS_BYTES);
        assert!(heap.offset_of(0) >= BINS_BYTES);
    }
}
