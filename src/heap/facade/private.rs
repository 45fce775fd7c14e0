//! A heap of its own for a test or a fuzzer: one thread heap, or more that one thread plays, a walker, and an end.

use core::alloc::Layout;
use core::ptr::{self, NonNull};

use super::{Corruption, Freed, Shared, allocate_small_slow, class, free_elsewhere};
#[cfg(test)]
use super::{Granule, Keeper, class::CLASSES};
use crate::heap::geometry::Constraints;
use crate::heap::hot::common::Goes;
use crate::heap::slab::Local;
use crate::heap::stats::Stats;
use crate::heap::thread::ThreadHeap;
use crate::heap::walk::Walked;
use crate::{Error, Flush, Policy};

/// A heap that one thread uses and that is unmapped with it.
pub(crate) struct PrivateHeap {
    shared: &'static Shared,
    thread: &'static ThreadHeap,
    end: End,
}

/// What happens to the heap when a [`PrivateHeap`] is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Unmap,
    #[cfg(test)]
    Keep,
}

impl core::fmt::Debug for PrivateHeap {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PrivateHeap").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl PrivateHeap {
    pub(crate) fn new(policy: Policy, constraints: Constraints) -> Result<Self, Error> {
        let shared = Shared::create(policy, constraints)?;
        match shared.take_thread_heap() {
            Ok(thread) => Ok(Self { shared, thread, end: End::Unmap }),
            Err(error) => {
                // SAFETY: made above; nothing was made in it.
                unsafe { shared.destroy() };
                Err(error)
            }
        }
    }

    /// Another thread heap of the same heap, to be dropped before this one.
    #[cfg(test)]
    pub(crate) fn another_thread(&self) -> Result<Self, Error> {
        Ok(Self { shared: self.shared, thread: self.shared.take_thread_heap()?, end: End::Keep })
    }

    fn heap(&self) -> &ThreadHeap {
        // Taken by `new`, never given to another thread: the type is neither Send nor Sync.
        self.thread
    }

    fn local(&self) -> Local<'_> {
        // SAFETY: set up by `take_thread_heap` of this very heap, and held by this thread.
        unsafe { Local::new(self.shared, self.heap()) }
    }

    pub(crate) fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, Error> {
        match class::of(layout.size(), layout.align()) {
            Some(class) => allocate_small_slow(self.local(), class, layout.size()),
            None => self.shared.allocate_large(layout),
        }
    }

    /// # Safety
    /// - As for [`Heap::deallocate`](super::Heap::deallocate).
    pub(crate) unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout, flush: Flush) {
        // SAFETY: forwarded.
        if let Err(crime) = unsafe { self.try_deallocate(ptr, layout, flush) } {
            crime.abort();
        }
    }

    /// # Safety
    /// - As for `deallocate`; a block that was freed before is told.
    pub(crate) unsafe fn try_deallocate(
        &self,
        ptr: NonNull<u8>,
        layout: Layout,
        flush: Flush,
    ) -> Result<(), Corruption> {
        // SAFETY: held by this thread; the block is forwarded.
        let mut freed = unsafe { self.heap().free(ptr, Some(layout.size()), flush) };
        if let (Freed::NotDone, Some((granule, _))) = (freed, self.heap().locate(ptr.as_ptr())) {
            for goes in [Goes::ToHand, Goes::Home] {
                let send = |word, bits| self.local().send_some(word, bits);
                if freed == Freed::NotDone {
                    // SAFETY: as located; the rest is as above.
                    freed =
                        unsafe { self.heap().free_common(ptr, granule, layout.size(), flush, goes, send) };
                }
            }
        }
        match freed {
            Freed::Done | Freed::Unremembered => Ok(()),
            Freed::DoneAndDue => {
                self.local().write_back_all();
                Ok(())
            }
            Freed::NotDone => free_elsewhere(self.local(), ptr, Some(layout.size()), flush),
        }
    }

    /// # Safety
    /// - As for [`Heap::reallocate`](super::Heap::reallocate).
    pub(crate) unsafe fn reallocate(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new_size: usize,
        flush: Flush,
    ) -> Result<NonNull<u8>, Error> {
        let new = Layout::from_size_align(new_size, old.align()).map_err(|_| Error::TooLarge)?;
        // SAFETY: forwarded.
        if unsafe { super::resize_in(self.shared, self.heap(), ptr, old, new_size, flush) } {
            return Ok(ptr);
        }
        // SAFETY: as above.
        if let Some(moved) = unsafe { self.shared.grow_in(ptr, old, new_size) } {
            return Ok(moved);
        }
        let moved = self.allocate(new)?;
        // SAFETY: both blocks have that many bytes at least, and the new one is new.
        unsafe { ptr::copy_nonoverlapping(ptr.as_ptr(), moved.as_ptr(), old.size().min(new_size)) };
        // SAFETY: forwarded; the block's contents were moved.
        unsafe { self.deallocate(ptr, old, flush) };
        Ok(moved)
    }

    pub(crate) fn walk(&self) -> Walked {
        self.shared.walk(&[self.heap()])
    }

    /// The same where another thread heap has slots at hand too.
    #[cfg(test)]
    pub(crate) fn walk_with(&self, other: &Self) -> Walked {
        self.shared.walk(&[self.heap(), other.heap()])
    }

    /// Who takes the block at `ptr` when it is freed.
    #[cfg(test)]
    pub(crate) fn keeper_of(&self, ptr: NonNull<u8>) -> Option<Keeper> {
        let granule = self.shared.granule_at(ptr.as_ptr()).ok()??;
        self.shared.home_of(granule).map(|place| place.keeper)
    }

    /// How many slots of common slabs this thread has at hand that others own.
    #[cfg(test)]
    pub(crate) fn nr_foreign(&self) -> usize {
        let mut nr_foreign = 0;
        for (class, _) in CLASSES.iter().enumerate() {
            self.heap().bin(class).visit(|number| {
                // SAFETY: the number of a slot in a slab.
                let place = self.shared.home_of(unsafe { Granule::new(number) });
                nr_foreign +=
                    usize::from(place.is_none_or(|at| at.index + 1 != self.heap().id.get() as usize));
            });
        }
        nr_foreign
    }

    /// The addresses of its blocks.
    #[cfg(test)]
    pub(crate) fn addresses(&self) -> core::ops::Range<usize> {
        let start = self.shared.memory.base().addr().get();
        start..start.wrapping_add(self.shared.memory.len().get())
    }

    pub(crate) fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Gives everything back that is not in use, as at the end of a thread, and goes on.
    pub(crate) fn give_up(&self) {
        self.local().trim(0);
        self.shared.drop_warm();
        self.shared.drop_kept();
        self.local().write_back_all();
    }
}

impl Drop for PrivateHeap {
    fn drop(&mut self) {
        self.give_up();
        match self.end {
            // SAFETY: the last thread heap ends here, and blocks of a private heap do not outlive it.
            End::Unmap => unsafe { self.shared.destroy() },
            #[cfg(test)]
            End::Keep => {}
        }
    }
}
