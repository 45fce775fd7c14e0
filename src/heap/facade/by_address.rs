//! Blocks of which the caller knows no more than the address, as in C.

use core::alloc::Layout;
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering;

use super::ways_out::free_slow;
use super::{Heap, Shared, threads};
use crate::heap::class::{self, CLASSES, PLAIN_ALIGN};
use crate::heap::corruption::Corruption;
use crate::heap::geometry::GUARD_BYTES;
use crate::heap::hot::{ANY_SIZE, Resized};
use crate::heap::shadow;
use crate::os;
use crate::{Error, Flush};

/// Where a live block lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// In a slab of this class.
    Slab { class: usize },
    /// On pages of its own.
    Pages,
}

impl Heap {
    /// Frees a block of any size: checks it, wipes it, flushes it. Ends the process if something is wrong.
    ///
    /// # Safety
    /// - `ptr` came from this heap, and nobody uses the block any more.
    #[inline(always)]
    pub(crate) unsafe fn free(&self, ptr: NonNull<u8>, flush: Flush) {
        // SAFETY: forwarded.
        unsafe { self.free_hot(ptr.as_ptr(), None, flush, || free_slow(ptr, ANY_SIZE, self, flush)) }
    }

    /// The same if this thread knows the block's slab. If not, `otherwise` is called.
    ///
    /// # Safety
    /// - If `ptr` came from this heap, nobody uses the block any more.
    #[inline(always)]
    pub(crate) unsafe fn free_or_else(&self, ptr: *mut u8, flush: Flush, otherwise: impl FnOnce()) {
        // SAFETY: forwarded.
        unsafe { self.free_hot(ptr, None, flush, otherwise) }
    }

    /// The size of the live block at `ptr`, if this thread has it at hand; `None` for others, and any other address.
    #[inline(always)]
    pub(crate) fn size_at_hand(&self, ptr: *const u8) -> Option<usize> {
        threads::held(self.index).size_of_own(ptr)
    }

    /// The size of the live block at `ptr`, if that is in this heap. Ends the process if there is none.
    #[cold]
    #[inline(never)]
    pub(crate) fn size_elsewhere(&self, ptr: *const u8) -> Option<usize> {
        if !self.contains(ptr) {
            return None;
        }
        NonNull::new(ptr.cast_mut()).map(|block| self.live_block(block).1)
    }

    /// Changes the size of a block of any size: in place if it can, else by moving it to a block aligned to
    /// `align`, a power of two; what is left is wiped. On an error the block is as it was.
    ///
    /// # Safety
    /// - `ptr` came from this heap; after success, nobody uses its old address, or what is cut off, any more.
    #[inline]
    pub(crate) unsafe fn resize(
        &self,
        ptr: NonNull<u8>,
        new_size: usize,
        align: usize,
        flush: Flush,
    ) -> Result<NonNull<u8>, Error> {
        let new = Layout::from_size_align(new_size, align).map_err(|_| Error::TooLarge)?;
        if align <= PLAIN_ALIGN {
            // SAFETY: held by this thread; the block is forwarded.
            match unsafe { threads::held(self.index).resize_own(ptr, new_size, flush) } {
                Resized::InPlace => return Ok(ptr),
                // SAFETY: forwarded, of the size that was found.
                Resized::Moves { old } => return unsafe { self.move_block(ptr, old, new, flush) },
                Resized::NotDone => {}
            }
        }
        // SAFETY: forwarded.
        unsafe { self.resize_elsewhere(ptr, new, flush) }
    }

    /// The same for a block of which this thread heap does not know.
    ///
    /// # Safety
    /// - As for `resize`.
    #[inline(never)]
    unsafe fn resize_elsewhere(
        &self,
        ptr: NonNull<u8>,
        new: Layout,
        flush: Flush,
    ) -> Result<NonNull<u8>, Error> {
        let (home, old_size) = self.live_block(ptr);
        if ptr.addr().get().is_multiple_of(new.align()) {
            // SAFETY: a live block of that size is there; the rest is forwarded.
            if unsafe { self.resize_in_place(ptr, home, old_size, new, flush) } {
                return Ok(ptr);
            }
        }
        if let (Home::Pages, Some(shared)) = (home, self.shared())
            && let Ok(old) = Layout::from_size_align(old_size, new.align())
            // SAFETY: a live block of that size is there; the rest is forwarded.
            && let Some(moved) = unsafe { shared.grow_in(ptr, old, new.size()) }
        {
            return Ok(moved);
        }
        // SAFETY: forwarded.
        unsafe { self.move_block(ptr, old_size, new, flush) }
    }

    /// Moves a block of `old_size` bytes to a new one.
    ///
    /// # Safety
    /// - As for `resize`; a live block of `old_size` bytes starts at `ptr`.
    unsafe fn move_block(
        &self,
        ptr: NonNull<u8>,
        old_size: usize,
        new: Layout,
        flush: Flush,
    ) -> Result<NonNull<u8>, Error> {
        let moved = self.allocate(new)?;
        // SAFETY: both blocks have that many bytes at least, and the new one is new.
        unsafe { ptr::copy_nonoverlapping(ptr.as_ptr(), moved.as_ptr(), old_size.min(new.size())) };
        // SAFETY: forwarded; the block's contents were moved.
        unsafe { self.free(ptr, flush) };
        Ok(moved)
    }

    /// # Safety
    /// - As for `resize`; a live block of `old_size` bytes with this home starts at `ptr`.
    unsafe fn resize_in_place(
        &self,
        ptr: NonNull<u8>,
        home: Home,
        old_size: usize,
        new: Layout,
        flush: Flush,
    ) -> bool {
        match (home, class::of(new.size(), new.align())) {
            (Home::Slab { class }, Some(wanted)) if class == wanted => {
                // SAFETY: held by this thread; the block is forwarded.
                unsafe { threads::held(self.index).resize(ptr, class, old_size, new.size(), flush) }
            }
            (Home::Pages, None) if new.align() <= GUARD_BYTES => {
                let Some(shared) = self.shared() else { return false };
                // SAFETY: forwarded.
                match os::preserve_errno(|| unsafe {
                    shared.resize_large(ptr.as_ptr(), old_size, new.size())
                }) {
                    Ok(is_done) => is_done,
                    Err(crime) => crime.abort(),
                }
            }
            _ => false,
        }
    }

    /// Home and size of the live block at `ptr`. Ends the process if there is none.
    fn live_block(&self, ptr: NonNull<u8>) -> (Home, usize) {
        let Some(shared) = self.shared() else { Corruption::InvalidFree.abort() };
        match shared.live_block(ptr.as_ptr()) {
            Some(found) => found,
            None => Corruption::InvalidFree.abort(),
        }
    }
}

impl Shared {
    /// Home and size of the live block at `ptr`.
    fn live_block(&self, ptr: *const u8) -> Option<(Home, usize)> {
        let Some(granule) = self.granule_at(ptr).ok()? else {
            return Some((Home::Pages, self.large_size(ptr)?));
        };
        let live = self.tables.shadow(granule).load(Ordering::Relaxed);
        if !shadow::is_live(live) {
            return None;
        }
        let owner_class = self.tables.header(granule.unit()).owner_class.load(Ordering::Relaxed);
        #[expect(clippy::as_conversions, reason = "u32 to usize widens")]
        let (class, byte) = ((owner_class & 0xff) as usize, |i| {
            self.tables.shadow(granule.within_unit(i)).load(Ordering::Relaxed)
        });
        let usable = CLASSES.get(class)?.usable_bytes();
        let size = shadow::size_of(usable, live)
            .unwrap_or_else(|| usable.wrapping_sub(shadow::decode_long([byte(1), byte(2), byte(3)])));
        (size <= usable).then_some((Home::Slab { class }, size))
    }

    /// The size of the live block at `ptr`.
    pub(super) fn block_size(&self, ptr: *const u8) -> Option<usize> {
        self.live_block(ptr).map(|(_, size)| size)
    }
}
