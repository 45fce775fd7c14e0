//! One slot, from the first opening to the wiping: the operations that its owner has.

// UNSAFETY: reads and writes the pages of a slot by address, and changes the access to them.
#![expect(unsafe_code, reason = "works on pages by address, see the invariants of `Slot`")]
#![expect(clippy::arithmetic_side_effects, reason = "offsets within the arena's memory")]

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::arena::Arena;
use super::pinning::Pinned;
use super::record::{Record, State};
use super::window::{CANARY_BYTES, Window, class_of};
use crate::heap::corruption::Corruption;
use crate::keys::{self, AllRights, Zone};
use crate::os::{self, Access, Errno, LockState};
use crate::pages::PageBytes;
use crate::{Backing, Error, Flush, Operation, Seal, wipe};

/// The largest window that is kept ready.
const WARM_WINDOW_BYTES: usize = 64 << 10;
/// Slots that are kept ready while mappings are merged: each costs two.
const WARM_WHILE_MERGED: usize = 32;

/// The owner of one slot.
///
/// # Invariants
///
/// 1. The slot was prepared by `arena`, and is on no stack: this value alone owns it.
/// 2. `block` is where `Window::place` puts the block that the slot was taken for.
/// 3. In the process that made the arena the slot's state is `Live`, so `Record` 2 holds for its window. The
///    window is accessible while `Record::openings` is not 0.
#[derive(Debug)]
pub(crate) struct Slot {
    arena: &'static Arena,
    number: u32,
    block: NonNull<u8>,
}

// SAFETY: nothing in it belongs to a thread; the pages are the owner's to use (invariant 1).
unsafe impl Send for Slot {}
// SAFETY: `&Slot` opens and closes, by atomics that are made for it, and gives an address.
unsafe impl Sync for Slot {}

impl Slot {
    /// Takes a slot for a block of this size and alignment, the block all zero. Its pages are open for reading
    /// and writing; what rights the caller needs besides, [`begin_exclusive`](Self::begin_exclusive) gives.
    pub(crate) fn take(block: Layout, seal: Seal) -> Result<Self, Error> {
        let class = class_of(block, os::page_size()).ok_or(Error::TooLarge)?;
        let arena = Arena::of(class, seal)?;
        let _rights = AllRights::new();
        let link = |number: u32| &arena.record(number).link;
        let number = match arena.pop_warm(block) {
            Some(number) => number,
            None => match arena.cold.pop(link) {
                Some(number) => number,
                None => arena.prepare_step()?,
            },
        };
        arena.make_ready(number, block)?;
        let live = arena.counters.live.fetch_add(1, Ordering::Relaxed) + 1;
        arena.counters.live_bytes.fetch_add(block.size(), Ordering::Relaxed);
        arena.note_more(live);
        let window = arena.place(number, block);
        // SAFETY: within the slot, by `Window::place`.
        let block = unsafe { arena.data(number).add(window.block) };
        Ok(Self { arena, number, block })
    }

    /// Gets `count` more slots ready for such a block: open, locked, pinned if possible, in memory. As many are
    /// kept ready from now on.
    pub(crate) fn reserve(block: Layout, count: usize, seal: Seal) -> Result<(), Error> {
        let class = class_of(block, os::page_size()).ok_or(Error::TooLarge)?;
        let arena = Arena::of(class, seal)?;
        let _rights = AllRights::new();
        let link = |number: u32| &arena.record(number).link;
        for _ in 0..count {
            let number = match arena.cold.pop(link) {
                Some(number) => number,
                None => arena.prepare_step()?,
            };
            let record = arena.record(number);
            record.set_window(arena.place(number, block), arena.page_bytes);
            if let Err(error) = arena.warm_up(number, record) {
                arena.cold.push(number, link);
                return Err(error);
            }
            let (offset, len) = arena.window(number, record);
            // SAFETY: within the memory.
            let start = unsafe { arena.memory.base().add(offset.get()) };
            // Faults every page in where no pin did. It is zero already.
            // SAFETY: the window was opened by `warm_up`, and nobody else knows it.
            unsafe { wipe::zero(start, len.get()) };
            record.set_state(State::Warm);
            arena.counters.reserved.fetch_add(1, Ordering::Relaxed);
            arena.counters.warm.fetch_add(1, Ordering::Relaxed);
            arena.warm.push(number, link);
        }
        Ok(())
    }

    /// Makes sure that at least `count` slots for such a block are kept ready.
    pub(crate) fn reserve_least(block: Layout, count: usize, seal: Seal) -> Result<(), Error> {
        let class = class_of(block, os::page_size()).ok_or(Error::TooLarge)?;
        let ready = Arena::of(class, seal)?.counters.reserved.load(Ordering::Relaxed);
        Self::reserve(block, count.saturating_sub(ready), seal)
    }

    /// The first byte of the block.
    #[inline]
    pub(crate) const fn block(&self) -> NonNull<u8> {
        self.block
    }

    /// Whether this process is the one that took the slot; else it holds nothing but zeros, if anything.
    #[inline]
    pub(crate) fn is_here(&self) -> bool {
        self.arena.is_here()
    }

    /// Opens the slot for one more guard, with this access if it was sealed. All callers for one slot ask for
    /// the same access. Where a key seals, for this thread, to which the guard then belongs.
    #[inline]
    pub(crate) fn open(&self, access: Access) -> Result<(), Error> {
        self.check_here()?;
        match self.arena.seal {
            Seal::ProtectionKey => keys::raise(Zone::Isolated, access),
            Seal::Pages => return self.open_pages(access),
            Seal::None => {}
        }
        Ok(())
    }

    /// Not inlined, as those below, so that a key costs what it costs: a system call does not notice.
    #[inline(never)]
    fn open_pages(&self, access: Access) -> Result<(), Error> {
        let record = self.record();
        record.openings.open(|| self.unseal(record, access))
    }

    /// Ends one guard that `open` gave with the same access. The last one seals.
    #[inline]
    pub(crate) fn close(&self, access: Access) {
        match self.arena.seal {
            Seal::ProtectionKey => keys::lower(Zone::Isolated, access),
            Seal::Pages => self.close_pages(),
            Seal::None => {}
        }
    }

    #[inline(never)]
    fn close_pages(&self) {
        if self.is_here() {
            let record = self.record();
            record.openings.close(|| self.seal(record));
        }
    }

    /// Opens the slot for reading and writing, for one guard beside which there is no other.
    #[inline]
    pub(crate) fn open_exclusive(&mut self) -> Result<(), Error> {
        self.check_here()?;
        if self.arena.seal == Seal::Pages {
            return self.open_pages_exclusive();
        }
        self.begin_exclusive();
        Ok(())
    }

    #[inline(never)]
    fn open_pages_exclusive(&self) -> Result<(), Error> {
        let record = self.record();
        record.openings.change(1, || self.unseal(record, Access::ReadWrite))
    }

    /// The same for a slot that was just taken.
    pub(crate) fn begin_exclusive(&mut self) {
        if self.arena.seal == Seal::ProtectionKey {
            keys::raise(Zone::Isolated, Access::ReadWrite);
        }
    }

    /// Seals the slot, open for reading and writing for one guard. Ends the process if the guard's holder
    /// wrote in front of the block.
    #[inline]
    pub(crate) fn close_exclusive(&mut self, block: Layout) {
        if self.is_here() {
            // SAFETY: open, so says the caller.
            if !unsafe { self.is_canary_whole(block) } {
                Corruption::Underflow.abort();
            }
            if self.arena.seal == Seal::Pages {
                self.close_pages_exclusive();
            }
        }
        self.end_exclusive();
    }

    #[inline(never)]
    fn close_pages_exclusive(&self) {
        let record = self.record();
        let sealed = record.openings.change(0, || {
            self.seal(record);
            Ok::<(), Error>(())
        });
        debug_assert_eq!(sealed, Ok(()), "`seal` ends the process if it fails");
    }

    /// Takes back the right that an exclusive guard has besides the access to the pages.
    #[inline]
    fn end_exclusive(&self) {
        if self.arena.seal == Seal::ProtectionKey {
            keys::lower(Zone::Isolated, Access::ReadWrite);
        }
    }

    /// Gives the slot back, open for reading and writing: checks what is around the block, wipes it, and keeps
    /// the slot ready for the next owner or returns its memory.
    pub(crate) fn give_back(self, block: Layout, flush: Flush) {
        if self.is_here() {
            self.wipe_and_retire(block, flush);
        }
        self.end_exclusive();
    }

    fn wipe_and_retire(&self, block: Layout, flush: Flush) {
        let (arena, record) = (self.arena, self.record());
        // SAFETY: open, so says the caller.
        unsafe { self.wipe(block, flush) };
        arena.counters.live_bytes.fetch_sub(block.size(), Ordering::Relaxed);
        let live = arena.counters.live.fetch_sub(1, Ordering::Relaxed) - 1;
        arena.note_less(live);
        arena.retire(self.number, record);
    }

    /// Gives the slot up with the secret in it, sealed: it could not be opened to be wiped. It is wiped when
    /// the process ends.
    #[cold]
    pub(crate) fn abandon(self) {
        if self.is_here() {
            self.record().set_state(State::Leaked);
            self.arena.counters.leaked.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[inline]
    fn check_here(&self) -> Result<(), Error> {
        if self.is_here() { Ok(()) } else { Err(Error::LeftBehind) }
    }

    #[inline]
    fn record(&self) -> &'static Record {
        self.arena.record(self.number)
    }

    /// Gives the window access. Called while the record is busy.
    #[inline]
    fn unseal(&self, record: &Record, access: Access) -> Result<(), Error> {
        self.arena.split(self.number, record);
        // SeqCst: pairs with purge, which writes whatever the access asked for.
        let access = if self.arena.purging.load(Ordering::SeqCst) == 0 { access } else { Access::ReadWrite };
        self.arena.give_access(self.number, record, access)
    }

    /// Takes the access to the window away. Called while the record is busy.
    #[inline]
    fn seal(&self, record: &Record) {
        // SeqCst: pairs with purge, which must not be stopped by a page that lost its access; what it has
        // wiped need not be sealed.
        if self.arena.purging.load(Ordering::SeqCst) == 0
            && self.arena.give_access(self.number, record, Access::None).is_err()
        {
            // The window is mapped and, open, has mappings of its own, so the kernel has no reason to refuse.
            // A secret left open would be a promise broken without a word.
            os::abort_with("an isolated secret could not be sealed");
        }
    }

    /// Whether nobody wrote over the canary in front of the block.
    ///
    /// # Safety
    ///
    /// - The window can be read.
    #[inline]
    unsafe fn is_canary_whole(&self, block: Layout) -> bool {
        let len = self.arena.place(self.number, block).canary_bytes();
        let mut found = [0; CANARY_BYTES];
        // SAFETY: `len` bytes in front of the block lie in the window.
        let canary = unsafe { self.block.sub(len) };
        // SAFETY: the window can be read, and `len` is at most the size of the array.
        unsafe { canary.copy_to_nonoverlapping(NonNull::from(&mut found).cast(), len) };
        let expected = self.arena.canary(self.block, len);
        // A purge may have come between any two bytes of it, while it was written.
        found == expected
            || (self.arena.counters.is_purged.load(Ordering::Relaxed)
                && found.iter().zip(expected).all(|(found, expected)| *found == 0 || *found == expected))
    }

    /// Checks the bytes around the block, then wipes it and its canary: the window is all zero.
    ///
    /// # Safety
    ///
    /// - The window can be read and written, and nobody uses the block any more.
    unsafe fn wipe(&self, block: Layout, flush: Flush) {
        // SAFETY: readable, says the caller.
        if !unsafe { self.is_canary_whole(block) } {
            Corruption::Underflow.abort();
        }
        let window = self.arena.place(self.number, block);
        let canary = window.canary_bytes();
        // SAFETY: the slack lies in front of the block in its window, the canary at the end of the slack.
        let start = unsafe { self.block.sub(window.slack()) };
        // SAFETY: as above, without the canary.
        if !unsafe { wipe::is_zero(start, window.slack() - canary) } {
            Corruption::Underflow.abort();
        }
        // SAFETY: as above.
        let start = unsafe { self.block.sub(canary) };
        let len = canary + block.size();
        if flush == Flush::Off {
            // SAFETY: canary and block, writable and not used any more, says the caller.
            unsafe { wipe::zero(start, len) };
        } else {
            // Also for `Flush::Bounded`: a page that may be sealed or discarded is flushed before.
            // SAFETY: as above.
            unsafe { wipe::zero_and_flush(start, len) };
        }
    }
}

/// What the owner of a slot does that has no `Slot` yet, or not any more.
impl Arena {
    /// Takes a slot that is kept ready. One of another window has to be chilled first, which takes access away, so
    /// it stays where it is while a purge may be at it still.
    #[inline]
    fn pop_warm(&self, block: Layout) -> Option<u32> {
        let link = |number: u32| &self.record(number).link;
        let number = self.warm.pop(link)?;
        if self.is_window_of(number, block) || !self.is_purging() {
            self.counters.warm.fetch_sub(1, Ordering::Relaxed);
            return Some(number);
        }
        self.warm.push(number, link);
        None
    }

    /// Whether a purge is under way. Asked about a slot that this thread has just taken or made free: a purge that
    /// starts later finds no secret in it, and leaves it alone.
    pub(super) fn is_purging(&self) -> bool {
        // SeqCst: pairs with purge, see there.
        self.purging.load(Ordering::SeqCst) != 0
    }

    /// Whether the window that a slot has is the one for such a block.
    #[inline]
    fn is_window_of(&self, number: u32, block: Layout) -> bool {
        let window = self.place(number, block);
        let (first, pages) = self.record(number).window_pages();
        (first * self.page_bytes, pages * self.page_bytes) == (window.start, window.bytes)
    }

    /// Makes a free slot ready to hold a block: open, locked, pinned if possible, all zero but the canary. After
    /// an error the slot is cold again, and free.
    fn make_ready(&self, number: u32, block: Layout) -> Result<(), Error> {
        let record = self.record(number);
        let window = self.place(number, block);
        let state = record.state();
        let is_ready = state == State::Warm && self.is_window_of(number, block);
        if !is_ready {
            if state == State::Warm {
                self.chill(number, record);
            }
            record.set_window(window, self.page_bytes);
            if let Err(error) = self.warm_up(number, record) {
                self.cold.push(number, |number| &self.record(number).link);
                return Err(error);
            }
        }
        // A slot that could not be accessed until now is zero: the kernel gave its pages. One that was open, warm
        // or merged under another seal than that of pages, is zero if nobody wrote to it.
        if is_ready || self.seal != Seal::Pages {
            // SAFETY: within the slot, by `Window::place`.
            let start = unsafe { self.data(number).add(window.start) };
            // SAFETY: the window of a slot that is ready, readable and writable, on which nobody else works.
            if !unsafe { wipe::is_zero(start, window.bytes) } {
                Corruption::WriteAfterFree.abort();
            }
        }
        let len = window.canary_bytes();
        // SAFETY: the block and the canary in front of it lie in the window.
        let block = unsafe { self.data(number).add(window.block) };
        // SAFETY: as above.
        let canary = unsafe { block.sub(len) };
        // SAFETY: writable (`make_ready` got it ready, or it is warm), and `len` is at most the size of the array.
        unsafe { canary.copy_from_nonoverlapping(NonNull::from(&self.canary(block, len)).cast(), len) };
        let Ok(()) = record.openings.change::<core::convert::Infallible>(1, || Ok(()));
        record.set_state(State::Live);
        Ok(())
    }

    /// Opens, locks and pins the window of a cold slot. After an error it is cold as before.
    #[cold]
    pub(super) fn warm_up(&self, number: u32, record: &Record) -> Result<(), Error> {
        let (offset, len) = self.window(number, record);
        if self.backing == Backing::Hidden {
            // SAFETY: nobody uses the window of a cold slot.
            unsafe { self.memory.hide(offset, len, Access::None) }?;
            self.counters.locked_bytes.fetch_add(len.get(), Ordering::Relaxed);
            return Ok(());
        }
        self.give_access(number, record, Access::ReadWrite)?;
        if let Err(error) = self.memory.lock(offset, len) {
            // SAFETY: no reference was made.
            let _ = unsafe { self.memory.decommit(offset, len) };
            return Err(error);
        }
        self.counters.locked_bytes.fetch_add(len.get(), Ordering::Relaxed);
        if self.backing != Backing::Auto {
            return Ok(());
        }
        // SAFETY: within the memory.
        let start = unsafe { self.memory.base().add(offset.get()) };
        // SAFETY: reserved memory that is never unmapped; `chill` unpins before it discards.
        match unsafe { Pinned::new(start, len.get()) } {
            Ok(pinned) => {
                record.set_pin(Some(pinned));
                self.counters.pinned_bytes.fetch_add(len.get(), Ordering::Relaxed);
            }
            Err(errno) => {
                record.set_pin(None);
                self.counters.pin_refused.fetch_add(1, Ordering::Relaxed);
                self.counters.pin_errno.store(errno.0.unsigned_abs(), Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Puts away a slot that is open and all zero: keeps it ready, or gives its memory back.
    fn retire(&self, number: u32, record: &Record) {
        let link = |number: u32| &self.record(number).link;
        let (_, len) = self.window(number, record);
        let warm = self.counters.warm.fetch_add(1, Ordering::Relaxed);
        let has_room = warm < self.most_warm(len);
        let kept = record.openings.change(0, || {
            // SeqCst: pairs with purge, which must not be stopped by a page that lost its access.
            if has_room || self.purging.load(Ordering::SeqCst) != 0 {
                record.set_state(State::Warm);
                return Ok(());
            }
            record.set_state(State::Cold);
            self.chill(number, record);
            Err(())
        });
        if kept.is_ok() {
            self.warm.push(number, link);
        } else {
            self.counters.warm.fetch_sub(1, Ordering::Relaxed);
            let Ok(()) = record.openings.change::<core::convert::Infallible>(0, || Ok(()));
            self.cold.push(number, link);
        }
    }

    /// The number of slots with such a window to keep ready.
    fn most_warm(&self, len: PageBytes) -> usize {
        let reserved = self.counters.reserved.load(Ordering::Relaxed);
        if len.get() > WARM_WINDOW_BYTES {
            return reserved;
        }
        if self.is_merged() {
            return WARM_WHILE_MERGED.max(reserved);
        }
        (self.warm_bytes / len.get().max(1)).max(reserved)
    }

    /// Unpins, unlocks and seals a window that is all zero, and gives its memory back.
    #[cold]
    pub(super) fn chill(&self, number: u32, record: &Record) {
        let (offset, len) = self.window(number, record);
        if self.backing == Backing::Hidden {
            self.counters.locked_bytes.fetch_sub(len.get(), Ordering::Relaxed);
            // After a failure the pages stay in memory, hidden, and wiped.
            // SAFETY: nobody uses the window.
            let _ = unsafe { self.memory.unhide(offset, len, Access::None) };
            return record.set_state(State::Cold);
        }
        if let Some(pinned) = record.take_pin() {
            self.counters.pinned_bytes.fetch_sub(len.get(), Ordering::Relaxed);
            // After a failure the frames stay, wiped, until the table of pins is closed.
            let _ = pinned.end();
        }
        self.counters.locked_bytes.fetch_sub(len.get(), Ordering::Relaxed);
        // After a failure of any of these the pages stay in memory, locked or open, but wiped.
        // SAFETY: nobody uses the window.
        let _ = unsafe { self.memory.discard(offset, len, LockState::Locked) };
        if !self.is_merged() {
            let _ = self.memory.unlock(offset, len);
        }
        if self.seal == Seal::Pages || !self.is_merged() {
            // SAFETY: as above.
            let _ = unsafe { self.memory.decommit(offset, len) };
        }
        record.set_state(State::Cold);
    }

    /// Sets the access to the window of a slot; merges mappings if there are too many for it.
    #[inline]
    fn give_access(&self, number: u32, record: &Record, access: Access) -> Result<(), Error> {
        let (offset, len) = self.window(number, record);
        // SAFETY: the owner of the slot answers for references: access is only taken away when the last
        // guard is gone.
        match unsafe { self.memory.set_access(offset, len, access) } {
            Ok(()) => Ok(()),
            Err(errno) => self.give_access_slow(offset, len, access, errno),
        }
    }

    #[cold]
    fn give_access_slow(
        &self,
        offset: PageBytes,
        len: PageBytes,
        access: Access,
        errno: Errno,
    ) -> Result<(), Error> {
        let again = if errno == Errno::NOMEM && self.merge() {
            // SAFETY: as in `give_access`.
            unsafe { self.memory.set_access(offset, len, access) }
        } else {
            Err(errno)
        };
        again.map_err(|errno| match errno {
            Errno::NOMEM => Error::MappingLimit,
            errno => Error::Os { operation: Operation::Protect, errno: errno.0 },
        })
    }

    /// Offset and size of a slot's window in the memory.
    #[inline]
    pub(super) fn window(&self, number: u32, record: &Record) -> (PageBytes, PageBytes) {
        let (first, pages) = record.window_pages();
        let offset = self.data_offset(number) + first * self.page_bytes;
        (PageBytes::round_down(offset), PageBytes::round_down(pages * self.page_bytes))
    }

    /// Where a block lies in a slot.
    #[inline]
    fn place(&self, number: u32, block: Layout) -> Window {
        Window::place(block, self.data(number).addr().get(), self.data_bytes, self.page_bytes)
    }

    /// The first data byte of a slot.
    #[inline]
    pub(super) fn data(&self, number: u32) -> NonNull<u8> {
        // SAFETY: a prepared slot lies in the memory (`Arena` 3).
        unsafe { self.memory.base().add(self.data_offset(number)) }
    }

    /// The canary in front of a block; zeros behind its first `len` bytes. It depends on the place, so that one
    /// copied from elsewhere does not fit, and has no zero byte.
    #[inline]
    fn canary(&self, block: NonNull<u8>, len: usize) -> [u8; CANARY_BYTES] {
        const NO_ZERO: u64 = 0x0101_0101_0101_0101;
        // 2^64 divided by the golden ratio: any odd number would do.
        let mixed = u64::try_from(block.addr().get()).unwrap_or(0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let words = [self.canary_key ^ mixed, self.canary_key.rotate_left(32) ^ mixed].map(|w| w | NO_ZERO);
        let mut canary = [0; CANARY_BYTES];
        for (byte, from) in canary.iter_mut().zip(words.iter().flat_map(|word| word.to_ne_bytes())).take(len)
        {
            *byte = from;
        }
        canary
    }
}
