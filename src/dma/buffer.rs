//! The buffer.

// UNSAFETY: lends memory that it owns as slices, and has it registered by address.
#![expect(unsafe_code, reason = "owns a run of pages and lends its bytes, see UNSAFETY above")]

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::slice;

use super::pin::{Pin, Pinning, Wish};
use crate::pages::{DeviceRun, HugePages, Owner, Registered};
use crate::{Error, exit};

/// Memory for a device: page-aligned, guarded on both sides, locked and pinned; derefs to its bytes.
///
/// ```
/// use oubliette::{DmaBuffer, dma::Pinning};
///
/// # fn main() -> Result<(), oubliette::Error> {
/// # let probe = DmaBuffer::builder(1).allow_locked_only().build()?;
/// # if probe.pinning() == Pinning::LockedOnly { return Ok(()) }
/// let mut buffer = DmaBuffer::new(1 << 16)?;
/// buffer[..5].copy_from_slice(b"bytes");
/// assert!(matches!(buffer.pinning(), Pinning::Pinned(_)));
/// # Ok(())
/// # }
/// ```
///
/// # What is protected
///
/// * *Its frames.* The kernel does not move a pinned page: not for compaction, huge pages, KSM, NUMA balancing or
///   memory pressure, and not on `move_pages(2)`. So no copy of what is in it stays behind in another frame.
/// * *Its end.* Dropping it wipes all of its pages, past the CPU's caches, then ends the pin, the lock and the mapping,
///   in this order. [`purge`](crate::purge) and the end of the process wipe it too.
/// * *Other processes.* A forked child finds zeros ([`HugePages::Explicit`]: no bytes at all). It is not in core
///   dumps.
///
/// # What is not
///
/// * A device that was told its address by other means than this crate's is not stopped by dropping it.
/// * A pin lives as long as a file descriptor of this process: one that closes all of its descriptors ends it
///   without a word. [`pinning`](Self::pinning) notices, and [`report`](crate::report()) for buffers that no ring was used
///   with.
///
/// # Cost
///
/// About 10 system calls to make, 4 to drop, and the faults of its pages. Keep buffers instead of making new ones:
/// unmapping memory interrupts every other running thread of the process (`docs/mitigations/dma.md`). Its pages count
/// against `RLIMIT_MEMLOCK` twice, once as locked and once as pinned, in separate sums.
///
/// # Invariants
///
/// 1. `len` is at most the bytes of `run`.
/// 2. `pin`, if there is one, is of the data of `run`, and ends before `run` is dropped.
/// 3. Nobody but the holder of this value touches the bytes: no transfer is under way, no device has them mapped.
///    Who starts either owns or borrows the value until it has ended.
pub struct DmaBuffer {
    len: usize,
    registered: Option<Registered>,
    pin: Pin,
    run: DeviceRun,
}

impl DmaBuffer {
    /// A buffer of this many bytes, all zero, locked and pinned.
    ///
    /// # Errors
    ///
    /// [`Error::LockLimit`] or [`Error::PinLimit`] at the limit of locked or pinned memory, [`Error::NoPins`] where
    /// io_uring is forbidden or missing, [`Error::TooLarge`] above 1 GiB, and what the system says else.
    pub fn new(bytes: usize) -> Result<Self, Error> {
        Self::builder(bytes).build()
    }

    /// A buffer with a choice of pages, or one that may be locked only.
    pub const fn builder(bytes: usize) -> DmaBufferBuilder {
        DmaBufferBuilder { bytes, pages: HugePages::Off, wish: Wish::Required }
    }

    /// Whether the kernel may move it, asked now.
    #[must_use]
    pub fn pinning(&self) -> Pinning {
        self.pin.state()
    }

    /// What its pages are. [`HugePages::Transparent`]: all of them were huge when it was made.
    #[must_use]
    pub const fn huge_pages(&self) -> HugePages {
        self.run.pages()
    }

    /// Bytes of the pages that hold it: its size, rounded up. Guards are not counted.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        self.run.data().1
    }

    /// Turns all of it to zeros, past the CPU's caches.
    pub fn wipe(&mut self) {
        self.run.wipe();
    }

    /// Registers it in the table of a ring, if it is not there yet, and returns its slot. The pin that it had ends
    /// after that, so that it is pinned at every moment and counted once.
    #[cfg(all(feature = "io-uring", target_os = "linux", not(any(miri, loom, oubliette_portable))))]
    pub(super) fn attach(&mut self, ring: &std::sync::Arc<super::ring::Shared>) -> Result<u16, Error> {
        if let Pin::Ring(registration) = &self.pin
            && registration.is_of(ring)
        {
            return registration.slot();
        }
        // SAFETY: the registration becomes the pin of this buffer, whose drop ends it first (invariant 2).
        let registration = unsafe { super::ring::Registration::new(ring, &self.run) }?;
        let slot = registration.slot()?;
        self.pin.end();
        self.pin = Pin::Ring(registration);
        if let Some(registered) = &self.registered {
            registered.note(Owner::RingBuffer);
        }
        Ok(slot)
    }

    /// Its pages: the first byte, and how many bytes. For those who have a device use them: they own or borrow this
    /// buffer for that time (invariant 3).
    #[allow(dead_code, reason = "for owners of transfers and mappings, which are features")]
    pub(crate) fn region(&self) -> (NonNull<u8>, usize) {
        self.run.data()
    }
}

impl DmaBuffer {
    /// Where its bytes are, and how many this process has: a child may have none.
    fn bytes(&self) -> (NonNull<u8>, usize) {
        let (data, _) = self.run.data();
        (data, if self.run.is_mapped_here() { self.len } else { 0 })
    }
}

/// Makes a [`DmaBuffer`].
#[derive(Clone, Copy, Debug)]
#[must_use = "it makes nothing until `build`"]
pub struct DmaBufferBuilder {
    bytes: usize,
    pages: HugePages,
    wish: Wish,
}

impl DmaBufferBuilder {
    /// Chooses the size of its pages. With huge pages its memory is rounded up to whole ones, of 2 MiB.
    pub const fn huge_pages(self, pages: HugePages) -> Self {
        Self { pages, ..self }
    }

    /// Also accepts memory that is locked but not pinned, where the kernel refuses to pin it:
    /// [`pinning`](DmaBuffer::pinning) tells, and [`report`](crate::report()) counts it.
    pub const fn allow_locked_only(self) -> Self {
        Self { wish: Wish::BestEffort, ..self }
    }

    /// Makes it.
    ///
    /// # Errors
    ///
    /// As for [`DmaBuffer::new`], and [`Error::HugePages`] where the pool has too few.
    pub fn build(self) -> Result<DmaBuffer, Error> {
        let run = DeviceRun::new(self.bytes, self.pages)?;
        // SAFETY: on success the pin is the buffer's, whose drop ends it first (invariant 2).
        let pin = unsafe { Pin::new(&run, self.wish) }?;
        let owner = if matches!(pin, Pin::Absent) { Owner::LockedBuffer } else { Owner::PinnedBuffer };
        let (data, bytes) = run.data();
        let mut buffer = DmaBuffer { len: self.bytes, registered: None, pin, run };
        exit::arm();
        // SAFETY: mapped, readable and writable until the drop of `run`, before which `drop` ends this.
        let registered = unsafe { Registered::new(data, bytes, owner) };
        buffer.registered = Some(registered.ok_or(Error::MappingLimit)?);
        Ok(buffer)
    }
}

impl Deref for DmaBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let (data, len) = self.bytes();
        // SAFETY: mapped and readable, at least `len` bytes (invariant 1), zeros at first and only ever written as
        // bytes; no device writes to them while this value can be borrowed (invariant 3).
        unsafe { slice::from_raw_parts(data.as_ptr(), len) }
    }
}

impl DerefMut for DmaBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let (data, len) = self.bytes();
        // SAFETY: as for `deref`; writable too, and `&mut self` keeps everybody else out.
        unsafe { slice::from_raw_parts_mut(data.as_ptr(), len) }
    }
}

impl Drop for DmaBuffer {
    fn drop(&mut self) {
        // No device touches it any more (invariant 3). Wiped and flushed; then out of the registry, since `purge` must
        // find what is not yet wiped and must not find what is gone; then unpinned. Unlocked and unmapped when
        // `run`, the last field, is dropped.
        self.run.wipe();
        if let Some(registered) = self.registered.take() {
            registered.end();
        }
        self.pin.end();
    }
}

/// Prints no byte.
impl fmt::Debug for DmaBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaBuffer").field("len", &self.len).finish_non_exhaustive()
    }
}
