//! The frames of a socket's memory: where each is, and who has it.

// UNSAFETY: computes addresses inside a buffer that it does not borrow.
#![expect(unsafe_code, reason = "names frames by address and wipes them, see UNSAFETY above")]

use core::cell::Cell;
use core::ptr::NonNull;

use super::umem::Umem;
use crate::wipe;

/// Who has a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nobody.
    Free,
    /// The kernel, to write a packet to it.
    Filling,
    /// A `Packet` or a `Frame`: one value of this process.
    Held,
    /// The kernel, to send so many bytes of it.
    Sending(u32),
}

/// The table of frames.
///
/// # Invariants
///
/// 1. `base` is the start of the memory of a socket: `count` frames of `1 << shift` bytes, mapped, readable and
///    writable in the process that made the socket as long as that lives.
/// 2. A frame that is `Held` is named by no ring, and by one `Packet` or `Frame`; one that is `Free` by none.
/// 3. The first `nr_free` of `free` are the frames that are free.
#[derive(Debug)]
pub(super) struct Frames {
    base: NonNull<u8>,
    shift: u32,
    count: u32,
    states: Box<[Cell<State>]>,
    free: Box<[Cell<u32>]>,
    nr_free: Cell<u32>,
}

// SAFETY: the memory belongs to the process, not to a thread.
unsafe impl Send for Frames {}

impl Frames {
    /// All of them free.
    pub(super) fn new(umem: &Umem) -> Self {
        let count = umem.frames();
        Self {
            base: umem.start(),
            shift: umem.frame_size().shift(),
            count,
            states: (0..count).map(|_| Cell::new(State::Free)).collect(),
            // The last is taken first.
            free: (0..count).rev().map(Cell::new).collect(),
            nr_free: Cell::new(count),
        }
    }

    pub(super) const fn frame_bytes(&self) -> u32 {
        1 << self.shift
    }

    /// Who has a frame. There is none of this number: nobody.
    pub(super) fn state(&self, frame: u32) -> State {
        self.cell(frame).map_or(State::Free, Cell::get)
    }

    pub(super) fn set(&self, frame: u32, state: State) {
        if let Some(cell) = self.cell(frame) {
            cell.set(state);
        }
    }

    fn cell(&self, frame: u32) -> Option<&Cell<State>> {
        self.states.get(usize::try_from(frame).ok()?)
    }

    /// How many the kernel has to send.
    pub(super) fn sending(&self) -> u32 {
        let sending = self.states.iter().filter(|state| matches!(state.get(), State::Sending(_))).count();
        u32::try_from(sending).unwrap_or(u32::MAX)
    }

    /// Takes a free frame for this.
    pub(super) fn take(&self, state: State) -> Option<u32> {
        let nr_free = self.nr_free.get().checked_sub(1)?;
        let frame = self.free.get(usize::try_from(nr_free).ok()?)?.get();
        self.nr_free.set(nr_free);
        self.set(frame, state);
        Some(frame)
    }

    /// Gives back one that was taken.
    pub(super) fn give(&self, frame: u32) {
        self.set(frame, State::Free);
        let nr_free = self.nr_free.get();
        if let Some(place) = usize::try_from(nr_free).ok().and_then(|place| self.free.get(place)) {
            place.set(frame);
            self.nr_free.set(nr_free.wrapping_add(1));
        }
    }

    /// Where a frame begins, counted from the start of the memory.
    pub(super) fn offset(&self, frame: u32) -> u64 {
        u64::from(frame) << self.shift
    }

    /// The frame, and the place in it, that `len` bytes at an offset lie in: all of them in the same one.
    pub(super) fn locate(&self, offset: u64, len: u32) -> Option<(u32, u32)> {
        let frame = u32::try_from(offset >> self.shift).ok().filter(|frame| *frame < self.count)?;
        let within = u32::try_from(offset & u64::from(self.frame_bytes().wrapping_sub(1))).ok()?;
        (within.checked_add(len)? <= self.frame_bytes()).then_some((frame, within))
    }

    /// The address of a place in a frame.
    pub(super) fn address(&self, frame: u32, within: u32) -> NonNull<u8> {
        debug_assert!(frame < self.count && within <= self.frame_bytes(), "a frame of this table");
        let offset = usize::try_from(self.offset(frame)).unwrap_or(0);
        let offset = offset.wrapping_add(usize::try_from(within).unwrap_or(0));
        // SAFETY: callers name a frame of this table, and a place not beyond its end, so it is within the memory
        // (invariant 1).
        unsafe { self.base.add(offset) }
    }

    /// Turns the first bytes of a frame that is `Held`, or was `Sending`, to zeros.
    pub(super) fn wipe(&self, frame: u32, bytes: u32) {
        let (start, len) = (self.address(frame, 0), usize::try_from(bytes).unwrap_or(0));
        // SAFETY: mapped and writable (invariant 1). Only one value of this process, which is at its end, or nobody, has
        // the frame, and not the kernel (invariant 2).
        unsafe { wipe::zero(start, len) };
    }
}

#[cfg(test)]
impl Frames {
    /// Frames of no memory.
    pub(super) fn nowhere(count: u32, shift: u32) -> Self {
        Self {
            base: NonNull::dangling(),
            shift,
            count,
            states: (0..count).map(|_| Cell::new(State::Free)).collect(),
            free: (0..count).rev().map(Cell::new).collect(),
            nr_free: Cell::new(count),
        }
    }
}
