//! The heaps of the process, as the layers above see them.

// UNSAFETY: forwards raw blocks to the hot paths and publishes a heap by pointer.
#![expect(unsafe_code, reason = "the allocator interface works on raw blocks")]

use core::alloc::Layout;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, Ordering, fence};

use super::bin::Order;
use super::class::{self, CLASSES, MID_MAX_BYTES, PLAIN_ALIGN, SHORT_MAX_BYTES, SMALL_MAX_BYTES};
use super::corruption::Corruption;
use super::geometry::Constraints;
use super::hot::{ANY_SIZE, Freed, Mid, Short, Where, crime_of};
use super::shared::Shared;
use super::tables::Granule;
use super::thread::{Keeper, ThreadHeap};
use super::{shadow, slab::Local, threads};
use crate::{Backing, Error, Flush, Fork, Lock, Policy, Seal, os, policy::settle_secret_backing, wipe};
use ways_out::{allocate_any, allocate_short, allocate_slow_or_null, finish, free_short, free_slow};

/// One for each combination of backing, lock and fork; one for hidden memory, which is locked and excluded by nature; and
/// one for secrets that a protection key seals, whatever backs them.
pub(crate) const NR_HEAPS: usize = 2 * 3 * 3 + 2;

/// The most addresses that a heap of secrets reserves.
pub(crate) const MOST_SECRET_BYTES: usize = 64 << 30;

/// The heaps of the process. Nothing is reserved before the first allocation of a heap.
pub(crate) const HEAPS: &[Heap; NR_HEAPS] = &heaps();

/// The heap of a policy. Constant for a constant policy.
#[inline(always)]
pub(crate) const fn of(policy: Policy) -> &'static Heap {
    #[expect(
        clippy::indexing_slicing,
        reason = "`index_of` is below NR_HEAPS for every policy, see its test"
    )]
    &HEAPS[index_of(policy)]
}

/// The place of a policy's heap. How it flushes makes no difference to the heap.
const fn index_of(policy: Policy) -> usize {
    if matches!(policy.seal(), Seal::ProtectionKey) {
        return SEALED;
    }
    let backing = match policy.backing() {
        Backing::Auto => 0,
        Backing::Locked => 1,
        Backing::Hidden => return HIDDEN,
    };
    let lock = match policy.lock() {
        Lock::Required => 0,
        Lock::BestEffort => 1,
        Lock::Off => 2,
    };
    let fork = match policy.fork() {
        Fork::Wipe => 0,
        Fork::Exclude => 1,
        Fork::Inherit => 2,
    };
    #[expect(clippy::arithmetic_side_effects, reason = "at most (1 * 3 + 2) * 3 + 2")]
    let index = (backing * 3 + lock) * 3 + fork;
    index
}

/// The place of the hidden heap.
const HIDDEN: usize = NR_HEAPS - 2;
/// The place of the sealed heap.
const SEALED: usize = NR_HEAPS - 1;

const fn heaps() -> [Heap; NR_HEAPS] {
    const BACKINGS: [Backing; 2] = [Backing::Auto, Backing::Locked];
    const LOCKS: [Lock; 3] = [Lock::Required, Lock::BestEffort, Lock::Off];
    const FORKS: [Fork; 3] = [Fork::Wipe, Fork::Exclude, Fork::Inherit];
    let mut heaps = [const { Heap::new(Policy::SECRET, 0) }; NR_HEAPS];
    let mut i = 0;
    while i < HIDDEN {
        #[expect(
            clippy::indexing_slicing,
            clippy::arithmetic_side_effects,
            reason = "evaluated at compile time"
        )]
        {
            let policy = Policy::SECRET
                .with_backing(BACKINGS[i / 9])
                .with_lock(LOCKS[i / 3 % 3])
                .with_fork(FORKS[i % 3]);
            assert!(index_of(policy) == i, "the inverse of `index_of`");
            heaps[i] = Heap::new(policy, i);
            i += 1;
        }
    }
    heaps[HIDDEN] = Heap::new(hidden(Policy::SECRET), HIDDEN);
    heaps[SEALED] = Heap::new(Policy::SECRET.with_seal(Seal::ProtectionKey), SEALED);
    heaps
}

/// What a policy comes to in hidden memory: locked by nature, and no child can have it, since it would share it.
const fn hidden(policy: Policy) -> Policy {
    policy.with_backing(Backing::Hidden).with_lock(Lock::Required).with_fork(Fork::Exclude)
}

/// What was made of each heap; null until its first allocation. Apart from [`HEAPS`], which is constant for
/// the compiler that way.
static ROOTS: [AtomicPtr<Shared>; NR_HEAPS] = [const { AtomicPtr::new(ptr::null_mut()) }; NR_HEAPS];

/// A heap of the process, reserved at its first allocation.
///
/// Whoever allocates from the sealed heap, or gives back to it, has the rights to its key meanwhile
/// ([`Rights`](crate::keys::Rights)), since slots are checked and wiped. What works on all heaps (upkeep,
/// the end of a thread) takes them itself.
#[derive(Debug)]
pub(crate) struct Heap {
    policy: Policy,
    /// Its place in [`HEAPS`], [`ROOTS`] and the thread-local table: below `NR_HEAPS`.
    index: usize,
}

impl Heap {
    const fn new(policy: Policy, index: usize) -> Self {
        Self { policy, index }
    }

    /// What the heap promises.
    pub(crate) const fn policy(&self) -> Policy {
        self.policy
    }

    /// Its place in [`HEAPS`].
    pub(crate) const fn index(&self) -> usize {
        self.index
    }

    #[inline]
    fn root(&self) -> &'static AtomicPtr<Shared> {
        #[expect(clippy::indexing_slicing, reason = "`index` is below NR_HEAPS")]
        &ROOTS[self.index]
    }

    /// The heap in use, if anything was ever allocated from it.
    #[inline]
    pub(crate) fn shared(&self) -> Option<&'static Shared> {
        // Acquire pairs with Release in `shared_or_create`.
        let shared = self.root().load(Ordering::Acquire);
        // SAFETY: null, or published by `shared_or_create` and never unmapped.
        unsafe { shared.cast_const().as_ref() }
    }

    /// What the heap is made with: that of the secret types is backed as the program chose.
    fn settled_policy(&self) -> Policy {
        if self.index != index_of(Policy::SECRET) && self.index != SEALED {
            return self.policy;
        }
        match settle_secret_backing() {
            Backing::Hidden => hidden(self.policy),
            backing => self.policy.with_backing(backing),
        }
    }

    #[cold]
    fn shared_or_create(&self) -> Result<&'static Shared, Error> {
        if let Some(shared) = self.shared() {
            return Ok(shared);
        }
        let policy = self.settled_policy();
        let mine = Shared::create(policy, wanted(policy))?;
        let pointer = ptr::from_ref(mine).cast_mut();
        match self.root().compare_exchange(ptr::null_mut(), pointer, Ordering::Release, Ordering::Acquire) {
            Ok(_) => Ok(mine),
            Err(_) => {
                // SAFETY: made above and not known to anybody, since another thread was faster.
                unsafe { mine.destroy() };
                self.shared().ok_or(Error::TooLarge)
            }
        }
    }

    /// Allocates a block, all zero.
    ///
    /// Errors: [`Error::LockLimit`] (required and refused), [`Error::AddressSpace`], [`Error::HeapFull`],
    /// [`Error::TooManyThreads`], [`Error::TooLarge`].
    #[inline(always)]
    pub(crate) fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, Error> {
        let at_hand = if is_small(layout) {
            // SAFETY: held by this thread; a small size.
            unsafe { threads::held(self.index).allocate_small(layout.size(), Order::of(self.policy)) }
        } else {
            self.take_bigger(layout)
        };
        match NonNull::new(at_hand) {
            Some(block) => Ok(block),
            None => self.allocate_slow(layout),
        }
    }

    /// The same, null for an error.
    #[inline(always)]
    pub(crate) fn allocate_or_null(&self, layout: Layout) -> *mut u8 {
        // Two ways out, so that there are two compares and not a sum of both.
        if layout.align() > PLAIN_ALIGN {
            return allocate_any(layout, self);
        }
        let local = threads::held(self.index);
        if layout.size() > SMALL_MAX_BYTES {
            return allocate_short(layout, self, local);
        }
        // SAFETY: held by this thread; a small size.
        let at_hand = unsafe { local.allocate_small(layout.size(), Order::of(self.policy)) };
        if at_hand.is_null() { allocate_slow_or_null(layout, self) } else { at_hand }
    }

    /// A block that is not small, of a slot at hand, or null.
    #[inline]
    fn take_bigger(&self, layout: Layout) -> *mut u8 {
        let local = threads::held(self.index);
        if layout.align() <= PLAIN_ALIGN && layout.size() <= MID_MAX_BYTES {
            return if layout.size() <= SHORT_MAX_BYTES {
                // SAFETY: held by this thread; a size of that way.
                unsafe { local.allocate_by::<Short>(layout.size()) }
            } else {
                // SAFETY: as above.
                unsafe { local.allocate_by::<Mid>(layout.size()) }
            };
        }
        match class::of(layout.size(), layout.align()) {
            // SAFETY: held by this thread; `class::of` gives a class with room for size and canary.
            Some(class) => unsafe { local.allocate_any(class, layout.size()) },
            None => ptr::null_mut(),
        }
    }

    #[cold]
    #[inline(never)]
    fn allocate_slow(&self, layout: Layout) -> Result<NonNull<u8>, Error> {
        // A step down leaves the errno of what was refused, and the allocation succeeds all the same.
        os::preserve_errno(|| self.allocate_with_system(layout))
    }

    fn allocate_with_system(&self, layout: Layout) -> Result<NonNull<u8>, Error> {
        let shared = self.shared_or_create()?;
        shared.notice_fork();
        shared.check_not_lost()?;
        match class::of(layout.size(), layout.align()) {
            Some(class) => threads::with_local(self.index, shared, |local| {
                shared.reseed_after_fork(local.heap());
                allocate_small_slow(local, class, layout.size())
            })?,
            None => match shared.allocate_large(layout) {
                // Before giving up: what is locked and not in use.
                Err(Error::LockLimit { .. }) if self.reclaim(shared) => shared.allocate_large(layout),
                result => result,
            },
        }
    }

    /// Gives back what this thread, and threads that have ended, hold without using it. Tells whether that was
    /// anything.
    fn reclaim(&self, shared: &'static Shared) -> bool {
        let came = threads::holds(self.index)
            && threads::with_local(self.index, shared, |local| local.trim(0)).unwrap_or(false);
        shared.scavenge() || came
    }

    /// Frees a block: checks it, wipes it, flushes it. Ends the process if something is wrong.
    ///
    /// # Safety
    /// - `ptr` came from this heap with this layout, and nobody uses the block any more.
    #[inline(always)]
    pub(crate) unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout, flush: Flush) {
        let otherwise = || free_slow(ptr, layout.size(), self, flush);
        // SAFETY: forwarded.
        unsafe { self.free_hot(ptr.as_ptr(), Some(layout.size()), flush, otherwise) }
    }

    /// Frees a block if this thread knows its slab, or else, also for null, calls `otherwise`.
    ///
    /// # Safety
    /// - If `ptr` came from this heap, it did with this size if one is given, and nobody uses the block any more.
    #[inline(always)]
    unsafe fn free_hot(&self, ptr: *mut u8, size: Option<usize>, flush: Flush, otherwise: impl FnOnce()) {
        let local = threads::held(self.index);
        let Some((granule, place)) = local.locate(ptr) else { return otherwise() };
        // SAFETY: located in the memory range, in which null is not.
        let ptr = unsafe { NonNull::new_unchecked(ptr) };
        match place {
            Where::Small { offset } if flush != Flush::Immediate => {
                // SAFETY: held by this thread; the block is forwarded.
                let freed = unsafe { local.free_small(ptr, granule, offset, size, flush) };
                finish(freed, ptr, size.unwrap_or(ANY_SIZE), self, flush);
            }
            // SAFETY: held by this thread, and located by it; the block is forwarded.
            Where::Small { offset } | Where::Else { offset } => unsafe {
                free_short(ptr, size.unwrap_or(ANY_SIZE), self, flush, local, offset)
            },
        }
    }

    #[cold]
    #[inline(never)]
    fn write_back_slow(&self) {
        os::preserve_errno(|| self.flush_thread());
    }

    fn free_with_system(&self, ptr: NonNull<u8>, size: Option<usize>, flush: Flush) {
        let Some(shared) = self.shared() else { Corruption::InvalidFree.abort() };
        shared.notice_fork();
        if shared.is_large(ptr.as_ptr()) {
            // Needs no thread heap, so it works also where there is none to be had.
            // SAFETY: nobody uses the block any more, as the caller of `free` promised.
            match unsafe { shared.free_large(ptr.as_ptr(), size, flush) } {
                Ok(()) => return,
                Err(crime) => crime.abort(),
            }
        }
        let outcome =
            threads::with_local(self.index, shared, |local| free_elsewhere(local, ptr, size, flush));
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(crime)) => crime.abort(),
            // No thread heap to be had: the block is wiped and lost, which is counted.
            // SAFETY: the block is not in use any more.
            Err(_) => unsafe { shared.abandon(ptr) },
        }
    }

    /// Changes the size of a block: in place if it can, else by moving it; what is left is wiped. On an error
    /// the block is as it was.
    ///
    /// # Safety
    /// - `ptr` came from this heap with the layout `old`; after success, nobody uses it any more.
    pub(crate) unsafe fn reallocate(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new_size: usize,
        flush: Flush,
    ) -> Result<NonNull<u8>, Error> {
        let new = Layout::from_size_align(new_size, old.align()).map_err(|_| Error::TooLarge)?;
        if let Some(shared) = self.shared() {
            let local = threads::held(self.index);
            // SAFETY: forwarded.
            if unsafe { resize_in(shared, local, ptr, old, new_size, flush) } {
                return Ok(ptr);
            }
            // SAFETY: forwarded.
            if let Some(moved) = unsafe { shared.grow_in(ptr, old, new_size) } {
                return Ok(moved);
            }
        }
        let moved = self.allocate(new)?;
        let len = old.size().min(new_size);
        // SAFETY: both blocks have `len` bytes at least, and the new one is new.
        unsafe { ptr::copy_nonoverlapping(ptr.as_ptr(), moved.as_ptr(), len) };
        // SAFETY: forwarded; the block's contents were moved.
        unsafe { self.deallocate(ptr, old, flush) };
        Ok(moved)
    }

    /// Writes back every line that this thread freed and still remembers, and waits for it.
    pub(crate) fn flush_thread(&self) {
        if let (true, Some(shared)) = (threads::holds(self.index), self.shared()) {
            // It has a thread heap, so there is none to be made, which could fail.
            let _ = threads::with_local(self.index, shared, |local| local.write_back_all());
        }
    }

    /// Starts to write back the lines of a block that was freed just now, unless this process does not have it.
    ///
    /// # Safety
    /// - `len` is 0, or a block of `len` bytes was at `ptr`, in a slab of this heap.
    #[inline]
    pub(crate) unsafe fn write_back_freed(&self, ptr: NonNull<u8>, len: usize) {
        if let Some(shared) = self.shared()
            && shared.policy.fork() == Fork::Exclude
            && let Ok(Some(granule)) = shared.granule_at(ptr.as_ptr())
            && shared.is_inherited(granule.unit())
        {
            return;
        }
        // SAFETY: slabs stay mapped and readable, in the process that made them; the rest is forwarded.
        unsafe { wipe::write_back(ptr, len) };
    }

    /// Counts a block of `bytes` whose owner gave it up on purpose.
    pub(crate) fn count_leaked(&self, bytes: usize) {
        if let Some(shared) = self.shared() {
            shared.counters.leaked_blocks.fetch_add(1, Ordering::Relaxed);
            shared.counters.leaked_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// The addresses that this heap has reserved, which do not change, if anything was allocated from it.
    pub(crate) fn addresses(&self) -> Option<core::ops::Range<usize>> {
        let memory = &self.shared()?.memory;
        let start = memory.base().addr().get();
        Some(start..start.checked_add(memory.len().get())?)
    }

    /// Whether `ptr` lies in this heap.
    #[inline]
    pub(crate) fn contains(&self, ptr: *const u8) -> bool {
        self.shared().is_some_and(|shared| shared.contains(ptr))
    }
}

/// Changes the size of a block without moving it, if it stays in its size class or on its pages. Tells whether
/// it did.
///
/// # Safety
/// - As for [`Heap::reallocate`]; `local` is held by this thread.
unsafe fn resize_in(
    shared: &Shared,
    local: &ThreadHeap,
    ptr: NonNull<u8>,
    old: Layout,
    new_size: usize,
    flush: Flush,
) -> bool {
    let (was, will) = (class::of(old.size(), old.align()), class::of(new_size, old.align()));
    if was != will || old.align() > super::geometry::GUARD_BYTES {
        return false;
    }
    match was {
        None => {
            let (old_size, ptr) = (old.size(), ptr.as_ptr());
            // SAFETY: forwarded.
            match os::preserve_errno(|| unsafe { shared.resize_large(ptr, old_size, new_size) }) {
                Ok(is_done) => is_done,
                Err(crime) => crime.abort(),
            }
        }
        // SAFETY: held by this thread; the block is forwarded.
        Some(class) => unsafe { local.resize(ptr, class, old.size(), new_size, flush) },
    }
}

/// Whether a block takes the shortest ways.
#[inline(always)]
const fn is_small(layout: Layout) -> bool {
    layout.align() <= PLAIN_ALIGN && layout.size() <= SMALL_MAX_BYTES
}

fn allocate_small_slow(local: Local<'_>, class: usize, size: usize) -> Result<NonNull<u8>, Error> {
    loop {
        // SAFETY: held by this thread; the class has room for size and canary, as the caller checked.
        let ptr = unsafe { local.heap().allocate_any(class, size) };
        if let Some(ptr) = NonNull::new(ptr) {
            return Ok(ptr);
        }
        if let Err(error) = local.refill(class) {
            // SAFETY: as above.
            return NonNull::new(unsafe { local.heap().allocate_last(class, size) }).ok_or(error);
        }
    }
}

/// Frees what the fast path did not: blocks of other thread heaps, large blocks, what a fork or a purge has
/// changed; or finds the crime.
fn free_elsewhere(
    local: Local<'_>,
    ptr: NonNull<u8>,
    size: Option<usize>,
    flush: Flush,
) -> Result<(), Corruption> {
    let shared = local.shared();
    if !shared.contains(ptr.as_ptr()) {
        return Err(Corruption::InvalidFree);
    }
    let Some(granule) = shared.granule_at(ptr.as_ptr())? else {
        // SAFETY: nobody uses the block any more, as the caller of `free` promised.
        return unsafe { shared.free_large(ptr.as_ptr(), size, flush) };
    };
    local.heap().know(shared.known_bytes());
    let state = shared.tables.shadow(granule);
    let live = state.load(Ordering::Relaxed);
    if !shadow::is_live(live) {
        return Err(crime_of(live));
    }
    if shared.is_inherited(granule.unit()) {
        state.store(shadow::FREED, Ordering::Relaxed);
        shared.counters.inherited_frees.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    }
    let heap = local.heap();
    let owner_class = shared.tables.header(granule.unit()).owner_class.load(Ordering::Relaxed);
    #[expect(clippy::as_conversions, reason = "eight bits")]
    let class = (owner_class & 0xff) as usize;
    let shape = CLASSES.get(class).ok_or(Corruption::Metadata)?;
    let usable = shape.usable_bytes();
    let found =
        shadow::size_of(usable, live).unwrap_or_else(|| usable.wrapping_sub(heap.long_slack(granule)));
    // SAFETY: the shadow says that a live block starts here, so a slot of this class does.
    if let Err(crime) = unsafe { heap.check(granule, shape, found, size) }
        && !(matches!(crime, Corruption::Overflow | Corruption::Underflow)
            && shared.is_purged()
            && shared.is_intact_or_wiped(granule, shape, found))
    {
        // Acquire: who saw what another thread wiped sees that it freed the block.
        fence(Ordering::Acquire);
        let now = state.load(Ordering::Relaxed);
        return Err(if shadow::is_live(now) { crime } else { crime_of(now) });
    }
    let bin = heap.bin(class);
    let place = shared.home_of(granule).ok_or(Corruption::Metadata)?;
    let is_own = owner_class >> 8 == heap.id.get();
    if is_own && bin.is_full() {
        local.spill(class);
    }
    let freed = if is_own && place.keeper == Keeper::Owner {
        // What the fast path did not like was a full stash, or a purge.
        // SAFETY: it is live, as found above, and nobody uses it any more.
        unsafe { heap.release_slot(granule, bin, flush) }
    } else {
        // SAFETY: it was live and in order, and nobody uses it any more, as the caller of `free` promised.
        match unsafe { local.claim(granule, live, place, bin, flush) } {
            // There is room for it, so another thread was faster.
            Freed::NotDone => return Err(Corruption::DoubleFree),
            freed => freed,
        }
    };
    if freed == Freed::DoneAndDue {
        local.write_back_all();
    }
    Ok(())
}

impl Shared {
    /// Whether `ptr` is in the large zone.
    fn is_large(&self, ptr: *const u8) -> bool {
        self.contains(ptr)
            && ptr.addr().wrapping_sub(self.memory.base().addr().get()) >= self.geometry.slab_bytes
    }

    /// The granule at `ptr` if that is in the slab zone, `None` if it is in the large zone.
    fn granule_at(&self, ptr: *const u8) -> Result<Option<Granule>, Corruption> {
        let offset = ptr.addr().wrapping_sub(self.memory.base().addr().get());
        if offset >= self.geometry.slab_bytes {
            return Ok(None);
        }
        if !offset.is_multiple_of(super::geometry::GRANULE_BYTES) || offset >= self.known_bytes() {
            return Err(Corruption::InvalidFree);
        }
        let number =
            u32::try_from(offset / super::geometry::GRANULE_BYTES).map_err(|_| Corruption::InvalidFree)?;
        // SAFETY: below `known_bytes`, so its metadata is committed.
        Ok(Some(unsafe { Granule::new(number) }))
    }

    /// Wipes a block that cannot be freed for want of a thread heap, and counts it as leaked.
    ///
    /// # Safety
    /// - If a live block starts at `ptr`, nobody uses it any more.
    unsafe fn abandon(&self, ptr: NonNull<u8>) {
        let Some(size) = self.block_size(ptr.as_ptr()) else { Corruption::InvalidFree.abort() };
        // SAFETY: the block has that size, and nobody uses it.
        unsafe { wipe::zero_and_flush(ptr, size) };
        self.counters.leaked_blocks.fetch_add(1, Ordering::Relaxed);
        self.counters.leaked_bytes.fetch_add(size, Ordering::Relaxed);
    }
}

/// How much to reserve: 64 GiB for secrets, 256 GiB for programs, less under a small `RLIMIT_AS`, of which
/// enough must remain for the rest of the program.
fn wanted(policy: Policy) -> Constraints {
    const GIB: usize = 1 << 30;
    let (usual, share_shift) = match policy.fork() {
        Fork::Inherit => (256 * GIB, 1),
        Fork::Wipe | Fork::Exclude => (MOST_SECRET_BYTES, 3),
    };
    let most = os::address_space_limit().soft.map_or(usize::MAX, |limit| limit >> share_shift);
    if usual <= most {
        return Constraints { memory_bytes: usual, max_threads: 8192 };
    }
    // A quarter of what remains is more than the metadata takes.
    let bytes = (most.saturating_sub(most >> 2) >> 22).max(1) << 22;
    Constraints { memory_bytes: bytes.min(usual), max_threads: (bytes >> 20).clamp(64, 8192) }
}

mod by_address;
#[cfg(any(test, feature = "fault-injection"))]
pub(crate) mod private;
mod ways_out;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_policy_has_its_heap() {
        for (i, heap) in HEAPS.iter().enumerate() {
            assert_eq!(index_of(heap.policy()), i);
            assert!(ptr::eq(of(heap.policy().with_flush(Flush::Off)), heap));
        }
    }
}
