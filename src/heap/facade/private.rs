//! A heap of its own for a test or a fuzzer: one thread heap, a walker, and an end.

use core::alloc::Layout;
use core::ptr::{self, NonNull};

use super::{Freed, Shared, allocate_small_slow, class, free_elsewhere};
use crate::heap::geometry::Constraints;
use crate::heap::slab::Local;
use crate::heap::stats::Stats;
use crate::heap::thread::ThreadHeap;
use crate::heap::walk::Walked;
use crate::{Error, Flush, Policy};

/// A heap that one thread uses and that is unmapped with it.
pub(crate) struct PrivateHeap {
    shared: &'static Shared,
    thread: &'static ThreadHeap,
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
            Ok(thread) => Ok(Self { shared, thread }),
            Err(error) => {
                // SAFETY: made above; nothing was made in it.
                unsafe { shared.destroy() };
                Err(error)
            }
        }
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
        // SAFETY: held by this thread; the block is forwarded.
        match unsafe { self.heap().free(ptr, Some(layout.size()), flush) } {
            Freed::Done => {}
            Freed::DoneAndDue => self.local().write_back_all(),
            Freed::NotDone => {
                if let Err(crime) = free_elsewhere(self.local(), ptr, Some(layout.size()), flush) {
                    crime.abort();
                }
            }
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
        // SAFETY: the only thread heap ends here, and blocks of a private heap do not outlive it.
        unsafe { self.shared.destroy() };
    }
}
