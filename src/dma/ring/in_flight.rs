//! A transfer under way.

// UNSAFETY: lends the memory of a buffer that it owns to the kernel.
#![expect(unsafe_code, reason = "starts transfers on memory that it owns, see UNSAFETY above")]

use core::fmt;
use core::future::Future;
use core::mem::ManuallyDrop;
use core::ops::Range;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use super::Shared;
use super::descriptor::Descriptor;
use super::shared::{Lost, Ticket};
use crate::dma::{DmaBuffer, pin};
use crate::os::Errno;
use crate::os::queue::{Direction, Request};
use crate::{Error, Operation};

/// How long the end of a transfer is waited for, when its owner is dropped, before the kernel is asked again to
/// cancel it.
const WAIT_FOR_END: Duration = Duration::from_millis(250);
/// How often it is asked: for 5 seconds.
const ATTEMPTS_TO_CANCEL: u32 = 20;

/// What a transfer can own: a [`DmaBuffer`], or one of a [`BufferPool`](super::BufferPool).
pub trait TransferBuffer: private::Sealed + Send + Unpin + 'static {}

impl TransferBuffer for DmaBuffer {}

pub(super) mod private {
    use super::DmaBuffer;

    /// Nobody else implements it.
    pub trait Sealed {
        #[doc(hidden)]
        fn buffer(&mut self) -> &mut DmaBuffer;
    }

    impl Sealed for DmaBuffer {
        fn buffer(&mut self) -> &mut DmaBuffer {
            self
        }
    }
}

/// A transfer under way. It owns its buffer and its file: no byte can be seen or changed meanwhile, and the file
/// may be closed.
///
/// Wait for its end with [`wait`](Self::wait), ask with [`try_wait`](Self::try_wait), end it early with
/// [`cancel`](Self::cancel), or `.await` it in any runtime. `n`, the bytes transferred, may be less than asked
/// for, as with `read(2)` and `write(2)`: 0 is the end of a file, and the rest of the buffer is as it was.
///
/// # Dropping it
///
/// cancels the transfer and waits for its end, then drops the buffer. A wait on a pipe or a socket is cancelled at once;
/// a disk has to finish. If it has not ended after 5 seconds, or the kernel does not answer, the
/// buffer is given up for good: it stays mapped and pinned, nobody gets it, and
/// [`report`](crate::report()) counts it as quarantined.
///
/// Forgetting it (`mem::forget`) leaks the buffer, and its place in the ring.
///
/// # What purge and the end of the process cannot do
///
/// They wipe the buffer, but do not stop the transfer, which may write to it afterwards.
///
/// # Invariants
///
/// 1. While `flying` is there, the transfer of its ticket may be under way.
/// 2. Its request lies within the data of its buffer, which is registered in that slot of that ring, and names its
///    descriptor.
#[must_use = "dropped, it is cancelled"]
pub struct InFlight<B: TransferBuffer = DmaBuffer> {
    flying: Option<Flying<B>>,
}

struct Flying<B> {
    buffer: B,
    descriptor: Descriptor,
    request: Request,
    ticket: Ticket,
    ring: Arc<Shared>,
    intent: Intent,
}

/// What the owner wants of a transfer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Intent {
    Finish,
    Cancel,
}

/// What [`InFlight::try_wait`] found.
#[derive(Debug)]
pub enum Attempt<B: TransferBuffer = DmaBuffer> {
    /// It has ended: the buffer, and the bytes transferred.
    Done(Result<(B, usize), TransferError<B>>),
    /// It has not.
    Pending(InFlight<B>),
}

impl<B: TransferBuffer> InFlight<B> {
    pub(super) fn start(
        ring: &Arc<Shared>,
        direction: Direction,
        mut buffer: B,
        part: Range<usize>,
        descriptor: Descriptor,
        offset: u64,
    ) -> Result<Self, TransferError<B>> {
        let slot = match buffer.buffer().attach(ring) {
            Ok(slot) => slot,
            Err(error) => return Err(TransferError::new(error, buffer)),
        };
        let Ok(len) = u32::try_from(part.len()) else {
            return Err(TransferError::new(Error::TooLarge, buffer));
        };
        let (data, _) = buffer.buffer().region();
        // SAFETY: the caller's part is within the buffer.
        let start = unsafe { data.add(part.start) };
        let request = Request { direction, descriptor: descriptor.number(), start, len, slot, offset };
        // SAFETY: the bytes are the buffer's and registered in this slot of this ring. On success the buffer and the
        // descriptor are kept below, out of everybody's reach, until the result was given.
        match unsafe { ring.start(&request) } {
            Ok(ticket) => {
                let ring = Arc::clone(ring);
                let intent = Intent::Finish;
                Ok(Self { flying: Some(Flying { buffer, descriptor, request, ticket, ring, intent }) })
            }
            Err(error) => Err(TransferError::new(error, buffer)),
        }
    }

    /// Waits for the end: the buffer, and the bytes transferred.
    ///
    /// # Errors
    ///
    /// What the kernel says about the transfer. The error has the buffer, unless the end of the transfer could
    /// not be found out: then it is quarantined.
    pub fn wait(mut self) -> Result<(B, usize), TransferError<B>> {
        loop {
            let Some(flying) = &self.flying else { return Err(TransferError::gone()) };
            let result = flying.ring.wait(flying.ticket, None);
            if let Some(done) = self.settle(result) {
                return done;
            }
        }
    }

    /// The end, if it has come.
    pub fn try_wait(mut self) -> Attempt<B> {
        let Some(flying) = &self.flying else { return Attempt::Done(Err(TransferError::gone())) };
        match flying.ring.try_take(flying.ticket).transpose() {
            None => Attempt::Pending(self),
            Some(result) => match self.settle(result) {
                Some(done) => Attempt::Done(done),
                None => Attempt::Pending(self),
            },
        }
    }

    /// Ends it early, and waits until it has ended.
    ///
    /// # Errors
    ///
    /// `ECANCELED`, with the buffer, if it was cancelled. It may have come to an end before, or transferred a part: then
    /// this is what [`wait`](Self::wait) returns.
    pub fn cancel(mut self) -> Result<(B, usize), TransferError<B>> {
        self.ask_to_cancel();
        self.wait()
    }

    fn ask_to_cancel(&mut self) {
        if let Some(flying) = &mut self.flying {
            flying.intent = Intent::Cancel;
            flying.ring.cancel(flying.ticket);
        }
    }

    /// What the result of the ticket means. Nothing: the transfer is under way again.
    fn settle(&mut self, result: Result<i32, Lost>) -> Option<Result<(B, usize), TransferError<B>>> {
        let mut flying = self.flying.take()?;
        let result = match result {
            Ok(result) => result,
            // The kernel never touched this process's copy of the buffer, and never will.
            Err(Lost::LeftBehind) => {
                return Some(Err(TransferError::new(Error::LeftBehind, flying.buffer)));
            }
            Err(lost) => {
                quarantine(flying);
                return Some(Err(TransferError { error: lost.error(), buffer: None }));
            }
        };
        if let Ok(bytes) = usize::try_from(result) {
            return Some(Ok((flying.buffer, bytes)));
        }
        if result == -Errno::CANCELED.0 && flying.intent == Intent::Finish {
            // Nobody asked for that: the thread that had submitted it has ended, and the kernel ends with a thread
            // what it has not begun yet. So it is begun again.
            // SAFETY: as in `start`, by invariant 2: the first one has ended.
            match unsafe { flying.ring.start(&flying.request) } {
                Ok(ticket) => {
                    flying.ticket = ticket;
                    self.flying = Some(flying);
                    return None;
                }
                Err(error) => return Some(Err(TransferError::new(error, flying.buffer))),
            }
        }
        let error = Error::Os { operation: Operation::Transfer, errno: result.saturating_neg() };
        Some(Err(TransferError::new(error, flying.buffer)))
    }
}

impl<B: TransferBuffer> Future for InFlight<B> {
    type Output = Result<(B, usize), TransferError<B>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let Some(flying) = &self.flying else { return Poll::Ready(Err(TransferError::gone())) };
            let Some(result) = flying.ring.poll(flying.ticket, context.waker()).transpose() else {
                return Poll::Pending;
            };
            if let Some(done) = self.settle(result) {
                return Poll::Ready(done);
            }
        }
    }
}

impl<B: TransferBuffer> Drop for InFlight<B> {
    fn drop(&mut self) {
        if self.flying.is_none() {
            return;
        }
        let mut attempts = ATTEMPTS_TO_CANCEL;
        loop {
            // Again and again: a request to cancel can fail, or come while the kernel has just begun.
            self.ask_to_cancel();
            let Some(flying) = &self.flying else { return };
            let until = Instant::now().checked_add(WAIT_FOR_END);
            let ended = flying.ring.wait(flying.ticket, until);
            attempts = attempts.saturating_sub(1);
            match ended {
                // In a child the kernel never touched this process's copy of the buffer.
                Ok(_) | Err(Lost::LeftBehind) => return drop(self.flying.take()),
                Err(Lost::Late) if attempts > 0 => {}
                Err(Lost::Broken(_) | Lost::Late) => return self.flying.take().map_or((), quarantine),
            }
        }
    }
}

/// Gives up all that a transfer may still use: the buffer, its registration, the ring, the descriptor.
#[cold]
fn quarantine<B: TransferBuffer>(flying: Flying<B>) {
    let mut flying = ManuallyDrop::new(flying);
    pin::count_quarantined(flying.buffer.buffer().page_bytes());
}

/// Prints no byte.
impl<B: TransferBuffer> fmt::Debug for InFlight<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.flying.as_ref().map(|flying| flying.request.len);
        let file = self.flying.as_ref().map(|flying| flying.descriptor.number());
        f.debug_struct("InFlight").field("bytes", &bytes).field("file", &file).finish_non_exhaustive()
    }
}

/// A transfer that failed, with its buffer. Turns into an [`Error`] with `?`, which drops the buffer.
pub struct TransferError<B: TransferBuffer = DmaBuffer> {
    error: Error,
    buffer: Option<B>,
}

impl<B: TransferBuffer> TransferError<B> {
    pub(super) const fn new(error: Error, buffer: B) -> Self {
        Self { error, buffer: Some(buffer) }
    }

    /// A future that was polled after its end.
    const fn gone() -> Self {
        let error = Error::Os { operation: Operation::Transfer, errno: Errno::INVAL.0 };
        Self { error, buffer: None }
    }

    /// What went wrong.
    #[must_use]
    pub const fn error(&self) -> Error {
        self.error
    }

    /// The buffer, unless it had to be quarantined.
    #[must_use]
    pub fn into_buffer(self) -> Option<B> {
        self.buffer
    }
}

impl<B: TransferBuffer> From<TransferError<B>> for Error {
    fn from(failed: TransferError<B>) -> Self {
        failed.error
    }
}

impl<B: TransferBuffer> fmt::Debug for TransferError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransferError").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<B: TransferBuffer> fmt::Display for TransferError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<B: TransferBuffer> core::error::Error for TransferError<B> {}
