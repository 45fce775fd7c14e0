//! A buffer's place in the table of a ring.

// UNSAFETY: has memory registered by address.
#![expect(unsafe_code, reason = "forwards the address of a run to the ring's table")]

use std::sync::Arc;

use super::Shared;
use crate::dma::pin::refused;
use crate::os::Errno;
use crate::pages::{DeviceRun, claim_slot, release_slot};
use crate::{Error, os};

/// A registered run. Pinned by it until it is dropped; the ring stays open as long.
#[derive(Debug)]
pub(in crate::dma) struct Registration {
    ring: Arc<Shared>,
    slot: u32,
}

impl Registration {
    /// Registers a run's data.
    ///
    /// # Safety
    ///
    /// - The registration is dropped before the run.
    pub(in crate::dma) unsafe fn new(ring: &Arc<Shared>, run: &DeviceRun) -> Result<Self, Error> {
        let (data, bytes) = run.data();
        if !ring.queue.is_ours() {
            return Err(Error::LeftBehind);
        }
        let limit = ring.nr_slots;
        let slot = claim_slot(&ring.slots, limit).ok_or(Error::TooManyBuffers { limit })?;
        // SAFETY: a run's data was reserved, and stays so until the run is dropped.
        if let Err(errno) = unsafe { ring.queue.register(slot, data, bytes) } {
            release_slot(&ring.slots, slot);
            return Err(refused(errno, bytes));
        }
        Ok(Self { ring: Arc::clone(ring), slot })
    }

    /// Whether it is in the table of this ring.
    pub(in crate::dma) fn is_of(&self, ring: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.ring, ring)
    }

    /// Whether it still pins.
    pub(in crate::dma) fn is_alive(&self) -> bool {
        self.ring.queue.is_alive()
    }

    /// The number by which requests name it.
    pub(in crate::dma) fn slot(&self) -> Result<u16, Error> {
        u16::try_from(self.slot).map_err(|_| refused(Errno::INVAL, os::page_size()))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // If the kernel refuses, the slot stays taken and its frames pinned, wiped, until the ring is closed.
        if self.ring.queue.unregister(self.slot).is_ok() {
            release_slot(&self.ring.slots, self.slot);
        }
    }
}
