//! One arena: the slots of one class, and the records about them.
//!
//! ```text
//! memory    | G | slot 1 | G | slot 2 | G | slot 3 | G | ...    64 GiB of addresses, no access
//!           |<------------- prepared, step by step ----------->|
//! metadata  | Arena | sentinel | record 1 | record 2 | ...      32 bytes a slot, committed step by step
//!             1 page   1 page
//! ```

// UNSAFETY: makes the value in place in memory that it maps itself, and hands out references into it.
#![expect(unsafe_code, reason = "lives in memory that it mapped itself, see the invariants of `Arena`")]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "offsets inside ranges of at most 2^36 bytes; numbers of slots below 2^24"
)]

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use super::pinning;
use super::record::{RECORD_BYTES, Record};
use super::window::{NR_CLASSES, pages_of};
use crate::heap::index_stack::IndexStack;
use crate::keys::{self, Zone};
use crate::os::{self, Hint};
use crate::pages::{GuardKind, PageBytes, Reservation};
use crate::policy::settle_secret_backing;
use crate::{Backing, Error, Fork, Operation, Seal};

/// Addresses of an arena; halved while the limit of addresses is too small for it.
const MEMORY_BYTES: usize = 1 << 36;
/// The least to be tried.
const LEAST_MEMORY_BYTES: usize = 1 << 22;
/// Most slots of an arena.
const MOST_SLOTS: usize = 1 << 23;
/// Data pages that are prepared at once.
const STEP_PAGES: usize = 64;
/// Bytes of free slots that are kept ready.
const WARM_BYTES: usize = 4 << 20;
/// Under a limit of locked memory, the part of it that is kept ready at most.
const WARM_PART_OF_LIMIT: usize = 8;
/// What the sentinel says in the process that made the arena.
const HERE: u32 = 1;

/// The arenas of the process, one for each class, made at the first use.
static ROOTS: [AtomicPtr<Arena>; NR_CLASSES] = [const { AtomicPtr::new(ptr::null_mut()) }; NR_CLASSES];

/// The slots of one class.
///
/// # Invariants
///
/// 1. Lives at the start of its own metadata range. Once published in [`ROOTS`] neither range is unmapped.
/// 2. Everything but the atomics stays as it was made.
/// 3. Records of all slots up to `steps * step_slots` are committed; `steps` only grows, and those slots lie
///    within `memory`.
/// 4. The sentinel is zero in a forked child: there the arena is dead, and another one takes its place.
#[derive(Debug)]
pub(super) struct Arena {
    pub(super) memory: Reservation,
    metadata: Reservation,
    records: NonNull<Record>,
    sentinel: NonNull<AtomicU32>,
    /// The process that made it, where forks can be told by that only; else 0.
    process_id: u32,
    pub(super) page_bytes: usize,
    /// Data bytes of a slot.
    pub(super) data_bytes: usize,
    stride_bytes: usize,
    nr_slots: usize,
    step_slots: usize,
    /// Bytes of free slots that are kept ready while slots have mappings of their own.
    pub(super) warm_bytes: usize,
    pub(super) canary_key: u64,
    /// What seals its secrets: the same for all arenas of a process.
    pub(super) seal: Seal,
    pub(super) hints_refused: u32,
    /// What its windows are made of.
    pub(super) backing: Backing,
    steps: AtomicUsize,
    pub(super) cold: IndexStack,
    pub(super) warm: IndexStack,
    /// Even: slots have mappings of their own. Odd: mappings are merged. See `regime`.
    pub(super) regime: AtomicU32,
    /// How many purges are under way, during which nothing is sealed.
    pub(super) purging: AtomicU32,
    pub(super) counters: Counters,
}

/// What a report tells, and what decides how many slots are kept warm.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Slots that hold a secret.
    pub(super) live: AtomicUsize,
    /// Bytes of their blocks.
    pub(super) live_bytes: AtomicUsize,
    /// Slots kept ready.
    pub(super) warm: AtomicUsize,
    /// The number of slots to keep ready on request.
    pub(super) reserved: AtomicUsize,
    /// Bytes of windows that are locked.
    pub(super) locked_bytes: AtomicUsize,
    /// Bytes of windows that are pinned.
    pub(super) pinned_bytes: AtomicUsize,
    /// Times that a window was only locked although it should have been pinned, and the last reason.
    pub(super) pin_refused: AtomicUsize,
    pub(super) pin_errno: AtomicU32,
    /// Slots whose secret could not be wiped.
    pub(super) leaked: AtomicUsize,
    /// Guards without a marker: pages without access, as all others at rest.
    pub(super) guards_without_marker: AtomicUsize,
    /// Whether `purge` ran: what it wiped cannot tell overflows apart any more.
    pub(super) is_purged: AtomicBool,
}

const _: () = assert!(size_of::<Arena>() <= 4096, "fits in the smallest page");

// SAFETY: everything in it may be used from any thread: the ranges by their own proof, the records are made
// of atomics, the rest is atomic or never changes (invariant 2).
unsafe impl Sync for Arena {}
// SAFETY: as for Sync; nothing in it belongs to a thread.
unsafe impl Send for Arena {}

impl Arena {
    /// The arena of a class, made now if this process has none.
    #[inline]
    pub(super) fn of(class: usize, seal: Seal) -> Result<&'static Self, Error> {
        match Self::existing(class) {
            Some(arena) if arena.is_here() => Ok(arena),
            _ => Self::create_and_publish(class, seal),
        }
    }

    /// The arena of a class, if there is one: perhaps that of a parent process.
    #[inline]
    pub(super) fn existing(class: usize) -> Option<&'static Self> {
        // Acquire pairs with Release in `create_and_publish`.
        let arena = ROOTS.get(class)?.load(Ordering::Acquire);
        // SAFETY: null, or published and never unmapped (invariant 1).
        unsafe { arena.as_ref() }
    }

    /// Every arena of this process.
    pub(super) fn all() -> impl Iterator<Item = &'static Self> {
        (0..NR_CLASSES).filter_map(Self::existing).filter(|arena| arena.is_here())
    }

    #[cold]
    fn create_and_publish(class: usize, seal: Seal) -> Result<&'static Self, Error> {
        let Some(root) = ROOTS.get(class) else { return Err(Error::TooLarge) };
        // Acquire: as in `existing`.
        let seen = root.load(Ordering::Acquire);
        pinning::forget_after_fork();
        let mine = Self::create(class, seal)?;
        // Release pairs with Acquire in `existing`.
        match root.compare_exchange(seen, mine.as_ptr(), Ordering::Release, Ordering::Relaxed) {
            // SAFETY: written by `create`, and never unmapped from now on.
            Ok(_) => Ok(unsafe { mine.as_ref() }),
            Err(_) => {
                // Another thread was faster.
                // SAFETY: written by `create`, and nobody else knows it. The copy holds the ranges; the original,
                // which is unmapped with them, is not used again.
                let Self { memory, metadata, .. } = unsafe { mine.read() };
                // SAFETY: nobody knows an address in it.
                let _ = unsafe { memory.release() };
                // SAFETY: as above.
                let _ = unsafe { metadata.release() };
                Self::existing(class).ok_or(Error::TooLarge)
            }
        }
    }

    /// Maps an arena, half as large as long as its addresses are not to be had: under a limit the records need
    /// some as well. Nothing refers to it yet.
    fn create(class: usize, seal: Seal) -> Result<NonNull<Self>, Error> {
        let mut memory_bytes = MEMORY_BYTES;
        loop {
            match Self::create_within(class, seal, memory_bytes) {
                Err(Error::AddressSpace { .. }) if memory_bytes > LEAST_MEMORY_BYTES => memory_bytes /= 2,
                made => return made,
            }
        }
    }

    /// Maps an arena of that size or smaller, and writes the value to its place.
    fn create_within(class: usize, seal: Seal, memory_bytes: usize) -> Result<NonNull<Self>, Error> {
        let page_bytes = os::page_size();
        let data_bytes = pages_of(class) * page_bytes;
        let stride_bytes = data_bytes + page_bytes;
        let least = PageBytes::round_up(stride_bytes + page_bytes).ok_or(Error::TooLarge)?;
        let wanted = PageBytes::round_down(memory_bytes.max(least.get()));
        let memory = Reservation::new(wanted, least)?;
        let nr_slots = ((memory.len().get() - page_bytes) / stride_bytes).min(MOST_SLOTS);
        let metadata_bytes = PageBytes::round_up(2 * page_bytes + nr_slots * RECORD_BYTES);
        let metadata =
            match metadata_bytes.ok_or(Error::TooLarge).and_then(|bytes| Reservation::new(bytes, bytes)) {
                Ok(metadata) => metadata,
                Err(error) => {
                    // SAFETY: made above, and nobody knows an address in it.
                    let _ = unsafe { memory.release() };
                    return Err(error);
                }
            };
        let backing = settle_secret_backing();
        let prepared = match prepare(&memory, &metadata, backing, seal) {
            Ok(prepared) => prepared,
            Err(error) => {
                // SAFETY: made above, and nobody knows an address in it.
                let _ = unsafe { memory.release() };
                // SAFETY: as above.
                let _ = unsafe { metadata.release() };
                return Err(error);
            }
        };
        // SAFETY: the metadata has two pages before the records.
        let sentinel = unsafe { metadata.base().add(page_bytes) }.cast::<AtomicU32>();
        // SAFETY: as above.
        let records = unsafe { metadata.base().add(2 * page_bytes) }.cast::<Record>();
        let place = metadata.base().cast::<Self>();
        let arena = Self {
            memory,
            metadata,
            records,
            sentinel,
            process_id: if prepared.is_wiped_on_fork { 0 } else { os::process_id() },
            page_bytes,
            data_bytes,
            stride_bytes,
            nr_slots,
            step_slots: (STEP_PAGES / pages_of(class)).max(1),
            warm_bytes: warm_bytes(),
            canary_key: u64::from_ne_bytes(prepared.seed),
            seal,
            hints_refused: prepared.hints_refused,
            backing,
            steps: AtomicUsize::new(0),
            cold: IndexStack::new(),
            warm: IndexStack::new(),
            regime: AtomicU32::new(0),
            purging: AtomicU32::new(0),
            counters: Counters::default(),
        };
        // SAFETY: two pages were committed by `prepare`, the value fits in the first by the assertion
        // above, and nobody else knows it.
        unsafe { place.write(arena) };
        // SAFETY: committed by `prepare`; zeros are an `AtomicU32`.
        unsafe { sentinel.as_ref() }.store(HERE, Ordering::Relaxed);
        Ok(place)
    }

    /// Whether this process made the arena. In a child made by fork it is dead: its secrets are zeros, its
    /// locks and pins are gone.
    #[inline]
    pub(super) fn is_here(&self) -> bool {
        // SAFETY: committed, aligned, and never unmapped while the arena is used (invariant 1).
        let sentinel = unsafe { self.sentinel.as_ref() };
        // Relaxed: set before the arena was published, and wiped by the kernel in a child.
        sentinel.load(Ordering::Relaxed) == HERE
            && (self.process_id == 0 || self.process_id == os::process_id())
    }

    /// The record of a slot that was prepared.
    #[inline]
    pub(super) fn record(&self, number: u32) -> &Record {
        debug_assert!(number != 0 && number as usize <= self.prepared_slots(), "a prepared slot");
        // SAFETY: numbers come from `prepare_step`, so the record lies in the metadata (invariant 3).
        let record = unsafe { self.records.add(number as usize - 1) };
        // SAFETY: committed (invariant 3), aligned, and zeros are a record. Never unmapped (invariant 1).
        unsafe { record.as_ref() }
    }

    /// Offset of a slot's first data byte from the base of the memory.
    #[inline]
    pub(super) fn data_offset(&self, number: u32) -> usize {
        self.page_bytes + (number as usize - 1) * self.stride_bytes
    }

    /// Number of slots that were prepared so far: 1 up to this.
    pub(super) fn prepared_slots(&self) -> usize {
        // Acquire pairs with Release in `prepare_step`.
        (self.steps.load(Ordering::Acquire) * self.step_slots).min(self.nr_slots)
    }

    /// Bytes from the base of the memory to the end of the last guard that was made.
    pub(super) fn prepared_bytes(&self) -> PageBytes {
        PageBytes::round_down(self.page_bytes + self.prepared_slots() * self.stride_bytes)
    }

    /// Addresses of slots and of records.
    pub(super) fn reserved_bytes(&self) -> (usize, usize) {
        (self.memory.len().get(), self.metadata.len().get())
    }

    /// Prepares some more slots: their records and guards. Returns one of them, which the caller then owns;
    /// the others go on the cold stack.
    #[cold]
    pub(super) fn prepare_step(&self) -> Result<u32, Error> {
        let step = loop {
            let step = self.steps.load(Ordering::Acquire);
            let first = step * self.step_slots;
            if first >= self.nr_slots {
                return Err(Error::HeapFull { reserved_bytes: self.memory.len().get() });
            }
            // Threads that race here commit the same records twice, which changes nothing.
            let start = PageBytes::round_down(first * RECORD_BYTES);
            let end = PageBytes::round_up((first + self.step_slots).min(self.nr_slots) * RECORD_BYTES);
            let records = end.ok_or(Error::TooLarge)?.saturating_sub(start);
            let offset = PageBytes::round_down(2 * self.page_bytes + start.get());
            self.metadata.commit(offset, records)?;
            // Release pairs with Acquire in `prepared_slots`.
            if self.steps.compare_exchange(step, step + 1, Ordering::Release, Ordering::Relaxed).is_ok() {
                break step;
            }
        };
        let first = step * self.step_slots;
        let count = self.step_slots.min(self.nr_slots - first);
        let guards = self.make_guards(step, first, count);
        #[expect(clippy::cast_possible_truncation, reason = "below 2^24")]
        let (first, count) = (first as u32 + 1, count as u32);
        if self.is_merged() {
            // One mapping with the steps before it. A refusal costs mappings; slots are locked one by one.
            let offset = PageBytes::round_down(self.data_offset(first));
            if self.seal != Seal::Pages && guards == Ok(GuardKind::Marker) {
                let bytes = PageBytes::round_down(count as usize * self.stride_bytes);
                let _ = self.memory.commit(offset, bytes);
            }
            // SAFETY: within the memory.
            let start = unsafe { self.memory.base().add(offset.get()) };
            // SAFETY: reserved, and never unmapped (invariant 1).
            let _ = unsafe { os::lock(start, count as usize * self.stride_bytes) };
        }
        for number in (first + 1..first + count).rev() {
            self.cold.push(number, |number| &self.record(number).link);
        }
        Ok(first)
    }

    /// Marks the guards behind the slots of a step, and the one in front of them all. Where the kernel has no
    /// markers, they are what they were: pages without access, in one mapping with the sealed slots.
    fn make_guards(&self, step: usize, first: usize, count: usize) -> Result<GuardKind, Error> {
        let page = PageBytes::one();
        // Guard n ends slot n; guard 0 is in front of them all. Those of other steps are theirs to make.
        let (guard, guards) = if step == 0 { (0, count + 1) } else { (first + 1, count) };
        let offset = PageBytes::round_down(guard * self.stride_bytes);
        let stride = PageBytes::round_down(self.stride_bytes);
        // SAFETY: nothing ever refers to these pages: no window reaches them.
        let kind = unsafe { self.memory.guard_each(offset, page, stride, guards) };
        if kind != Ok(GuardKind::Marker) {
            self.counters.guards_without_marker.fetch_add(count, Ordering::Relaxed);
        }
        kind
    }
}

/// What was found out while preparing the ranges.
struct Prepared {
    hints_refused: u32,
    is_wiped_on_fork: bool,
    seed: [u8; 8],
}

/// What may fail once the ranges are reserved.
fn prepare(
    memory: &Reservation,
    metadata: &Reservation,
    backing: Backing,
    seal: Seal,
) -> Result<Prepared, Error> {
    let hints = match backing {
        // Windows are files of their own, for which the kernel sees to the rest.
        Backing::Hidden => memory.hint_hidden(),
        Backing::Auto | Backing::Locked => memory.hint_all(Fork::Wipe),
    }?;
    // No secrets there, but the key of the canaries.
    let _ = metadata.hint(Hint::DontDump);
    let page = PageBytes::one();
    let is_wiped_on_fork = metadata.hint_part(page, page, Hint::WipeOnFork).is_ok();
    let two = page.checked_add(page).ok_or(Error::TooLarge)?;
    metadata.commit(PageBytes::ZERO, two)?;
    if backing != Backing::Hidden {
        share_one_owner(memory)?;
    }
    if seal == Seal::ProtectionKey {
        let key = keys::key_of(Zone::Isolated)?;
        // SAFETY: nobody knows the range yet; windows in it are touched under rights only, see `slot`.
        unsafe { memory.seal(key) }?;
    }
    let mut seed = [0; 8];
    os::fill_random(&mut seed).map_err(|errno| Error::Os { operation: Operation::Random, errno: errno.0 })?;
    Ok(Prepared { hints_refused: hints.refused(), is_wiped_on_fork, seed })
}

/// Touches one page while the range is one mapping. The kernel keeps a record for each mapping that has
/// pages (`anon_vma`), which the parts of a mapping that is split share; mappings with records of their own
/// are never merged again. Without this, slots that were first touched while they had mappings of their own
/// would keep them for ever (measured). The page goes when the first guard is made over it.
fn share_one_owner(memory: &Reservation) -> Result<(), Error> {
    // Refused where the kernel lends no memory on trust (`vm.overcommit_memory` 2).
    if memory.commit(PageBytes::ZERO, memory.len()).is_ok() {
        // SAFETY: committed just now, and nobody else knows it.
        unsafe { memory.base().write_volatile(0) };
        // SAFETY: no reference was made.
        unsafe { memory.decommit(PageBytes::ZERO, memory.len()) }?;
    }
    Ok(())
}

/// How much to keep ready: an eighth of what may be locked, if that is limited.
fn warm_bytes() -> usize {
    match os::memlock_limit().soft {
        Some(limit) if !os::may_exceed_memlock_limit() => WARM_BYTES.min(limit / WARM_PART_OF_LIMIT),
        _ => WARM_BYTES,
    }
}
