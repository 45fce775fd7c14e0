//! The side tables of a heap and the numbers that index them.

// UNSAFETY: turns offsets into references to the metadata range; the one place that does.
#![expect(unsafe_code, reason = "indexes the metadata range, see the invariants of `Tables`")]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "numbers are below 2^32 by the invariants of `Unit` and `Granule`; usize has at least 64 bits here"
)]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize};

use super::geometry::{BITMAP_WORDS, GRANULE_BYTES, Geometry, HEADER_BYTES, UNIT_BYTES, UNIT_GRANULES};
use super::inbox::Remote;

/// The number of a unit of the slab zone.
///
/// # Invariant
/// 1. Its metadata is committed, in the heap that made the number. (Numbers never leave their heap: the
///    type is private to `heap/` and no function takes numbers of two heaps.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unit(u32);

/// The number of a granule of the slab zone.
///
/// # Invariant
/// 1. It lies in a unit whose metadata is committed ([`Unit`] 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Granule(usize);

impl Unit {
    /// # Safety
    /// - The metadata of `number` is committed in the heap whose tables it will index.
    pub(crate) const unsafe fn new(number: u32) -> Self {
        Self(number)
    }

    pub(crate) const fn number(self) -> u32 {
        self.0
    }

    /// Offset of the unit in the memory range.
    pub(crate) const fn offset(self) -> usize {
        self.0 as usize * UNIT_BYTES
    }

    /// The granule at `offset_bytes` in this unit; wraps inside the unit.
    #[inline(always)]
    pub(crate) const fn granule(self, offset_bytes: usize) -> Granule {
        Granule(self.0 as usize * UNIT_GRANULES + offset_bytes / GRANULE_BYTES % UNIT_GRANULES)
    }
}

impl Granule {
    /// # Safety
    /// - The granule lies in a unit whose metadata is committed in the heap whose tables it will index.
    #[inline(always)]
    pub(crate) const unsafe fn new(number: u32) -> Self {
        Self(number as usize)
    }

    /// The same with a wide number, which spares the hot paths to narrow it first.
    ///
    /// # Safety
    /// - As for [`new`](Self::new).
    #[inline(always)]
    pub(crate) const unsafe fn from_wide(number: usize) -> Self {
        Self(number)
    }

    /// Below 2^32, as there are no more granules in the largest range.
    #[inline(always)]
    pub(crate) const fn number(self) -> u32 {
        self.0 as u32
    }

    /// The unit that it lies in.
    #[inline(always)]
    pub(crate) const fn unit(self) -> Unit {
        Unit((self.0 / UNIT_GRANULES) as u32)
    }

    /// Offset in the memory range.
    #[inline(always)]
    pub(crate) const fn offset(self) -> usize {
        self.0 * GRANULE_BYTES
    }

    /// The word of its unit's bitmaps and the bit in it.
    #[inline(always)]
    pub(crate) const fn bit(self) -> (usize, u64) {
        let in_unit = self.0 % UNIT_GRANULES;
        (in_unit / 64, 1 << (in_unit % 64))
    }

    /// The granule `n` further on in the same unit; wraps inside the unit.
    pub(crate) const fn within_unit(self, n: u32) -> Self {
        let unit = self.0 / UNIT_GRANULES;
        Self(unit * UNIT_GRANULES + (self.0 + n as usize) % UNIT_GRANULES)
    }
}

/// What is known about a unit. Written by its owner alone, except where it says otherwise.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Header {
    /// The pin that holds the unit, as number; 0 for none.
    pub(crate) pin: AtomicU64,
    /// Owner's number in the high 24 bits, class in the low 8; 0 for a unit that is no slab.
    pub(crate) owner_class: AtomicU32,
    /// The generation of the heap (number of forks, see `fork`) that made the slab.
    pub(crate) generation: AtomicU32,
    /// Link in one of the heap's stacks of units.
    pub(crate) stack_link: AtomicU32,
    /// Free slots in the free bitmap.
    pub(crate) nr_free: AtomicU32,
    /// Neighbours in the owner's list of slabs with free slots; 0 for none.
    pub(crate) next: AtomicU32,
    pub(crate) prev: AtomicU32,
    /// Whether it stands in that list.
    pub(crate) listed: AtomicU32,
    /// Whether guard, access and lock are made: a `Prepared` as number.
    pub(crate) prepared: AtomicU32,
    /// Not 0 if it was a slab before: somebody may still write through a pointer from then.
    pub(crate) is_second_hand: AtomicU32,
    /// One bit a page: written to since the memory was last given back, as far as the owner knows.
    pub(crate) touched: AtomicU32,
    /// The word of its bitmap from which on slots are taken: below `SLOT_WORDS`.
    pub(crate) first_word: AtomicU32,
    _rest: [u32; 3],
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);

/// One bit a granule: the slots that are free and in no stash.
pub(crate) type FreeBits = [AtomicU64; BITMAP_WORDS];

/// Where the blocks of a unit go home to: the address of the bin of its owner, in its class, or so far behind that it
/// stands for a common slab ([`Place`](super::thread::Place)); 0 for a unit that is no slab. It says what
/// [`Header::owner_class`] says, in a table that is written to only when a slab is made, becomes common or is given back,
/// so that threads which free each other's blocks read it out of their own caches.
pub(crate) type Home = AtomicUsize;

/// Where the tables of a heap are.
///
/// # Invariants
/// 1. Each pointer is the start of its table in the heap's metadata range as laid out by [`Geometry`],
///    which is mapped until the heap is destroyed, after all users of its tables.
/// 2. The tables are readable and writable for every unit whose metadata is committed, and held zeros when
///    that was done. All their types are valid when zero and are accessed by shared reference only.
/// 3. The value of zero bytes indexes nothing: no [`Unit`] or [`Granule`] is made for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tables {
    shadow: *const AtomicU8,
    headers: *const Header,
    free_bits: *const FreeBits,
    remote_bits: *const Remote,
}

impl Tables {
    /// # Safety
    /// - `metadata` is the start of a mapped range of `geometry.metadata_bytes`, which outlives the value.
    pub(crate) unsafe fn new(metadata: NonNull<u8>, geometry: &Geometry) -> Self {
        let at = |offset: usize| {
            // SAFETY: `offset` is one of `geometry`'s, so below `metadata_bytes` and in the same range.
            unsafe { metadata.as_ptr().cast_const().add(offset) }
        };
        Self {
            shadow: at(geometry.shadow_offset).cast(),
            headers: at(geometry.headers_offset).cast(),
            free_bits: at(geometry.free_bits_offset).cast(),
            remote_bits: at(geometry.remote_bits_offset).cast(),
        }
    }

    /// The state byte of a granule.
    #[inline(always)]
    pub(crate) fn shadow(&self, granule: Granule) -> &AtomicU8 {
        // SAFETY: in bounds of the shadow table by `Granule` 1 and `Tables` 1.
        let at = unsafe { self.shadow.add(granule.0) };
        // SAFETY: aligned (one byte), committed by `Granule` 1, valid and shared by `Tables` 2.
        unsafe { &*at }
    }

    /// The home of a unit's blocks.
    pub(crate) fn home(&self, unit: Unit) -> &Home {
        self.home_of(unit.granule(0))
    }

    /// The home of the blocks in the unit of a granule.
    #[inline(always)]
    pub(crate) fn home_of(&self, granule: Granule) -> &Home {
        // The homes end where the shadow begins, that of unit 0 last.
        let place = !(granule.0 / UNIT_GRANULES);
        // SAFETY: in bounds of the table of homes, which lies before the shadow in the same range, by `Granule` 1
        // and `Tables` 1.
        let at = unsafe { self.shadow.cast::<Home>().offset(place.cast_signed()) };
        // SAFETY: a page-aligned table, committed by `Granule` 1, valid by `Tables` 2.
        unsafe { &*at }
    }

    /// The header of a unit.
    #[inline(always)]
    pub(crate) fn header(&self, unit: Unit) -> &Header {
        // SAFETY: in bounds of the header table by `Unit` 1 and `Tables` 1.
        let at = unsafe { self.headers.add(unit.0 as usize) };
        // SAFETY: a page-aligned table of 64-byte entries, committed by `Unit` 1, valid by `Tables` 2.
        unsafe { &*at }
    }

    /// The free bitmap of a unit.
    #[inline]
    pub(crate) fn free_bits(&self, unit: Unit) -> &FreeBits {
        // SAFETY: in bounds of the table by `Unit` 1 and `Tables` 1.
        let at = unsafe { self.free_bits.add(unit.0 as usize) };
        // SAFETY: a page-aligned table of 512-byte entries, committed by `Unit` 1, valid by `Tables` 2.
        unsafe { &*at }
    }

    /// The remote bitmap of a unit.
    #[inline]
    pub(crate) fn remote(&self, unit: Unit) -> &Remote {
        // SAFETY: in bounds of the table by `Unit` 1 and `Tables` 1.
        let at = unsafe { self.remote_bits.add(unit.0 as usize) };
        // SAFETY: a page-aligned table of 512-byte entries, committed by `Unit` 1, valid by `Tables` 2.
        unsafe { &*at }
    }
}
