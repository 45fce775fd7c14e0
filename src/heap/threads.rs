//! Thread heaps change hands: set up, taken over, given up, and reached from thread-local storage.

// UNSAFETY: turns places in the metadata range into references and keeps a pointer a thread.
#![expect(unsafe_code, reason = "hands thread heaps to the threads that hold them, see `ThreadHeap` 1")]
#![expect(clippy::as_conversions, reason = "u32 to usize widens here")]

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use super::bin::Order;
use super::geometry::THREAD_HEAP_BYTES;
use super::pending::Pending;
use super::rng::Rng;
use super::shared::{Shared, pages};
use super::slab::Local;
use super::thread::{NONE, ThreadHeap};
use super::{HEAPS, held};
use crate::keys::AllRights;
use crate::os;
use crate::{Error, Fork, Operation, wipe};

thread_local! {
    /// Gives the thread heaps up when the thread ends.
    static GIVE_UP: GiveUp = const { GiveUp };
    /// Whether `GIVE_UP` has run: what is still allocated and freed then borrows a thread heap for a moment.
    static IS_OVER: Cell<bool> = const { Cell::new(false) };
}

struct GiveUp;

impl Drop for GiveUp {
    fn drop(&mut self) {
        IS_OVER.set(true);
        let _rights = AllRights::new();
        let is_main = os::is_main_thread();
        for (index, heap) in HEAPS.iter().enumerate() {
            if is_main && heap.policy().fork() == Fork::Inherit {
                // The process ends, and the kernel takes all of its pages at once. Until then destructors of static
                // objects and what runs at exit go on with the thread heap, as fast as before. (If it is the main
                // thread alone that ends, its slabs stay its own.)
                heap.flush_thread();
                continue;
            }
            let held = held::replace(index, NONE.get());
            if let Some(shared) = heap.shared() {
                shared.notice_fork();
                shared.give_up(held);
            }
        }
    }
}

/// The thread heap that this thread holds in heap `index`, or [`NONE`], which no operation gets far with: so no hot path
/// asks whether there is one.
#[inline(always)]
pub(crate) fn held(index: usize) -> &'static ThreadHeap {
    held::get(index)
}

/// Whether this thread holds a thread heap of heap `index`, also one that was wiped by a fork.
pub(crate) fn holds(index: usize) -> bool {
    !ptr::eq(held(index), NONE.get())
}

/// Runs `f` with a thread heap of heap `index`: the one that this thread holds, or a new one, or, for a thread
/// that is about to end, one that it holds for this call only.
pub(crate) fn with_local<R>(
    index: usize,
    shared: &'static Shared,
    f: impl FnOnce(Local<'_>) -> R,
) -> Result<R, Error> {
    let held = held(index);
    if held.id.get() != 0 {
        // SAFETY: set up, held by this thread, and of this heap since `held` was asked for its index.
        return Ok(f(unsafe { Local::new(shared, held) }));
    }
    // If it was wiped by a fork, it stays behind, and the child starts with a new one.
    held::replace(index, NONE.get());
    let mine = shared.take_thread_heap()?;
    // SAFETY: set up by `take_thread_heap`, held by this thread, of this heap.
    let local = unsafe { Local::new(shared, mine) };
    if IS_OVER.get() {
        let result = f(local);
        shared.give_up(mine);
        return Ok(result);
    }
    held::replace(index, mine);
    // Registers the destructor at the first use; it may allocate, which finds the thread heap in place.
    if GIVE_UP.try_with(|_| ()).is_err() {
        // The thread-locals of this thread are being destroyed, and this one never lived.
        IS_OVER.set(true);
        held::replace(index, NONE.get());
        let result = f(local);
        shared.give_up(mine);
        return Ok(result);
    }
    Ok(f(local))
}

/// A generator seeded by the kernel.
fn new_rng() -> Result<Rng, Error> {
    let mut seed = [0; 8];
    os::fill_random(&mut seed).map_err(|errno| Error::Os { operation: Operation::Random, errno: errno.0 })?;
    Ok(Rng::new(u64::from_ne_bytes(seed)))
}

impl Shared {
    fn idle_link(&self, number: u32) -> &AtomicU32 {
        static NOWHERE: AtomicU32 = AtomicU32::new(0);
        match (number as usize).checked_sub(1).and_then(|index| self.thread_heap(index)) {
            // SAFETY: numbers on the idle stack are of places that were set up; an atomic field, shared by all.
            Some(heap) => unsafe { &(*heap.as_ptr()).mail.idle_link },
            None => &NOWHERE,
        }
    }

    /// Takes an idle thread heap over, or sets a new one up.
    pub(crate) fn take_thread_heap(&self) -> Result<&'static ThreadHeap, Error> {
        let limit = self.geometry.max_threads;
        let too_many = Error::TooManyThreads { limit };
        // First: a thread heap that was taken must not be lost to an error.
        let rng = new_rng()?;
        if let Some(number) = self.registry.take_idle(|number| self.idle_link(number)) {
            let heap = (number as usize).checked_sub(1).and_then(|index| self.thread_heap(index));
            let heap = heap.ok_or(too_many)?;
            // SAFETY: taken from the idle stack, so held by this thread now; thread heaps are never freed.
            let heap: &'static ThreadHeap = unsafe { heap.as_ref() };
            heap.rng.set(rng);
            return Ok(heap);
        }
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let number = self.registry.claim_fresh(limit, |index| {
            let offset = (index as usize).saturating_mul(THREAD_HEAP_BYTES);
            let offset = self.geometry.threads_offset.saturating_add(offset);
            self.metadata.commit(pages(offset)?, pages(THREAD_HEAP_BYTES)?)
        })?;
        let number = number.ok_or(too_many)?;
        let index = (number as usize).checked_sub(1).ok_or(too_many)?;
        let place = self.thread_heap(index).ok_or(too_many)?;
        // SAFETY: claimed by this thread alone, committed before, all zero, which is valid (`ThreadHeap`); never
        // freed.
        let heap: &'static ThreadHeap = unsafe { place.as_ref() };
        heap.base.set(self.memory.base().as_ptr());
        heap.tables.set(self.tables);
        heap.set_up_bins(Order::of(self.policy));
        wipe::prepare();
        heap.know(self.known_bytes());
        heap.key.set(self.key);
        heap.generation.set(self.generation());
        heap.pending.empty(|_| ());
        heap.rng.set(rng);
        heap.id.set(number);
        Ok(heap)
    }

    /// In a child that inherited its blocks: the own generator must not go on as the parent's does.
    pub(crate) fn reseed_after_fork(&self, heap: &ThreadHeap) {
        if heap.generation.get() != self.generation() && self.policy.fork() == Fork::Inherit {
            heap.generation.set(self.generation());
            // Without new randomness the old goes on: the order of slots may then repeat in the child.
            if let Ok(rng) = new_rng() {
                heap.rng.set(rng);
            }
        }
    }

    /// Gives up a thread heap that the calling thread holds: its slots go back to their slabs, its lines to
    /// memory, empty slabs to the pool; blocks in use stay where they are.
    pub(crate) fn give_up(&'static self, heap: &'static ThreadHeap) {
        let number = heap.id.get();
        if number == 0 {
            // None, or wiped by a fork.
            return;
        }
        // SAFETY: set up, of this heap, held by the calling thread.
        let local = unsafe { Local::new(self, heap) };
        heap.empty_kept.set(0);
        local.trim(0);
        local.write_back_all();
        self.registry.put_idle(number, |number| self.idle_link(number));
    }

    /// Takes what idle thread heaps can give back. Tells whether anything came.
    pub(crate) fn scavenge(&'static self) -> bool {
        let mut came = false;
        // Those looked at are held until the end, so that none is looked at twice.
        let mut looked_at = 0_u32;
        while let Some(number) = self.registry.take_idle(|number| self.idle_link(number)) {
            if let Some(heap) = (number as usize).checked_sub(1).and_then(|index| self.thread_heap(index)) {
                // SAFETY: taken from the idle stack, so held by this thread now.
                let heap: &ThreadHeap = unsafe { heap.as_ref() };
                // SAFETY: set up, of this heap, held by this thread.
                let local = unsafe { Local::new(self, heap) };
                local.collect_mail();
                came |= local.release_empty(0);
                heap.mail.idle_link.store(looked_at, Ordering::Relaxed);
                looked_at = number;
            }
        }
        while looked_at != 0 {
            let next = self.idle_link(looked_at).load(Ordering::Relaxed);
            self.registry.put_idle(looked_at, |number| self.idle_link(number));
            looked_at = next;
        }
        came
    }

    /// Hands the table of remembered lines of every thread heap ever set up to `see`, which reads it only.
    pub(crate) fn visit_pending(&self, mut see: impl FnMut(&Pending)) {
        for index in 0..self.registry.used() {
            if let Some(heap) = self.thread_heap(index as usize) {
                // SAFETY: the place is committed since it is counted as used, and is never unmapped. The table's
                // only field that is no atomic is left alone by `Pending::visit` and `Pending::len`.
                see(unsafe { &(*heap.as_ptr()).pending });
            }
        }
    }
}
