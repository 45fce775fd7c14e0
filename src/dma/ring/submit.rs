//! The ring, as its users see it.

use core::fmt;
use core::ops::{Bound, RangeBounds};
use core::sync::atomic::AtomicU64;
use std::sync::Arc;

use super::descriptor::{Offset, Source};
use super::in_flight::{InFlight, TransferBuffer, TransferError};
use super::shared::{Shared, State};
use crate::dma::DmaBuffer;
use crate::os::Errno;
use crate::os::queue::{Direction, Queue};
use crate::{Error, Operation};

/// Buffers that a ring has places for unless it is told otherwise: a larger table costs more to make.
const USUAL_BUFFERS: u32 = 1024;

/// An io_uring that moves bytes between pinned buffers and files, sockets and pipes, without copies
/// on the way where the file is opened for that (`O_DIRECT`).
///
/// ```
/// use oubliette::{DmaBuffer, dma::Ring};
/// use std::io::Write as _;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # if DmaBuffer::new(1).is_err() { return Ok(()) }
/// let (from, mut to) = std::io::pipe()?;
/// let ring = Ring::new(64)?;
/// let buffer = DmaBuffer::new(4096)?;
///
/// let in_flight = ring.read(buffer, &from, 0)?; // owns the buffer: no byte can be touched meanwhile
/// to.write_all(b"bytes")?;
/// let (buffer, n) = in_flight.wait()?;          // dropped instead: cancelled and waited for
/// assert_eq!(&buffer[..n], b"bytes");
/// # Ok(())
/// # }
/// ```
///
/// A handle: clones are the same ring, and threads may share one. It is closed when the last handle, the last
/// transfer, and the last buffer that was used with it are gone, so the order in which they are dropped does not
/// matter. A child made by fork cannot use it ([`Error::LeftBehind`]) and may drop what it inherited.
///
/// # Cost
///
/// About 100 µs to make. A transfer costs one system call to start and, unless it has ended by then, one to wait; a
/// file that is not a [`Descriptor`](super::Descriptor) two more, for a duplicate of it. A buffer's first
/// transfer registers it in the ring, where it stays until it is dropped. `docs/mitigations/dma.md` has figures, also of
/// where this does not pay.
#[derive(Clone)]
pub struct Ring {
    shared: Arc<Shared>,
}

impl Ring {
    /// A ring for so many transfers at once, rounded up to a power of two, and 1,024 buffers.
    ///
    /// # Errors
    ///
    /// [`Error::NoPins`] where io_uring is forbidden or missing (it takes Linux 5.19), and what the system says else:
    /// `EINVAL` for 0 or more than 32,768 transfers.
    pub fn new(transfers: u32) -> Result<Self, Error> {
        Self::with_buffers(transfers, USUAL_BUFFERS)
    }

    /// The same for another number of buffers, up to 16,384.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn with_buffers(transfers: u32, buffers: u32) -> Result<Self, Error> {
        let queue = Queue::new(transfers, buffers, State::new).map_err(|errno| match errno {
            Errno::PERM | Errno::NOSYS => Error::NoPins { errno: errno.0 },
            Errno(errno) => Error::Os { operation: Operation::Transfer, errno },
        })?;
        let slots = (0..buffers.div_ceil(u64::BITS)).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { shared: Arc::new(Shared { queue, slots, nr_slots: buffers }) })
    }

    /// Registers a buffer ahead, so that its first transfer does not have to. Its pin is this ring's from then on.
    ///
    /// # Errors
    ///
    /// [`Error::TooManyBuffers`]; [`Error::PinLimit`], since for a moment it is pinned twice.
    pub fn attach(&self, buffer: &mut DmaBuffer) -> Result<(), Error> {
        buffer.attach(&self.shared).map(drop)
    }

    /// Starts to read from a file into a buffer, as many bytes as it has or the file gives.
    ///
    /// # Errors
    ///
    /// Nothing was started, and the error has the buffer: [`Error::TooManyTransfers`], [`Error::TooManyBuffers`],
    /// [`Error::PinLimit`], [`Error::TooLarge`] for an offset above `i64::MAX`. What the kernel finds wrong with the
    /// file comes with the end of the transfer.
    pub fn read<B: TransferBuffer>(
        &self,
        buffer: B,
        file: impl Source,
        offset: impl Into<Offset>,
    ) -> Result<InFlight<B>, TransferError<B>> {
        self.start(Direction::Read, buffer, .., file, offset)
    }

    /// Starts to write a buffer to a file.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    pub fn write<B: TransferBuffer>(
        &self,
        buffer: B,
        file: impl Source,
        offset: impl Into<Offset>,
    ) -> Result<InFlight<B>, TransferError<B>> {
        self.start(Direction::Write, buffer, .., file, offset)
    }

    /// Starts to read into a part of a buffer: the rest of a transfer that moved fewer bytes than it was asked to.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read), and [`Error::TooLarge`] for a part that is not within the buffer.
    pub fn read_part<B: TransferBuffer>(
        &self,
        buffer: B,
        part: impl RangeBounds<usize>,
        file: impl Source,
        offset: impl Into<Offset>,
    ) -> Result<InFlight<B>, TransferError<B>> {
        self.start(Direction::Read, buffer, part, file, offset)
    }

    /// Starts to write a part of a buffer.
    ///
    /// # Errors
    ///
    /// As for [`read_part`](Self::read_part).
    pub fn write_part<B: TransferBuffer>(
        &self,
        buffer: B,
        part: impl RangeBounds<usize>,
        file: impl Source,
        offset: impl Into<Offset>,
    ) -> Result<InFlight<B>, TransferError<B>> {
        self.start(Direction::Write, buffer, part, file, offset)
    }

    #[cfg(test)]
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    fn start<B: TransferBuffer>(
        &self,
        direction: Direction,
        mut buffer: B,
        part: impl RangeBounds<usize>,
        file: impl Source,
        offset: impl Into<Offset>,
    ) -> Result<InFlight<B>, TransferError<B>> {
        let len = buffer.buffer().len();
        let Some((start, end)) = within(&part, len) else {
            return Err(TransferError::new(Error::TooLarge, buffer));
        };
        let wanted = offset.into().encode().and_then(|offset| Ok((file.into_descriptor()?, offset)));
        match wanted {
            Ok((descriptor, offset)) => {
                InFlight::start(&self.shared, direction, buffer, start..end, descriptor, offset)
            }
            Err(error) => Err(TransferError::new(error, buffer)),
        }
    }
}

/// Both ends of a part, if it is one of so many bytes.
fn within(part: &impl RangeBounds<usize>, len: usize) -> Option<(usize, usize)> {
    let start = match part.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.checked_add(1)?,
        Bound::Unbounded => 0,
    };
    let end = match part.end_bound() {
        Bound::Included(last) => last.checked_add(1)?,
        Bound::Excluded(end) => *end,
        Bound::Unbounded => len,
    };
    (start <= end && end <= len).then_some((start, end))
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}
