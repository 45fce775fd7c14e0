//! What all threads of a heap share: the ranges, the tables, the pools.

// UNSAFETY: makes the value in place in mapped memory and hands out references to parts of the ranges.
#![expect(unsafe_code, reason = "lives in memory that it mapped itself, see the invariants of `Shared`")]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "offsets inside ranges of at most 2^38 bytes; counts of units below 2^22"
)]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence};

use super::canary;
use super::geometry::{
    Constraints, GUARD_BYTES, Geometry, HOME_BYTES, HUGE_STEPS, PAYLOAD_BYTES, STEP_UNITS, THREAD_HEAP_BYTES,
    UNIT_BYTES, UNIT_GRANULES,
};
use super::large::{LargeZone, subtract};
use super::lock_share::LockShare;
use super::registry::Registry;
use super::tables::{Header, Tables, Unit};
use super::thread::ThreadHeap;
use super::units::Units;
use crate::keys::{self, Zone};
use crate::os::{self, Errno, HUGE_PAGE_BYTES, Hint};
use crate::pages::{Hints, PageBytes, Pins, Reservation};
use crate::{Backing, Error, Fork, Operation, Policy, Seal};

/// Where the sentinel page lies in the metadata range; [`Shared`] lies before it.
const SENTINEL_OFFSET: usize = UNIT_BYTES / 2;
/// What the sentinel says in the process that set it.
const HERE: u32 = 1;

/// A heap in use.
///
/// # Invariants
/// 1. Lives at the start of its own metadata range, which is never unmapped except by [`Shared::destroy`].
/// 2. Everything but the atomics and what is made of them stays as it was made.
/// 3. Metadata of all units below `steps * STEP_UNITS` is committed; `steps` only grows.
/// 4. The sentinel page is zero in a forked child until [`Shared::notice_fork`] has run there.
pub(crate) struct Shared {
    pub(crate) memory: Reservation,
    pub(crate) metadata: Reservation,
    pub(crate) geometry: Geometry,
    pub(crate) tables: Tables,
    pub(crate) policy: Policy,
    pub(crate) key: u64,
    pub(crate) hints_refused: AtomicU32,
    /// Not zero in a child whose addresses could not be reserved again.
    is_lost: AtomicU32,
    /// The process that noticed the last fork, where forks can be told by that only; else 0.
    process_id: AtomicU32,
    pub(crate) generation: AtomicU32,
    sentinel: NonNull<AtomicU32>,
    steps: AtomicU32,
    pub(crate) units: Units,
    pub(crate) registry: Registry,
    pub(crate) large: LargeZone,
    pub(crate) pins: Pins,
    pub(crate) lock_share: LockShare,
    pub(crate) counters: Counters,
}

const _: () = assert!(size_of::<Shared>() <= SENTINEL_OFFSET);

impl core::fmt::Debug for Shared {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Shared").field("policy", &self.policy).finish_non_exhaustive()
    }
}

// SAFETY: everything in it may be used from any thread: the ranges and tables by their own proofs, the rest
// is atomic or never changes (`Shared` 2).
unsafe impl Sync for Shared {}
// SAFETY: as for Sync; nothing in it belongs to a thread.
unsafe impl Send for Shared {}

/// What a report tells. Changed on slow paths only.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Bytes made usable.
    pub(crate) committed_bytes: AtomicUsize,
    /// Bytes locked by this heap.
    pub(crate) locked_bytes: AtomicUsize,
    /// Bytes pinned by this heap.
    pub(crate) pinned_bytes: AtomicUsize,
    /// Bytes of slabs and large blocks in use, and the most there ever were.
    pub(crate) in_use_bytes: AtomicUsize,
    pub(crate) peak_bytes: AtomicUsize,
    /// Times that memory was only locked although it should have been pinned, and the last reason.
    pub(crate) pin_refused: AtomicUsize,
    pub(crate) pin_errno: AtomicU32,
    /// Times that memory was not locked although it should have been (or no longer was, in a child), and the
    /// bytes of it that were not given back since.
    pub(crate) lock_refused: AtomicUsize,
    pub(crate) unlocked_bytes: AtomicUsize,
    /// Guards made by `mprotect`.
    pub(crate) guards_by_mprotect: AtomicUsize,
    /// Blocks that belonged to a process before it forked, freed in the child.
    pub(crate) inherited_frees: AtomicUsize,
    /// Blocks and bytes given up on purpose (`leak`) or for safety.
    pub(crate) leaked_blocks: AtomicUsize,
    pub(crate) leaked_bytes: AtomicUsize,
    /// Whether `purge` ran: how often.
    pub(crate) purges: AtomicUsize,
    /// How many purges are under way, during which no slab loses its pages.
    pub(crate) purging: AtomicU32,
}

impl Counters {
    /// Notes that `bytes` more are in use.
    pub(crate) fn take(&self, bytes: usize) {
        let now = self.in_use_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak_bytes.fetch_max(now, Ordering::Relaxed);
    }

    /// Notes that `bytes` fewer are in use.
    pub(crate) fn give(&self, bytes: usize) {
        subtract(&self.in_use_bytes, bytes);
    }
}

impl Shared {
    /// Reserves the ranges of a heap and sets it up. Nothing is committed but a few pages of metadata.
    pub(crate) fn create(policy: Policy, wanted: Constraints) -> Result<&'static Self, Error> {
        if os::page_size() != super::geometry::GUARD_BYTES {
            // Slabs are laid out for pages of 4 KiB.
            return Err(Error::Os { operation: Operation::Reserve, errno: Errno::NOSYS.0 });
        }
        let (memory, metadata, geometry) = reserve_both(wanted)?;
        let (hints_refused, is_wiped_on_fork, seed) = match prepare(policy, &memory, &metadata, &geometry) {
            Ok(prepared) => prepared,
            Err(error) => {
                // SAFETY: nobody knows the range yet.
                let _ = unsafe { memory.release() };
                // SAFETY: as above.
                let _ = unsafe { metadata.release() };
                return Err(error);
            }
        };
        // SAFETY: the range has been reserved with the size that `geometry` asks for and stays mapped.
        let tables = unsafe { Tables::new(metadata.base(), &geometry) };
        // SAFETY: within the first unit of the range.
        let sentinel = unsafe { metadata.base().add(SENTINEL_OFFSET) }.cast::<AtomicU32>();
        let at = metadata.base().cast::<Self>();
        let shared = Self {
            memory,
            metadata,
            geometry,
            tables,
            policy,
            key: canary::key(u64::from_ne_bytes(seed)),
            hints_refused: AtomicU32::new(hints_refused),
            is_lost: AtomicU32::new(0),
            process_id: AtomicU32::new(if is_wiped_on_fork { 0 } else { os::process_id() }),
            generation: AtomicU32::new(0),
            sentinel,
            steps: AtomicU32::new(0),
            units: Units::new(),
            registry: Registry::new(),
            large: LargeZone::new(),
            pins: Pins::new(),
            lock_share: LockShare::default(),
            counters: Counters::default(),
        };
        // SAFETY: the first unit of the range was committed above, is large enough by the assertion below
        // the type and aligned to a page, and nobody else knows it.
        unsafe { at.write(shared) };
        // SAFETY: written just now; never unmapped while references are in use (`Shared` 1).
        let shared: &'static Self = unsafe { at.as_ref() };
        shared.sentinel().store(HERE, Ordering::Relaxed);
        Ok(shared)
    }

    /// Unmaps a heap that lost the race to be the first, or that a test made.
    ///
    /// # Safety
    /// - No block, thread heap or reference of this heap is used any more, by any thread.
    pub(crate) unsafe fn destroy(&'static self) {
        // SAFETY: reads the handles out of the range that is about to go; the original is never used again.
        let memory = unsafe { core::ptr::read(&raw const self.memory) };
        // SAFETY: as above.
        let metadata = unsafe { core::ptr::read(&raw const self.metadata) };
        // SAFETY: nobody uses an address in it, as the caller promises, and the pins were closed.
        let _ = unsafe { memory.release() };
        // SAFETY: as above; `self` ends here.
        let _ = unsafe { metadata.release() };
    }

    fn sentinel(&self) -> &AtomicU32 {
        // SAFETY: on the committed first unit of the metadata range (`Shared` 1), aligned to half a unit.
        unsafe { self.sentinel.as_ref() }
    }

    /// In a child process that has just been forked, prepares the heap for it; otherwise costs one load.
    /// Every slow path calls this first.
    #[inline]
    pub(crate) fn notice_fork(&self) {
        // Acquire pairs with Release in `notice_fork_slow`.
        if self.sentinel().load(Ordering::Acquire) != HERE {
            self.notice_fork_slow();
        } else if self.process_id.load(Ordering::Relaxed) != 0 {
            self.notice_fork_by_process_id();
        }
    }

    /// Whether this process, and not only one that forked it, has used the heap.
    pub(crate) fn is_in_use_here(&self) -> bool {
        let known = self.process_id.load(Ordering::Relaxed);
        // Acquire pairs with Release in `notice_fork_slow`.
        self.sentinel().load(Ordering::Acquire) == HERE && (known == 0 || known == os::process_id())
    }

    /// Where no page is wiped by a fork: another process than before is a child.
    #[cold]
    fn notice_fork_by_process_id(&self) {
        let (known, here) = (self.process_id.load(Ordering::Relaxed), os::process_id());
        if known != here
            && self.process_id.compare_exchange(known, here, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.sentinel().store(0, Ordering::Relaxed);
            self.notice_fork_slow();
        }
    }

    /// Fails in a child that could not reserve the heap's addresses again.
    pub(crate) fn check_not_lost(&self) -> Result<(), Error> {
        match self.is_lost.load(Ordering::Relaxed) {
            0 => Ok(()),
            _ => Err(Error::AddressSpace { needed_bytes: self.memory.len().get() }),
        }
    }

    #[cold]
    fn notice_fork_slow(&self) {
        /// Another thread of the child is at it.
        const BUSY: u32 = 2;
        match self.sentinel().compare_exchange(0, BUSY, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => {
                self.generation.fetch_add(1, Ordering::Relaxed);
                // Locks and pins are not inherited (mlock(2), fork(2)).
                let no_longer_locked = self.counters.locked_bytes.swap(0, Ordering::Relaxed);
                self.counters.pinned_bytes.store(0, Ordering::Relaxed);
                self.counters.purging.store(0, Ordering::Relaxed);
                self.units.forget_after_fork();
                self.large.forget_after_fork();
                if self.policy.fork() == Fork::Exclude {
                    // The child has no mapping there: reserve the same addresses for its own blocks. Where
                    // something else lies there already, every allocation fails as with no memory left.
                    let hints = self
                        .memory
                        .reserve_again()
                        .and_then(|()| apply_memory_hints(self.policy, &self.memory));
                    self.is_lost.store(u32::from(hints.is_err()), Ordering::Relaxed);
                }
                if self.policy.fork() == Fork::Inherit {
                    if no_longer_locked > 0 {
                        self.counters.lock_refused.fetch_add(1, Ordering::Relaxed);
                        self.counters.unlocked_bytes.fetch_add(no_longer_locked, Ordering::Relaxed);
                    }
                } else {
                    self.counters.unlocked_bytes.store(0, Ordering::Relaxed);
                    self.registry.forget_after_fork();
                    self.counters.in_use_bytes.store(0, Ordering::Relaxed);
                    self.counters.committed_bytes.store(0, Ordering::Relaxed);
                }
                self.sentinel().store(HERE, Ordering::Release);
            }
            // Only threads of a child that race for their first operation come here. A fork at this very
            // moment is no trouble: the grandchild finds the sentinel wiped again.
            Err(_) => {
                while self.sentinel().load(Ordering::Acquire) == BUSY {
                    core::hint::spin_loop();
                }
            }
        }
    }

    /// Number of forks between the process that made the heap and this one, as far as noticed.
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Bytes of the slab zone whose metadata is committed.
    pub(crate) fn known_bytes(&self) -> usize {
        // Acquire pairs with Release in `commit_metadata`.
        self.steps.load(Ordering::Acquire) as usize * STEP_UNITS * UNIT_BYTES
    }

    /// Makes sure that the metadata of the units below `end` is committed.
    pub(crate) fn commit_metadata(&self, end: usize) -> Result<(), Error> {
        loop {
            let steps = self.steps.load(Ordering::Acquire);
            let first = steps as usize * STEP_UNITS;
            if end <= first {
                return Ok(());
            }
            let is_huge = self.fills_huge_page(steps);
            let more = if is_huge { HUGE_STEPS } else { 1 };
            let g = &self.geometry;
            let homes_end = g.shadow_offset - first * HOME_BYTES;
            // Threads that race here do the same thing twice, which changes nothing. Nor does it where a page serves
            // several steps.
            let from = (homes_end - more * STEP_UNITS * HOME_BYTES) / GUARD_BYTES * GUARD_BYTES;
            self.metadata.commit(pages(from)?, pages(homes_end.next_multiple_of(GUARD_BYTES) - from)?)?;
            for (table, entry_bytes) in [
                (g.shadow_offset, UNIT_GRANULES),
                (g.headers_offset, size_of::<Header>()),
                (g.free_bits_offset, super::geometry::BITMAP_WORDS * 8),
                (g.remote_bits_offset, super::geometry::BITMAP_WORDS * 8),
            ] {
                self.metadata
                    .commit(pages(table + first * entry_bytes)?, pages(more * STEP_UNITS * entry_bytes)?)?;
            }
            if is_huge {
                self.put_shadow_on_huge_pages(first)?;
            }
            // Release pairs with Acquire above and in `known_bytes`.
            let _ =
                self.steps.compare_exchange(steps, steps + more as u32, Ordering::Release, Ordering::Relaxed);
        }
    }

    /// Whether the shadow from this step on is to be a huge page: from the second one on, so that a small heap has
    /// no more of it in memory than it uses. Every `malloc` and every `free` touches the shadow somewhere else, and
    /// that of a large heap, on small pages, misses the TLB each time.
    fn fills_huge_page(&self, steps: u32) -> bool {
        let steps = steps as usize;
        steps >= HUGE_STEPS
            && steps.is_multiple_of(HUGE_STEPS)
            && (steps + HUGE_STEPS) * STEP_UNITS <= self.geometry.nr_units()
    }

    /// Has the shadow of units from `first` on, committed and not used yet, on a huge page, if the kernel finds one.
    /// With the second the first one follows, which is full by then. All that a refusal costs is time.
    fn put_shadow_on_huge_pages(&self, first: usize) -> Result<(), Error> {
        let huge = pages(HUGE_PAGE_BYTES)?;
        let start = self.geometry.shadow_offset;
        let mut nr_refused = 0;
        if self.metadata.hint_part(pages(start + first * UNIT_GRANULES)?, huge, Hint::HugePage).is_err() {
            nr_refused += 1;
        }
        if first == HUGE_STEPS * STEP_UNITS {
            if self.metadata.hint_part(pages(start)?, huge, Hint::HugePage).is_err() {
                nr_refused += 1;
            }
            // Where the kernel cannot (before 6.1, or at this moment), it does when it comes by.
            let _ = self.metadata.hint_part(pages(start)?, huge, Hint::Collapse);
        }
        self.hints_refused.fetch_add(nr_refused, Ordering::Relaxed);
        Ok(())
    }

    /// The unit with this number, if its metadata is committed.
    pub(crate) fn unit(&self, number: u32) -> Option<Unit> {
        if (number as usize) < self.known_bytes() / UNIT_BYTES {
            // SAFETY: committed, by `Shared` 3.
            Some(unsafe { Unit::new(number) })
        } else {
            None
        }
    }

    /// The unit with a number that came out of one of this heap's lists.
    ///
    /// # Safety
    /// - `number` was made from a [`Unit`] of this heap.
    pub(crate) unsafe fn unit_in_list(&self, number: u32) -> Unit {
        // SAFETY: committed for the unit it was made from, by `Unit` 1.
        unsafe { Unit::new(number) }
    }

    /// The place of a thread heap. `None` if there are not that many.
    pub(crate) fn thread_heap(&self, index: usize) -> Option<NonNull<ThreadHeap>> {
        if index >= self.geometry.max_threads {
            return None;
        }
        let offset = self.geometry.threads_offset + index * THREAD_HEAP_BYTES;
        // SAFETY: within the metadata range by the layout.
        Some(unsafe { self.metadata.base().add(offset) }.cast())
    }

    /// The address of a unit's first byte.
    pub(crate) fn unit_address(&self, unit: Unit) -> NonNull<u8> {
        // SAFETY: a unit lies in the slab zone, which is part of the memory range.
        unsafe { self.memory.base().add(unit.offset()) }
    }

    /// Links of units in the pools.
    pub(crate) fn unit_link(&self, number: u32) -> &AtomicU32 {
        // SAFETY: only called with numbers that were put on a stack, so made from units of this heap.
        let unit = unsafe { self.unit_in_list(number) };
        &self.tables.header(unit).stack_link
    }

    /// Whether `ptr` lies in the memory range: one subtraction and one compare.
    #[inline]
    pub(crate) fn contains(&self, ptr: *const u8) -> bool {
        self.memory.contains(ptr.addr())
    }

    /// Whether a block behind this pointer was made by a process that forked since, and is gone here.
    pub(crate) fn is_inherited(&self, unit: Unit) -> bool {
        self.policy.fork() != Fork::Inherit
            && self.tables.header(unit).generation.load(Ordering::Relaxed) != self.generation()
    }

    /// Whether a lock or a pin that was made in this generation still is one: a child does not inherit them.
    pub(crate) fn is_of_this_process(&self, generation: &AtomicU32) -> bool {
        generation.load(Ordering::Relaxed) == self.generation()
    }

    /// Whether `purge` ever ran: what it wiped cannot tell overflows apart any more.
    pub(crate) fn is_purged(&self) -> bool {
        // Whoever read what a purge wrote sees that there was one.
        fence(Ordering::Acquire);
        self.counters.purges.load(Ordering::Relaxed) != 0
    }

    /// The part of a unit that holds slots.
    pub(crate) fn payload(&self, unit: Unit) -> (NonNull<u8>, usize) {
        (self.unit_address(unit), PAYLOAD_BYTES)
    }
}

/// Bytes to pages; the sizes of this module are multiples of the page size.
pub(crate) fn pages(bytes: usize) -> Result<PageBytes, Error> {
    PageBytes::exact(bytes).ok_or(Error::TooLarge)
}

/// What may still fail once the ranges are reserved: hints, the first metadata, a random key.
fn prepare(
    policy: Policy,
    memory: &Reservation,
    metadata: &Reservation,
    geometry: &Geometry,
) -> Result<(u32, bool, [u8; 8]), Error> {
    let hints_refused = apply_memory_hints(policy, memory)?;
    if policy.seal() == Seal::ProtectionKey {
        let key = keys::key_of(Zone::Dense)?;
        // SAFETY: nobody knows the range yet; blocks in it are touched under rights only, see `facade`.
        unsafe { memory.seal(key) }?;
    }
    let is_wiped_on_fork = apply_metadata_hints(policy, metadata, geometry)?;
    metadata.commit(PageBytes::ZERO, pages(UNIT_BYTES)?)?;
    let mut seed = [0; 8];
    os::fill_random(&mut seed).map_err(|errno| Error::Os { operation: Operation::Random, errno: errno.0 })?;
    Ok((hints_refused, is_wiped_on_fork, seed))
}

/// Reserves memory and metadata: half as much of both as long as one of them fails.
fn reserve_both(wanted: Constraints) -> Result<(Reservation, Reservation, Geometry), Error> {
    const LEAST_BYTES: usize = 1 << 20;
    let mut constraints = wanted;
    loop {
        let geometry = Geometry::new(constraints).ok_or(Error::TooLarge)?;
        match reserve(&constraints, &geometry) {
            Ok((memory, metadata)) => return Ok((memory, metadata, geometry)),
            Err(error) => {
                let half = (constraints.memory_bytes / 2).next_multiple_of(LEAST_BYTES);
                if half == constraints.memory_bytes {
                    return Err(error);
                }
                constraints = Constraints {
                    memory_bytes: half,
                    max_threads: (constraints.max_threads / 2).max(wanted.max_threads.min(64)),
                };
            }
        }
    }
}

fn reserve(constraints: &Constraints, geometry: &Geometry) -> Result<(Reservation, Reservation), Error> {
    let bytes = pages(constraints.memory_bytes)?;
    // Units are aligned to their size, so that a slot's place in its unit is a mask away.
    let memory = Reservation::new_aligned(bytes, bytes, pages(UNIT_BYTES)?)?;
    let bytes = pages(geometry.metadata_bytes)?;
    match Reservation::new_aligned(bytes, bytes, pages(HUGE_PAGE_BYTES)?) {
        Ok(metadata) => Ok((memory, metadata)),
        Err(error) => {
            // SAFETY: nobody knows the range yet.
            let _ = unsafe { memory.release() };
            Err(error)
        }
    }
}

/// Tells the kernel how to treat the memory range, once. What the policy promises must not fail; how many
/// hints the system does not know is returned.
fn apply_memory_hints(policy: Policy, memory: &Reservation) -> Result<u32, Error> {
    let hints = match policy.backing() {
        // Secrets lie in files of their own, for which the kernel sees to the rest.
        Backing::Hidden => memory.hint_hidden(),
        Backing::Auto | Backing::Locked => memory.hint_all(policy.fork()),
    };
    hints.map(Hints::refused)
}

/// The same for the metadata range. Tells whether the sentinel page will be wiped by a fork.
fn apply_metadata_hints(policy: Policy, metadata: &Reservation, geometry: &Geometry) -> Result<bool, Error> {
    // No secrets there, but canaries, and it is large: hints that fail cost nothing but comfort.
    let _ = metadata.hint(Hint::DontDump);
    let _ = metadata.hint(Hint::NoHugePage);
    let is_wiped_on_fork =
        metadata.hint_part(pages(SENTINEL_OFFSET)?, PageBytes::one(), Hint::WipeOnFork).is_ok();
    if is_wiped_on_fork && policy.fork() != Fork::Inherit {
        let threads = pages(geometry.threads_offset)?;
        let bytes = pages(geometry.max_threads * THREAD_HEAP_BYTES)?;
        metadata.hint_part(threads, bytes, Hint::WipeOnFork)?;
    }
    Ok(is_wiped_on_fork)
}
