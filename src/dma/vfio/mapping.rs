//! A buffer that devices reach.

use core::fmt;
use core::marker::PhantomData;
use core::mem;

use super::{Container, Direction, Iova};
use crate::dma::DmaBuffer;
use crate::dma::pin::count_quarantined;
use crate::{Error, IommuRefusal};

/// A buffer that the devices of a container reach. Nobody else does, until it is unmapped.
///
/// Dropping it unmaps, then drops the buffer: wiped, flushed, unpinned, in this order. Where the kernel cannot say that it
/// is unmapped the buffer is never freed, and `report().dma()` counts it.
///
/// # Invariants
///
/// 1. In the process that made the container, the pages of `buffer` are mapped at `iova` and nowhere else, as long as
///    `buffer` is there.
#[must_use = "dropping it unmaps and frees the buffer"]
pub struct IommuMapping<'c, D: Direction> {
    container: &'c Container,
    buffer: Option<DmaBuffer>,
    iova: Iova,
    direction: PhantomData<fn() -> D>,
}

impl<'c, D: Direction> IommuMapping<'c, D> {
    /// `buffer` was mapped at `iova` just now.
    pub(super) const fn new(container: &'c Container, buffer: DmaBuffer, iova: Iova) -> Self {
        Self { container, buffer: Some(buffer), iova, direction: PhantomData }
    }

    /// Where devices find it.
    #[must_use]
    pub const fn iova(&self) -> Iova {
        self.iova
    }

    /// Bytes that devices reach: those of its pages.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        self.buffer.as_ref().map_or(0, DmaBuffer::page_bytes)
    }

    /// Unmaps it and gives the buffer back. What a device wrote before is in it; what it writes from here on, transfers
    /// on their way included, does not land.
    ///
    /// One system call, which waits for the IOMMU to forget the translation.
    ///
    /// # Errors
    ///
    /// [`Error::LeftBehind`] in a forked child. [`Error::Iommu`] with [`NotUnmapped`](IommuRefusal::NotUnmapped) where the
    /// kernel refuses, or had something else there: the buffer is quarantined.
    pub fn unmap(mut self) -> Result<DmaBuffer, Error> {
        self.end()
    }

    fn end(&mut self) -> Result<DmaBuffer, Error> {
        let Some(buffer) = self.buffer.take() else { return Err(Error::LeftBehind) };
        if !self.container.is_of_this_process() {
            // The mapping is the parent's, and of the parent's pages; to end it is not up to us. No device reaches the pages
            // of this process, and its copy of the buffer knows what to do.
            drop(buffer);
            return Err(Error::LeftBehind);
        }
        match self.container.unmap(self.iova, buffer.page_bytes()) {
            Ok(()) => Ok(buffer),
            Err(errno) => {
                give_up(buffer);
                Err(Error::Iommu(IommuRefusal::NotUnmapped { errno: errno.0 }))
            }
        }
    }
}

impl<D: Direction> Drop for IommuMapping<'_, D> {
    fn drop(&mut self) {
        if self.buffer.is_some() {
            // Wiped and freed if it was unmapped; quarantined, counted, if not.
            drop(self.end());
        }
    }
}

/// Leaks a buffer: whoever got its pages next would be what the devices reach.
#[expect(clippy::mem_forget, reason = "it must never be freed")]
fn give_up(buffer: DmaBuffer) {
    count_quarantined(buffer.page_bytes());
    mem::forget(buffer);
}

/// Prints no byte.
impl<D: Direction> fmt::Debug for IommuMapping<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IommuMapping")
            .field("iova", &self.iova)
            .field("page_bytes", &self.page_bytes())
            .finish_non_exhaustive()
    }
}

/// A buffer that could not be mapped, and why. Turns into the error alone where `?` asks for that; the buffer is freed then.
#[derive(Debug)]
pub struct NotMapped {
    /// Why.
    pub error: Error,
    /// The buffer, as it was.
    pub buffer: DmaBuffer,
}

impl From<NotMapped> for Error {
    fn from(not_mapped: NotMapped) -> Self {
        let error = not_mapped.error;
        mem::drop(not_mapped);
        error
    }
}

impl fmt::Display for NotMapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl core::error::Error for NotMapped {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::vfio::{Both, Device};

    #[test]
    fn what_belongs_to_a_device_may_go_to_the_thread_that_drives_it() {
        const fn sent<T: Send>() {}
        const fn shared<T: Sync>() {}
        sent::<IommuMapping<'_, Both>>();
        sent::<Device<'_>>();
        sent::<Container>();
        shared::<Container>();
    }
}
