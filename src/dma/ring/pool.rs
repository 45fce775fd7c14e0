//! Buffers kept ready.

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use super::Ring;
use super::in_flight::{TransferBuffer, private};
use crate::dma::DmaBuffer;
use crate::pages::{claim_slot, release_slot};
use crate::{Error, dma::Pinning};

/// Buffers of one size that share a ring, made and registered ahead. Taking one and giving it back makes no
/// system call and takes no lock; each is wiped, past the CPU's caches, when it is given back.
///
/// ```
/// use oubliette::dma::{BufferPool, Ring};
///
/// # fn main() -> Result<(), oubliette::Error> {
/// # if oubliette::DmaBuffer::new(1).is_err() { return Ok(()) }
/// let ring = Ring::new(8)?;
/// let pool = BufferPool::new(&ring, 8, 4096)?;
/// let mut buffer = pool.take().expect("all are there");
/// buffer[0] = 7;
/// drop(buffer); // wiped, and back in the pool
/// assert_eq!(pool.take().expect("all are there")[0], 0);
/// # Ok(())
/// # }
/// ```
///
/// A handle: clones are the same pool, and threads may share one. Its buffers are freed when the last handle and the
/// last buffer taken from it are gone.
#[derive(Clone)]
pub struct BufferPool {
    slots: Arc<Slots>,
}

/// # Invariants
///
/// 1. Only who has a slot's bit in `taken` touches its mutex, so that this is never waited for; while the bit is clear
///    the buffer is in it, all zero.
struct Slots {
    taken: Box<[AtomicU64]>,
    buffers: Box<[Mutex<Option<DmaBuffer>>]>,
}

impl BufferPool {
    /// Makes so many buffers of this many bytes and registers them in the ring.
    ///
    /// # Errors
    ///
    /// As for [`DmaBuffer::new`] and [`Ring::attach`].
    pub fn new(ring: &Ring, buffers: u32, bytes: usize) -> Result<Self, Error> {
        let made: Result<Box<[_]>, Error> = (0..buffers)
            .map(|_| {
                let mut buffer = DmaBuffer::new(bytes)?;
                ring.attach(&mut buffer)?;
                Ok(Mutex::new(Some(buffer)))
            })
            .collect();
        let taken = (0..buffers.div_ceil(u64::BITS)).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { slots: Arc::new(Slots { taken, buffers: made? }) })
    }

    /// One of the buffers, all zero; nothing if all are taken.
    #[must_use]
    pub fn take(&self) -> Option<PooledBuffer> {
        let nr_buffers = u32::try_from(self.slots.buffers.len()).ok()?;
        let index = claim_slot(&self.slots.taken, nr_buffers)?;
        let buffer = self.slots.place(index)?.try_lock().ok()?.take()?;
        Some(PooledBuffer { buffer: Some(buffer), index, slots: Arc::clone(&self.slots) })
    }
}

impl Slots {
    fn place(&self, index: u32) -> Option<&Mutex<Option<DmaBuffer>>> {
        self.buffers.get(usize::try_from(index).ok()?)
    }
}

/// A buffer of a [`BufferPool`]; derefs to its bytes. Dropped, it is wiped and goes back.
pub struct PooledBuffer {
    /// There until the drop.
    buffer: Option<DmaBuffer>,
    index: u32,
    slots: Arc<Slots>,
}

impl PooledBuffer {
    /// Whether the kernel may move it, asked now.
    #[must_use]
    pub fn pinning(&self) -> Pinning {
        self.buffer.as_ref().map_or(Pinning::LockedOnly, DmaBuffer::pinning)
    }
}

impl TransferBuffer for PooledBuffer {}

impl private::Sealed for PooledBuffer {
    fn buffer(&mut self) -> &mut DmaBuffer {
        match &mut self.buffer {
            Some(buffer) => buffer,
            None => unreachable!("taken in the drop only"),
        }
    }
}

impl Deref for PooledBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.buffer.as_deref().unwrap_or(&[])
    }
}

impl DerefMut for PooledBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.buffer.as_deref_mut().unwrap_or(&mut [])
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        let Some(mut buffer) = self.buffer.take() else { return };
        buffer.wipe();
        let place = self.slots.place(self.index).map(Mutex::try_lock);
        // Always free for who has the bit.
        if let Some(Ok(mut place)) = place {
            *place = Some(buffer);
            drop(place);
            release_slot(&self.slots.taken, self.index);
        }
    }
}

/// Prints no byte.
impl fmt::Debug for PooledBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledBuffer").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool").field("buffers", &self.slots.buffers.len()).finish_non_exhaustive()
    }
}
