//! One end of a ring that is shared with the kernel.
//!
//! ```text
//! producer                          consumer
//! load consumer   (Acquire)         load producer   (Acquire)
//! write entries                     read entries
//! store producer  (Release)         store consumer  (Release)
//! ```
//!
//! Both numbers only grow, and wrap; each end keeps its own and never reads it back. The kernel's is checked: what it
//! allows is never more than the ring has. This is the order of the kernel's `net/xdp/xsk_queue.h`.

// UNSAFETY: reads and writes memory that is shared with the kernel, by address.
#![expect(unsafe_code, reason = "uses a mapping that is shared with the kernel, see UNSAFETY above")]

use core::cell::Cell;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::os::xdp::{RingKind, RingOffsets, Socket};
use crate::os::{self, Errno};

/// The kernel's `XDP_RING_NEED_WAKEUP`.
const NEED_WAKEUP: u32 = 1;

/// A packet, as the rings name it: the kernel's `struct xdp_desc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Descriptor {
    /// Where it begins, counted from the start of the memory.
    pub(super) start: u64,
    /// Its bytes.
    pub(super) len: u32,
    /// Zero.
    pub(super) options: u32,
}

/// What a ring may hold: values that any bytes are.
///
/// # Safety
///
/// - Any bytes are one.
pub(super) unsafe trait Entry: Copy {}
// SAFETY: an integer.
unsafe impl Entry for u64 {}
// SAFETY: integers, without padding between or behind.
unsafe impl Entry for Descriptor {}
const _: () = assert!(size_of::<Descriptor>() == 16);

/// The memory of a ring.
///
/// # Invariants
///
/// 1. `[start, start + bytes)` is mapped, readable and writable, in the process `owner`, until the drop. Only this
///    value and the kernel use it.
/// 2. The three numbers, and `mask + 1` entries from `offsets.entries` on, lie in it, aligned; `mask + 1` is a power of
///    two.
/// 3. A mapping that is to be unmapped says so in `owner`; that of a test is somebody else's.
#[derive(Debug)]
struct Memory {
    start: NonNull<u8>,
    bytes: usize,
    offsets: RingOffsets,
    mask: u32,
    owner: Option<u32>,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for Memory {}

impl Memory {
    fn map<T: Entry>(
        socket: &Socket,
        kind: RingKind,
        offsets: RingOffsets,
        entries: u32,
    ) -> Result<Self, Errno> {
        let entries = entries.checked_next_power_of_two().ok_or(Errno::INVAL)?;
        socket.make_ring(kind, entries)?;
        let bytes = usize::try_from(entries).ok().and_then(|nr| nr.checked_mul(size_of::<T>()));
        let bytes = bytes.and_then(|bytes| bytes.checked_add(offsets.entries)).ok_or(Errno::INVAL)?;
        let start = socket.map(kind, bytes)?;
        Ok(Self { start, bytes, offsets, mask: entries.wrapping_sub(1), owner: Some(os::incarnation()) })
    }

    const fn entries(&self) -> u32 {
        self.mask.wrapping_add(1)
    }

    fn number(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: within the mapping (invariant 2).
        let number = unsafe { self.start.add(offset) }.cast::<AtomicU32>();
        // SAFETY: aligned and mapped as long as `self` lives (invariants 1 and 2); the kernel reads and writes it
        // whole, as an atomic does.
        unsafe { number.as_ref() }
    }

    fn producer(&self) -> &AtomicU32 {
        self.number(self.offsets.producer)
    }

    fn consumer(&self) -> &AtomicU32 {
        self.number(self.offsets.consumer)
    }

    fn entry<T: Entry>(&self, number: u32) -> NonNull<T> {
        let index = usize::try_from(number & self.mask).unwrap_or(0);
        // SAFETY: within the mapping (invariant 2).
        let entries = unsafe { self.start.add(self.offsets.entries) }.cast::<T>();
        // SAFETY: the same: `index <= mask`.
        unsafe { entries.add(index) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // A child has no such mapping, and by now something else there.
        if self.owner == Some(os::incarnation()) {
            // SAFETY: its own (invariants 1 and 3), and nothing borrowed from `self` is left.
            unsafe { os::xdp::unmap(self.start, self.bytes) };
        }
    }
}

/// The end that puts entries in. The ring has room for all there can be, so that it is never full.
#[derive(Debug)]
pub(super) struct Producer<T> {
    memory: Memory,
    next: Cell<u32>,
    entry: PhantomData<T>,
}

impl<T: Entry> Producer<T> {
    /// Makes and maps a ring of a socket, for so many entries.
    pub(super) fn new(
        socket: &Socket,
        kind: RingKind,
        offsets: RingOffsets,
        entries: u32,
    ) -> Result<Self, Errno> {
        let memory = Memory::map::<T>(socket, kind, offsets, entries)?;
        Ok(Self { memory, next: Cell::new(0), entry: PhantomData })
    }

    /// Puts one in. Ends the process if the ring is full: then the kernel's number is not one.
    pub(super) fn put(&self, value: T) {
        let next = self.next.get();
        let used = next.wrapping_sub(self.memory.consumer().load(Ordering::Acquire));
        if used >= self.memory.entries() {
            corrupted();
        }
        // SAFETY: mapped, aligned (`Memory` 1 and 2), and the kernel does not read it before the store below.
        unsafe { self.memory.entry::<T>(next).write_volatile(value) };
        let next = next.wrapping_add(1);
        self.next.set(next);
        self.memory.producer().store(next, Ordering::Release);
    }

    /// Whether the kernel has not yet looked at all of them.
    pub(super) fn is_pending(&self) -> bool {
        self.memory.consumer().load(Ordering::Acquire) != self.next.get()
    }

    /// Whether the kernel wants to be told of new entries.
    pub(super) fn needs_wakeup(&self) -> bool {
        // Relaxed: a hint.
        self.memory.number(self.memory.offsets.flags).load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }
}

/// The end that takes entries out.
#[derive(Debug)]
pub(super) struct Consumer<T> {
    memory: Memory,
    next: Cell<u32>,
    /// What the kernel's number was last.
    produced: Cell<u32>,
    entry: PhantomData<T>,
}

impl<T: Entry> Consumer<T> {
    /// Makes and maps a ring of a socket, for so many entries.
    pub(super) fn new(
        socket: &Socket,
        kind: RingKind,
        offsets: RingOffsets,
        entries: u32,
    ) -> Result<Self, Errno> {
        let memory = Memory::map::<T>(socket, kind, offsets, entries)?;
        Ok(Self { memory, next: Cell::new(0), produced: Cell::new(0), entry: PhantomData })
    }

    /// How many are there. Ends the process if that is more than the ring holds.
    pub(super) fn waiting(&self) -> u32 {
        self.produced.set(self.memory.producer().load(Ordering::Acquire));
        let waiting = self.produced.get().wrapping_sub(self.next.get());
        if waiting > self.memory.entries() {
            corrupted();
        }
        waiting
    }

    /// Takes the next one out, if there is one.
    pub(super) fn take(&self) -> Option<T> {
        let next = self.next.get();
        if next == self.produced.get() && self.waiting() == 0 {
            return None;
        }
        // SAFETY: mapped, aligned, any bytes are a value (`Memory` 1 and 2, `Entry`); the kernel has written it before
        // it stored its number, and does not write it again before the store below.
        let value = unsafe { self.memory.entry::<T>(next).read_volatile() };
        let next = next.wrapping_add(1);
        self.next.set(next);
        self.memory.consumer().store(next, Ordering::Release);
        Some(value)
    }
}

/// The rings say what cannot be: memory was overwritten.
#[cold]
pub(super) fn corrupted() -> ! {
    os::abort_with("AF_XDP ring corrupted")
}

#[cfg(test)]
pub(super) mod fake {
    //! Rings in memory of a test, which plays the kernel.

    use super::*;

    const OFFSETS: RingOffsets = RingOffsets { producer: 0, consumer: 64, flags: 68, entries: 128 };

    /// The memory, and both numbers of it.
    pub(in crate::dma::xdp) struct Shared {
        words: Box<[Cell<u64>]>,
        entries: u32,
    }

    impl Shared {
        pub(in crate::dma::xdp) fn new(entries: u32) -> Self {
            Self { words: (0..16 + 2 * entries).map(|_| Cell::new(0)).collect(), entries }
        }

        fn memory(&self) -> Memory {
            let start = NonNull::from(&*self.words).cast();
            let bytes = self.words.len() * 8;
            Memory { start, bytes, offsets: OFFSETS, mask: self.entries - 1, owner: None }
        }

        pub(in crate::dma::xdp) fn producer<T: Entry>(&self) -> Producer<T> {
            self.producer_at(0)
        }

        pub(in crate::dma::xdp) fn consumer<T: Entry>(&self) -> Consumer<T> {
            self.consumer_at(0)
        }

        pub(in crate::dma::xdp) fn producer_at<T: Entry>(&self, next: u32) -> Producer<T> {
            Producer { memory: self.memory(), next: Cell::new(next), entry: PhantomData }
        }

        pub(in crate::dma::xdp) fn consumer_at<T: Entry>(&self, next: u32) -> Consumer<T> {
            let (next, produced) = (Cell::new(next), Cell::new(next));
            Consumer { memory: self.memory(), next, produced, entry: PhantomData }
        }

        pub(in crate::dma::xdp) fn set_producer(&self, number: u32) {
            self.memory().producer().store(number, Ordering::Release);
        }

        pub(in crate::dma::xdp) fn set_consumer(&self, number: u32) {
            self.memory().consumer().store(number, Ordering::Release);
        }
    }
}
