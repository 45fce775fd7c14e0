//! Slow paths of small blocks: slots move between stashes, slabs and the pool, a batch at a time.

// UNSAFETY: makes granules and units out of the numbers in its own lists.
#![expect(unsafe_code, reason = "numbers in a thread heap's lists are its own, see `ThreadHeap` 3")]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    reason = "counts of slots below 2^12; classes below NR_CLASSES; words below SLOT_WORDS"
)]

use core::sync::atomic::{AtomicU8, Ordering};

use super::bin::Order;
use super::class::CLASSES;
use super::corruption::Corruption;
use super::geometry::{GRANULE_BYTES, GUARD_BYTES, SLOT_WORDS, UNIT_BYTES, UNIT_GRANULES};
use super::hot::ALWAYS_CHECKED_BYTES;
use super::inbox::{Inbox, Mail, Remote};
use super::pending::LINE_SHIFT;
use super::shadow;
use super::shared::Shared;
use super::tables::{Granule, Unit};
use super::thread::{Keeper, Place, ThreadHeap};
use crate::{Error, Lock, wipe};

/// Empty slabs that a thread keeps whatever the number of its slabs: 512 KiB.
const EMPTY_KEPT: u32 = 8;

/// The first slab of a class becomes common when so many of its blocks come home at once, or one in so many of its slots.
const COMMON_BLOCKS: u32 = 16;
const COMMON_SHARE: u32 = 8;

/// A thread heap together with the heap it belongs to.
///
/// # Invariant
/// 1. The calling thread holds the thread heap, which is set up and belongs to `shared`.
#[derive(Clone, Copy)]
pub(crate) struct Local<'a> {
    shared: &'static Shared,
    heap: &'a ThreadHeap,
}

/// Free slots on their way back to their slab: bits of one word of its bitmap.
#[derive(Clone, Copy, Debug)]
struct Returns {
    /// Granule / 64.
    word: u32,
    bits: u64,
}

impl Returns {
    const NONE: Self = Self { word: 0, bits: 0 };
}

impl<'a> Local<'a> {
    /// # Safety
    /// - The calling thread holds `heap`, which is set up and belongs to `shared`.
    pub(crate) const unsafe fn new(shared: &'static Shared, heap: &'a ThreadHeap) -> Self {
        Self { shared, heap }
    }

    pub(crate) const fn heap(self) -> &'a ThreadHeap {
        self.heap
    }

    pub(crate) const fn shared(self) -> &'static Shared {
        self.shared
    }

    /// Fills the stash of a class, from which nothing can be drawn: from the slabs at hand, blocks that came home, or a new slab.
    #[cold]
    pub(crate) fn refill(self, class: usize) -> Result<(), Error> {
        let shape = &CLASSES[class];
        let bin = self.heap.bin(class);
        self.send_all();
        self.collect_mail();
        // Less cannot be drawn from.
        let least = bin.least();
        let wanted = least - 1 + (shape.stash_len / 2).max(1);
        while bin.len() < wanted {
            let unit = match self.partial(class) {
                Some(unit) => unit,
                // Part of a batch will do: the next slab is made when this one is used up.
                None if bin.len() >= least => break,
                None => match self.add_slab(class) {
                    Ok(unit) => unit,
                    // Of this class, too, something may have come home meanwhile.
                    Err(error) => self.partial(class).ok_or(error)?,
                },
            };
            self.take_slots(class, unit, wanted - bin.len());
        }
        bin.shuffle(&self.heap.rng);
        Ok(())
    }

    /// The first slab of a class that has free slots.
    fn partial(self, class: usize) -> Option<Unit> {
        match self.heap.partial[class].get() {
            0 => None,
            // SAFETY: only numbers of units are put into the list.
            number => Some(unsafe { self.shared.unit_in_list(number) }),
        }
    }

    /// Moves up to `wanted` free slots of a slab to the stash.
    fn take_slots(self, class: usize, unit: Unit, wanted: u32) {
        let header = self.shared.tables.header(unit);
        let bits = self.shared.tables.free_bits(unit);
        let bin = self.heap.bin(class);
        let before = header.nr_free.load(Ordering::Relaxed);
        let mut left = wanted.min(before);
        let first_granule = unit.granule(0).number();
        let slot_bytes = CLASSES[class].slot_bytes;
        let is_checked = slot_bytes as usize <= ALWAYS_CHECKED_BYTES;
        let from = header.first_word.load(Ordering::Relaxed) as usize % SLOT_WORDS;
        // There is room: no more are wanted.
        if left == 0 || !bin.raise(left) {
            Corruption::Metadata.abort();
        }
        let taken = left;
        for word in (from..SLOT_WORDS).chain(0..from) {
            let cell = &bits[word];
            if left == 0 {
                break;
            }
            let mut free = cell.load(Ordering::Relaxed);
            if free == 0 {
                continue;
            }
            while free != 0 && left > 0 {
                let bit = free.trailing_zeros();
                free &= free - 1;
                if is_checked {
                    self.touch(unit, (word * 64) as u32 + bit, slot_bytes);
                }
                left -= 1;
                bin.set(left, first_granule + word as u32 * 64 + bit);
            }
            cell.store(free, Ordering::Relaxed);
        }
        if left != 0 {
            Corruption::Metadata.abort();
        }
        if before == CLASSES[class].nr_slots {
            self.heap.nr_empty.set(self.heap.nr_empty.get() - 1);
        }
        header.nr_free.store(before - taken, Ordering::Relaxed);
        if before == taken {
            self.unlist(class, unit);
        }
    }

    /// Where a new slab begins: the word of its bitmap from which on slots are taken, and behind the last word the
    /// first. By lot, unless the slots themselves are drawn by lot.
    ///
    /// Slots are taken in the order of their addresses from there on, whenever they were freed. Two designs were
    /// measured. In the one before this each run began at a word by lot, within the pages that were touched: once
    /// blocks have been freed, that leaves neighbours in time further and further apart, and a program that builds
    /// and frees a million objects, and goes through them in the order of their birth (python's collector), took 1.22
    /// times its time with the C library; like this 1.08.
    fn first_word(self, class: usize) -> u32 {
        if self.heap.bin(class).order() == Order::Lot {
            return 0;
        }
        let mut rng = self.heap.rng.get();
        let word = rng.below(SLOT_WORDS as u32);
        self.heap.rng.set(rng);
        word
    }

    /// Writes to the pages of a free slot, unless that was done before. The check that it is zero would else be the
    /// first to touch them, and a page that is read first costs two faults: one for the zeros that all processes
    /// share, one for its own.
    fn touch(self, unit: Unit, granule_in_unit: u32, slot_bytes: u32) {
        const GRANULES_PER_PAGE: u32 = (GUARD_BYTES / GRANULE_BYTES) as u32;
        let last = granule_in_unit + slot_bytes / GRANULE_BYTES as u32 - 1;
        let touched = &self.shared.tables.header(unit).touched;
        for page in granule_in_unit / GRANULES_PER_PAGE..=last / GRANULES_PER_PAGE {
            let seen = touched.load(Ordering::Relaxed);
            if seen & 1 << page != 0 {
                continue;
            }
            touched.store(seen | 1 << page, Ordering::Relaxed);
            let ptr = self.heap.address(unit.granule((page as usize) * GUARD_BYTES));
            // SAFETY: the first byte of a page of this thread heap's own slab: mapped, writable, and only accessed
            // atomically here while others may use slots there.
            let byte = unsafe { AtomicU8::from_ptr(ptr.as_ptr()) };
            // Writes a zero where there is one, and hides nothing where there is not.
            let _ = byte.compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Takes a unit from the pool. Before it gives up it asks for what is held without being used.
    fn acquire_unit(self, class: usize) -> Result<Unit, Error> {
        let acquire = || self.shared.acquire_unit(|number| self.heap.pending.crowd(number));
        let held: [&dyn Fn() -> bool; 4] = [
            &|| self.release_empty(0),
            // A few slots at hand keep a slab each.
            &|| self.put_others_back(class),
            &|| self.shared.scavenge(),
            &|| self.shared.drop_kept(),
        ];
        held.iter().fold(acquire(), |unit, give| if unit.is_err() && give() { acquire() } else { unit })
    }

    /// Makes a slab of `class` and puts it into the list.
    fn add_slab(self, class: usize) -> Result<Unit, Error> {
        let unit = self.acquire_unit(class)?;
        self.heap.pending.join(unit.number());
        let tables = &self.shared.tables;
        self.heap.know(self.shared.known_bytes());
        let shape = &CLASSES[class];
        let bits = tables.free_bits(unit);
        let first = shape.first_bytes_in(unit.number());
        let is_second_hand = tables.header(unit).is_second_hand.load(Ordering::Relaxed) != 0;
        if is_second_hand {
            // Fresh metadata is zero, which is what this stores.
            for i in 0..UNIT_GRANULES {
                tables.shadow(unit.granule(i * GRANULE_BYTES)).store(shadow::NEVER, Ordering::Relaxed);
            }
        }
        for i in 0..shape.nr_slots {
            let granule = unit.granule((first + i * shape.slot_bytes) as usize);
            let (word, mask) = granule.bit();
            let cell = &bits[word];
            cell.store(cell.load(Ordering::Relaxed) | mask, Ordering::Relaxed);
            if is_second_hand {
                // Checked at its first use: it may have been written to since the unit was given back.
                tables.shadow(granule).store(shadow::FREED, Ordering::Relaxed);
            }
        }
        let header = tables.header(unit);
        header.generation.store(self.shared.generation(), Ordering::Relaxed);
        header.nr_free.store(shape.nr_slots, Ordering::Relaxed);
        header.first_word.store(self.first_word(class), Ordering::Relaxed);
        // Release: who reads the owner for a block of this slab got the block from it anyway; walkers and
        // `purge` find the class together with the slab.
        header.owner_class.store(self.heap.id.get() << 8 | class as u32, Ordering::Release);
        tables.home(unit).store(self.heap.home(class, Keeper::Owner), Ordering::Relaxed);
        self.heap.nr_slabs.set(self.heap.nr_slabs.get() + 1);
        self.heap.nr_empty.set(self.heap.nr_empty.get() + 1);
        self.list(class, unit);
        Ok(unit)
    }

    /// Makes room in a full stash: puts half of what must not be at hand away, the oldest slots.
    pub(crate) fn spill(self, class: usize) {
        let mut returns = Returns::NONE;
        let (bin, shape) = (self.heap.bin(class), &CLASSES[class]);
        bin.spill(shape.stash_len, |number| returns = self.put_back(class, returns, number));
        self.put_word_back(class, returns);
    }

    /// Puts every slot at hand back into its slab.
    fn put_all_back(self, class: usize) {
        let mut returns = Returns::NONE;
        self.heap.bin(class).empty(|number| returns = self.put_back(class, returns, number));
        self.put_word_back(class, returns);
    }

    /// Puts the slots at hand of every other class back, and gives the slabs up that are empty then. Tells whether any are.
    fn put_others_back(self, class: usize) -> bool {
        let before = self.heap.nr_slabs.get();
        for other in (0..CLASSES.len()).filter(|&other| other != class) {
            self.put_all_back(other);
        }
        self.send_all();
        self.release_empty(0);
        self.heap.nr_slabs.get() < before
    }

    /// Adds a free slot to those that go back to their slab, which those of another word do now. Slots that were
    /// neighbours in use often come back together.
    fn put_back(self, class: usize, returns: Returns, number: u32) -> Returns {
        let (word, bit) = (number / 64, 1 << (number % 64));
        if word != returns.word {
            self.put_word_back(class, returns);
            return Returns { word, bits: bit };
        }
        if returns.bits & bit != 0 {
            Corruption::DoubleFree.abort();
        }
        Returns { word, bits: returns.bits | bit }
    }

    /// Puts free slots of one word back into their slab, or sends them to who owns it.
    fn put_word_back(self, class: usize, returns: Returns) {
        if returns.bits == 0 {
            return;
        }
        // SAFETY: a granule in the unit of slots from this thread heap's stash.
        let granule = unsafe { Granule::new(returns.word * 64) };
        let unit = granule.unit();
        let (word, _) = granule.bit();
        if self.shared.owner(unit.number()) != self.heap.id.get() {
            return self.return_bits(class, granule, returns.bits);
        }
        let cell = &self.shared.tables.free_bits(unit)[word];
        let bits = cell.load(Ordering::Relaxed);
        if bits & returns.bits != 0 {
            Corruption::DoubleFree.abort();
        }
        cell.store(bits | returns.bits, Ordering::Relaxed);
        self.count_free(class, unit, returns.bits.count_ones());
    }

    /// Notes that `n` slots of a slab became free, and releases the slab if too many are empty.
    fn count_free(self, class: usize, unit: Unit, n: u32) {
        let header = self.shared.tables.header(unit);
        let now = header.nr_free.load(Ordering::Relaxed) + n;
        header.nr_free.store(now, Ordering::Relaxed);
        if header.listed.load(Ordering::Relaxed) == 0 {
            self.list(class, unit);
        }
        if now < CLASSES[class].nr_slots {
            return;
        }
        let empty = self.heap.nr_empty.get() + 1;
        self.heap.nr_empty.set(empty);
        // A heap that locks every page gives pages back with the slab, which costs more than anything else it does:
        // there a quarter of the slabs may stay empty. Elsewhere units stay warm for a while.
        let is_costly = self.shared.policy.lock() == Lock::Required;
        let kept = EMPTY_KEPT.max(self.heap.empty_kept.get());
        if empty > kept && (!is_costly || empty > self.heap.nr_slabs.get() / 4) {
            self.release_slab(class, unit);
        }
    }

    /// Gives an empty slab back.
    fn release_slab(self, class: usize, unit: Unit) {
        self.unlist(class, unit);
        for cell in self.shared.tables.free_bits(unit) {
            cell.store(0, Ordering::Relaxed);
        }
        self.shared.tables.header(unit).nr_free.store(0, Ordering::Relaxed);
        self.heap.nr_slabs.set(self.heap.nr_slabs.get() - 1);
        self.heap.nr_empty.set(self.heap.nr_empty.get() - 1);
        let first = (unit.offset() >> LINE_SHIFT) as u32;
        let end = first + (UNIT_BYTES >> LINE_SHIFT) as u32;
        self.heap.pending.empty_range(first, end, |line| self.heap.write_back_line(line));
        self.heap.pending.leave(unit.number());
        // Relaxed: set before the block came home, and so seen with it.
        if self.shared.tables.remote(unit).lines_elsewhere.swap(0, Ordering::Relaxed) != 0 {
            let (ptr, len) = self.shared.payload(unit);
            // SAFETY: the slots of a slab are mapped and readable.
            unsafe { wipe::write_back(ptr, len) };
        }
        self.shared.release_unit(unit);
    }

    /// Gives empty slabs back until no more than `kept` are left. Tells whether it gave any.
    pub(crate) fn release_empty(self, kept: u32) -> bool {
        let before = self.heap.nr_empty.get();
        for (class, shape) in CLASSES.iter().enumerate() {
            let mut next = self.heap.partial[class].get();
            while next != 0 && self.heap.nr_empty.get() > kept {
                // SAFETY: only numbers of units are put into the list.
                let unit = unsafe { self.shared.unit_in_list(next) };
                let header = self.shared.tables.header(unit);
                next = header.next.load(Ordering::Relaxed);
                if header.nr_free.load(Ordering::Relaxed) == shape.nr_slots {
                    self.release_slab(class, unit);
                }
            }
        }
        self.heap.nr_empty.get() < before
    }

    /// Takes back the blocks that other threads freed.
    pub(crate) fn collect_mail(self) {
        if !self.heap.mail.inbox.has_mail() {
            return;
        }
        self.shared.collect(self.heap.id.get(), &self.heap.mail.inbox, |number| {
            // SAFETY: only numbers of units are posted.
            let unit = unsafe { self.shared.unit_in_list(number) };
            let owner_class = self.shared.tables.header(unit).owner_class.load(Ordering::Relaxed);
            self.collect_slab((owner_class & 0xff) as usize, unit);
        });
    }

    fn collect_slab(self, class: usize, unit: Unit) {
        let remote = self.shared.tables.remote(unit);
        let bits = self.shared.tables.free_bits(unit);
        let mut count = 0;
        remote.take(|word, mut came| {
            let cell = &bits[word];
            let here = cell.load(Ordering::Relaxed);
            if here & came != 0 {
                Corruption::DoubleFree.abort();
            }
            cell.store(here | came, Ordering::Relaxed);
            while came != 0 {
                let bit = came.trailing_zeros();
                came &= came - 1;
                let granule = unit.granule((word * 64 + bit as usize) * GRANULE_BYTES);
                let state = self.shared.tables.shadow(granule);
                // A block freed by two threads at the same moment shows here at the latest: the owner's own
                // free, or its reuse, has overwritten the mark.
                if state.load(Ordering::Relaxed) != shadow::REMOTE {
                    Corruption::DoubleFree.abort();
                }
                state.store(shadow::FREED, Ordering::Relaxed);
                count += 1;
            }
        });
        if count > 0 {
            self.share_slab(class, unit, count);
            self.count_free(class, unit, count);
        }
    }

    /// Makes a slab common (`outgoing`) of which many blocks came home at a time, or any, if it is not the first of its
    /// class: where most stay with who frees them, few come.
    fn share_slab(self, class: usize, unit: Unit, nr_came: u32) {
        let passing = self.heap.passing.get();
        if self.heap.bin(class).order() == Order::Runs
            && (passing & 1 << class != 0
                || nr_came * COMMON_SHARE >= CLASSES[class].nr_slots.min(COMMON_SHARE * COMMON_BLOCKS))
        {
            self.heap.passing.set(passing | 1 << class);
            // Release pairs with Acquire in `home_of`: who finds it common sees what this thread freed of it before.
            self.shared.tables.home(unit).store(self.heap.home(class, Keeper::Freer), Ordering::Release);
        }
    }

    /// Puts every slot at hand back and gives empty slabs up, down to `kept`.
    /// Tells whether it gave any.
    pub(crate) fn trim(self, kept: u32) -> bool {
        let before = self.heap.nr_slabs.get();
        self.heap.passing.set(0);
        for (class, _) in CLASSES.iter().enumerate() {
            self.put_all_back(class);
        }
        self.send_all();
        self.collect_mail();
        self.release_empty(kept);
        self.heap.nr_slabs.get() < before
    }

    /// Writes every remembered line back and waits for it.
    #[cold]
    pub(crate) fn write_back_all(self) {
        self.send_all();
        self.heap.pending.empty(|line| self.heap.write_back_line(line));
        wipe::fence();
    }

    fn list(self, class: usize, unit: Unit) {
        let head = &self.heap.partial[class];
        let header = self.shared.tables.header(unit);
        let next = head.replace(unit.number());
        header.prev.store(0, Ordering::Relaxed);
        header.next.store(next, Ordering::Relaxed);
        header.listed.store(1, Ordering::Relaxed);
        if next != 0 {
            // SAFETY: only numbers of units are put into the list.
            let next = unsafe { self.shared.unit_in_list(next) };
            self.shared.tables.header(next).prev.store(unit.number(), Ordering::Relaxed);
        }
    }

    fn unlist(self, class: usize, unit: Unit) {
        let header = self.shared.tables.header(unit);
        let next = header.next.swap(0, Ordering::Relaxed);
        let prev = header.prev.swap(0, Ordering::Relaxed);
        header.listed.store(0, Ordering::Relaxed);
        if prev == 0 {
            self.heap.partial[class].set(next);
        } else {
            // SAFETY: only numbers of units are put into the list.
            let prev = unsafe { self.shared.unit_in_list(prev) };
            self.shared.tables.header(prev).next.store(next, Ordering::Relaxed);
        }
        if next != 0 {
            // SAFETY: as above.
            let next = unsafe { self.shared.unit_in_list(next) };
            self.shared.tables.header(next).prev.store(prev, Ordering::Relaxed);
        }
    }
}

impl Shared {
    /// Whose the slab is that a granule lies in, if it lies in one.
    #[inline]
    pub(crate) fn home_of(&self, granule: Granule) -> Option<Place> {
        // Acquire pairs with Release in `share_slab`.
        let home = self.tables.home_of(granule).load(Ordering::Acquire);
        let first = self.metadata.base().addr().get() + self.geometry.threads_offset;
        home.checked_sub(first).map(Place::at)
    }
}

impl Mail for Shared {
    fn remote(&self, slab: u32) -> &Remote {
        // SAFETY: blocks are sent home by numbers of units, and only those are posted.
        self.tables.remote(unsafe { self.unit_in_list(slab) })
    }

    fn owner(&self, slab: u32) -> u32 {
        // SAFETY: as in `remote`.
        let unit = unsafe { self.unit_in_list(slab) };
        // The home says it too, and lies on no line that the owner writes to all the time.
        match self.home_of(unit.granule(0)) {
            Some(place) => place.index as u32 + 1,
            None => 0,
        }
    }

    fn inbox(&self, owner: u32) -> Option<&Inbox> {
        let heap = self.thread_heap((owner as usize).checked_sub(1)?)?;
        // SAFETY: the place of a thread heap that owns a slab is set up and never freed.
        Some(unsafe { &(*heap.as_ptr()).mail.inbox })
    }
}
