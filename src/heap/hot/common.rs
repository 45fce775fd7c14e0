//! A block of a common slab, freed by any thread: the short way of [`outgoing`](crate::heap::outgoing).

// UNSAFETY: writes to slots by address.
#![expect(unsafe_code, reason = "blocks are raw memory, see the proofs")]

use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::{ANY_SIZE, Freed};
use crate::Flush;
use crate::heap::class::MID_MAX_BYTES;
use crate::heap::shadow;
use crate::heap::tables::Granule;
use crate::heap::thread::{Keeper, Place, ThreadHeap};

/// What becomes of the slot. A constant for each caller, so that none asks twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goes {
    /// It is kept at hand, if there is room.
    ToHand,
    /// It goes home, if there is no room, and to another thread.
    Home,
}

impl ThreadHeap {
    /// Frees a block of a common slab, in a slot of up to 1,040 bytes, if it is in order and its slot goes where it should.
    /// Calls `send`, with a word and its bits or with 0, if some must now be sent home.
    ///
    /// # Safety
    /// - The calling thread holds this thread heap.
    /// - `granule` is what [`locate`](Self::locate) says of `ptr`. If a live block starts there, nobody uses it any more.
    ///   `size` may be [`ANY_SIZE`].
    #[inline(always)]
    pub(crate) unsafe fn free_common(
        &self,
        ptr: NonNull<u8>,
        granule: Granule,
        size: usize,
        flush: Flush,
        goes: Goes,
        send: impl FnOnce(u32, u64),
    ) -> Freed {
        let tables = self.tables.get();
        // Acquire pairs with Release in `share_slab`.
        let home = tables.home_of(granule).load(Ordering::Acquire);
        let Some((Place { index, keeper: Keeper::Freer, .. }, bin)) = self.place_of(home) else {
            return Freed::NotDone;
        };
        let usable = bin.usable_bytes();
        let (is_right, free) = match goes {
            Goes::ToHand => (!bin.is_full(), shadow::FREED),
            Goes::Home => (bin.is_full() && index != 0, shadow::REMOTE),
        };
        if usable > MID_MAX_BYTES || !is_right || flush == Flush::Immediate {
            return Freed::NotDone;
        }
        let state = tables.shadow(granule);
        let live = state.load(Ordering::Relaxed);
        let Some(found) = shadow::size_of(usable, live) else { return Freed::NotDone };
        if found > usable || (size != found && size != ANY_SIZE) {
            return Freed::NotDone;
        }
        let slot_bytes = bin.slot_bytes();
        // SAFETY: the shadow says that a live block starts here, so a slot of this class does.
        if !unsafe { self.is_intact(ptr, granule, slot_bytes, || bin.canary_step(), found) } {
            return Freed::NotDone;
        }
        // As in `Local::claim`.
        if state.compare_exchange(live, free, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return Freed::NotDone;
        }
        if flush == Flush::Bounded {
            self.note_lines(granule.unit());
        }
        // SAFETY: nobody uses the block any more, as the caller promises; up to 1,040 bytes.
        let freed = unsafe { self.wipe_checked_slot(granule, slot_bytes, flush) };
        match goes {
            Goes::ToHand => {
                let is_pushed = bin.push(granule.number());
                debug_assert!(is_pushed, "there is room");
            }
            Goes::Home => {
                if let Some((word, bits)) = self.outgoing.post(granule, slot_bytes) {
                    send(word, bits);
                }
            }
        }
        freed
    }
}
