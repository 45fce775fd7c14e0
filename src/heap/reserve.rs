//! Getting memory ready ahead, so that no page fault and no system call comes later.

// UNSAFETY: takes raw blocks and gives them back.
#![expect(unsafe_code, reason = "the allocator interface works on raw blocks")]

use core::alloc::Layout;
use core::ptr::NonNull;

use super::class::{self, CLASSES};
use super::facade::Heap;
use super::threads;
use crate::{Error, Flush};

/// What of a class a thread may have at hand, free but not to be had: its stash, of which a part is held back.
const AT_HAND: usize = 128;

impl Heap {
    /// Sets the heap up, and the calling thread's part of it, with memory ready for a block of this layout; once.
    pub(crate) fn warm_up(&self, layout: Layout) -> Result<(), Error> {
        // Without a thread heap, or in a forked child where it is wiped, it says no.
        match threads::held(self.index()).empty_kept.get() {
            1.. => Ok(()),
            0 => self.reserve(layout, 1),
        }
    }

    /// Gets memory ready for `count` more blocks of this layout on the calling thread: guarded, locked, pinned if
    /// possible, faulted in, records and all. It is kept until the thread ends, or `trim`.
    ///
    /// Takes all slots of as many slabs as it needs, and gives them back: what the first owner of a slot would have
    /// to wait for has happened then.
    pub(crate) fn reserve(&self, layout: Layout, count: usize) -> Result<(), Error> {
        let small = class::of(layout.size(), layout.align()).and_then(|class| CLASSES.get(class));
        let (blocks, slabs) = match small {
            None => (count, 0),
            Some(shape) => {
                let slots = usize::try_from(shape.nr_slots).unwrap_or(usize::MAX).max(1);
                let slabs = count.checked_add(AT_HAND).ok_or(Error::TooLarge)?.div_ceil(slots);
                (slabs.checked_mul(slots).ok_or(Error::TooLarge)?, slabs)
            }
        };
        let needed_bytes = blocks.checked_mul(layout.size()).ok_or(Error::TooLarge)?;
        let mut taken: Vec<NonNull<u8>> = Vec::new();
        taken.try_reserve_exact(blocks).map_err(|_| Error::AddressSpace { needed_bytes })?;
        let mut result = Ok(());
        for _ in 0..blocks {
            match self.allocate(layout) {
                Ok(block) => taken.push(block),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if let (Ok(()), Some(shared)) = (result, self.shared()) {
            let slabs = u32::try_from(slabs).unwrap_or(u32::MAX);
            threads::with_local(self.index(), shared, |local| {
                let kept = &local.heap().empty_kept;
                kept.set(kept.get().saturating_add(slabs));
            })?;
        }
        for block in taken {
            // SAFETY: allocated above with this layout, and nobody else knows it. It holds nothing but zeros.
            unsafe { self.deallocate(block, layout, Flush::Off) };
        }
        result
    }
}
