//! A thread heap: the part of a heap that one thread works on alone.

// UNSAFETY: finds bins by their offsets, and skips bounds checks in the hottest path.
#![expect(unsafe_code, reason = "table accesses without a bounds check, by the invariants of `ThreadHeap`")]

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::AtomicU32;

use super::class::{
    self, CLASSES, HELD_BACK, MID_MAX_BYTES, NR_CLASSES, NR_MID, NR_SMALL, NR_STEPS, SMALL_MAX_BYTES,
    STASH_MAX,
};
use super::geometry::{GRANULE_BYTES, THREAD_HEAP_BYTES};
use super::inbox::Inbox;
use super::outgoing::Outgoing;
use super::pending::Pending;
use super::rng::Rng;
use super::tables::Tables;
use crate::{Fork, Policy};

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
/// 3. The numbers in the stash of a bin, from `first` to `end` and around, are granules that free slots of its class start with, in slabs of this thread
///    heap, each slot in one place only; their bit in the free bitmap is clear.
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
    pub(crate) pending: Pending,
    /// Blocks of other thread heaps, freed here, that are not yet sent home.
    pub(crate) outgoing: Outgoing,
    /// What other threads write to.
    pub(crate) mail: MailBox,
}

const _: () = assert!(size_of::<ThreadHeap>() <= THREAD_HEAP_BYTES);
const _: () = assert!(size_of::<[Bin; NR_CLASSES]>() <= 0x1_0000, "offsets of bins fit in 16 bits");

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

/// Which of the free slots at hand comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// One drawn by lot out of the oldest `held_back + 1`, so that nobody knows which: in heaps of secrets.
    Lot,
    /// The oldest, so that blocks that are made one after the other lie one after the other, and a program that goes
    /// through them in that order is not slowed down: in heaps of whole programs. (Measured: Python's garbage
    /// collector takes 1.9 times its time where neighbours are shuffled, even within 1 KiB.) Where a run begins is
    /// by lot.
    Runs,
}

/// The free slots of one class that a thread has at hand, in a ring: what is freed comes to the end, and so comes back
/// after a while.
#[repr(C, align(64))]
pub(crate) struct Bin {
    /// Where the oldest slot of the stash is, and where the next one will be; places of the ring, modulo `STASH_MAX`.
    first: Cell<u32>,
    end: Cell<u32>,
    /// The shape of the class, as far as the hot paths need it; zeros while the thread heap is not set up.
    slot_bytes: Cell<u32>,
    limit: Cell<u32>,
    held_back: Cell<u32>,
    /// Not zero for [`Order::Lot`].
    is_by_lot: Cell<u32>,
    usable_bytes: Cell<usize>,
    stash: [Cell<u32>; STASH_MAX],
}

impl Order {
    /// The order in heaps of this policy.
    #[inline(always)]
    pub(crate) const fn of(policy: Policy) -> Self {
        match policy.fork() {
            Fork::Inherit => Self::Runs,
            Fork::Wipe | Fork::Exclude => Self::Lot,
        }
    }
}

#[expect(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    reason = "lengths stay below or at STASH_MAX by the checks beside them"
)]
impl Bin {
    /// Bytes of a slot.
    #[inline(always)]
    pub(crate) fn slot_bytes(&self) -> usize {
        self.slot_bytes.get() as usize
    }

    /// Bytes of the largest block.
    #[inline(always)]
    pub(crate) fn usable_bytes(&self) -> usize {
        self.usable_bytes.get()
    }

    /// Takes the slot that is next: the granule that it starts with. `None` if no more are left than are held back.
    /// `order` is that of the heap.
    #[inline(always)]
    pub(crate) fn draw(&self, rng: &Cell<Rng>, held_back: u32, order: Order) -> Option<u32> {
        let first = self.first.get();
        if self.end.get().wrapping_sub(first) <= held_back {
            return None;
        }
        let oldest = self.place(first).get();
        self.first.set(first.wrapping_add(1));
        if order == Order::Runs {
            return Some(oldest);
        }
        let next = rng.get().stepped();
        rng.set(next);
        // The oldest takes the place of the one that is drawn.
        Some(self.place(first.wrapping_add(next.of_sixteen() & held_back)).replace(oldest))
    }

    /// The same for any class. Of those that hold nothing back, whose slots are large, the one that is still in the
    /// caches.
    #[inline(always)]
    pub(crate) fn draw_any(&self, rng: &Cell<Rng>) -> Option<u32> {
        match self.held_back.get().min(HELD_BACK) {
            0 => self.draw_last(),
            held_back => self.draw(rng, held_back, self.order()),
        }
    }

    /// A place of the ring.
    #[inline(always)]
    fn place(&self, number: u32) -> &Cell<u32> {
        &self.stash[number as usize % STASH_MAX]
    }

    /// Takes the newest slot, whether it is held back or not.
    pub(crate) fn draw_last(&self) -> Option<u32> {
        if self.len() == 0 {
            return None;
        }
        let last = self.end.get().wrapping_sub(1);
        self.end.set(last);
        Some(self.place(last).get())
    }

    /// Puts a slot into the stash. Tells whether there was room.
    #[inline(always)]
    #[must_use]
    pub(crate) fn push(&self, granule: u32) -> bool {
        let end = self.end.get();
        if end.wrapping_sub(self.first.get()) >= self.limit.get() {
            return false;
        }
        // Not the oldest's: `limit` is at most STASH_MAX, which is checked for every class beside the table of them.
        self.place(end).set(granule);
        self.end.set(end.wrapping_add(1));
        true
    }

    /// Whether the stash has no room.
    #[inline(always)]
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.limit.get()
    }

    /// Slots in the stash.
    pub(crate) fn len(&self) -> u32 {
        self.end.get().wrapping_sub(self.first.get())
    }

    /// Hands out the oldest `n` slots of the stash and keeps the others.
    pub(crate) fn spill(&self, n: u32, mut give: impl FnMut(u32)) {
        let first = self.first.get();
        let n = n.min(self.len());
        for i in 0..n {
            give(self.place(first.wrapping_add(i)).get());
        }
        self.first.set(first.wrapping_add(n));
    }

    /// Hands out every slot.
    pub(crate) fn empty(&self, give: impl FnMut(u32)) {
        self.spill(STASH_MAX as u32, give);
    }

    /// Brings the stash into a random order, if slots are drawn by lot.
    pub(crate) fn shuffle(&self, rng: &mut Rng) {
        if self.is_by_lot.get() == 0 {
            return;
        }
        let first = self.first.get();
        for i in (1..self.len()).rev() {
            let j = rng.below(i + 1);
            self.place(first.wrapping_add(i)).swap(self.place(first.wrapping_add(j)));
        }
    }

    /// Which slot comes next.
    #[inline(always)]
    pub(crate) fn order(&self) -> Order {
        if self.is_by_lot.get() == 0 { Order::Runs } else { Order::Lot }
    }

    /// Every slot at hand.
    pub(crate) fn visit(&self, mut see: impl FnMut(u32)) {
        for i in 0..self.len() {
            see(self.place(self.first.get().wrapping_add(i)).get());
        }
    }
}

/// How far the bins of small classes reach from the start of a thread heap, and those of mid ones, and those of all.
pub(crate) const SMALL_BINS_BYTES: usize = size_of::<Bin>() * NR_SMALL;
pub(crate) const MID_BINS_BYTES: usize = size_of::<Bin>() * NR_MID;
pub(crate) const BINS_BYTES: usize = size_of::<Bin>() * NR_CLASSES;

/// Index of the thread heap and class of a home that lies `offset` behind the first thread heap.
#[expect(clippy::arithmetic_side_effects, reason = "divides by constants that are not zero")]
pub(crate) const fn home_at(offset: usize) -> (usize, usize) {
    (offset / THREAD_HEAP_BYTES, offset % THREAD_HEAP_BYTES / size_of::<Bin>())
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

    /// How far behind the start of this thread heap a home is: below [`BINS_BYTES`] for its own bins, and there
    /// the offset of one; some larger number for anything else.
    #[inline(always)]
    pub(crate) fn offset_of(&self, home: usize) -> usize {
        home.wrapping_sub(ptr::from_ref(self).addr())
    }

    /// What the header of a slab of this class holds as its home.
    pub(crate) fn home(&self, class: usize) -> usize {
        ptr::from_ref(self.bin(class)).addr()
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
            bin.slot_bytes.set(class.slot_bytes);
            bin.usable_bytes.set(class.usable_bytes());
            bin.limit.set(class.limit());
            bin.held_back.set(class.held_back);
            bin.is_by_lot.set(u32::from(order == Order::Lot));
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
            assert_eq!(heap.offset_of(heap.home(class)), class * size_of::<Bin>());
        }
        assert!(
            (0..NR_CLASSES)
                .all(|class| home_at(5 * THREAD_HEAP_BYTES + class * size_of::<Bin>()) == (5, class))
        );
        assert!(heap.offset_of(heap.home(NR_SMALL)) == SMALL_BINS_BYTES);
        assert!(heap.offset_of(0) >= BINS_BYTES);
    }
}
