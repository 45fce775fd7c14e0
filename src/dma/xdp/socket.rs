//! The socket.

use core::fmt;
use core::time::Duration;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use super::end::{Patience, Witness};
use super::frames::{Frames, State};
use super::interface::Interface;
use super::live::Live;
use super::options::{Transfer, XdpOptions};
use super::packet::{Frame, Packet};
use super::rings::Rings;
use super::umem::Umem;
use super::{MOST_BATCHES, refused};
use crate::os::xdp::{Socket, Wake};
use crate::os::{self, Errno};
use crate::{DmaBuffer, Error, Operation, XdpRefusal};

/// How long to wait for a queue whose last socket the kernel is still letting go of.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long to sleep in the kernel without asking whether the interface is still there.
const NAP: Duration = Duration::from_secs(1);

/// A socket that receives from, and sends by, one queue of an interface, with packets in the memory of a
/// [`DmaBuffer`].
///
/// ```no_run
/// use oubliette::DmaBuffer;
/// use oubliette::dma::xdp::{Attach, FrameSize, Interface, Umem, XdpOptions, XdpSocket};
///
/// let interface = Interface::attach("eth0", Attach::Generic)?;
/// let umem = Umem::new(DmaBuffer::new(1 << 20)?, FrameSize::Bytes2048);
/// let socket = XdpSocket::bind(umem, &interface, 0, XdpOptions::new())?;
/// while socket.wait(None)? > 0 {
///     while let Some(packet) = socket.receive() {
///         println!("{} bytes", packet.len());
///     } // dropped: wiped, and its frame can receive again
/// }
/// # Ok::<(), oubliette::Error>(())
/// ```
///
/// # Order
///
/// A packet borrows the socket, the socket owns the memory. Dropping the socket takes the program off the queue, closes
/// the socket, waits until the kernel has let go of the memory, and only then wipes, unpins and unmaps it. If that does
/// not come within two seconds, since another process has the descriptor, the memory is left alone for good:
/// *quarantined*, counted by [`report`](crate::report()).
///
/// # Threads, forks
///
/// It may be sent to another thread, not shared: give each its queue. In a forked child nothing is ever received, and
/// dropping what was inherited closes the child's descriptors. As long as one has them, the parent's memory cannot be
/// freed (see above).
///
/// ```compile_fail,E0277
/// # fn shared(socket: oubliette::dma::xdp::XdpSocket) {
/// std::thread::scope(|threads| { threads.spawn(|| drop(socket.receive())); });
/// # }
/// ```
///
/// # Cost
///
/// Two descriptors; 16 bytes of kernel memory for each frame in each of two rings, 8 in the other two. Receiving and
/// dropping packets makes no system call. To drop the socket takes tens of milliseconds.
pub struct XdpSocket {
    /// There until the drop.
    live: Option<Live>,
}

impl XdpSocket {
    /// Binds a socket to a queue, and has the program hand it what comes in by that. To be called in the network
    /// namespace of the interface.
    ///
    /// # Errors
    ///
    /// [`Error::PinLimit`] at the limit of locked memory, to which the memory of a socket is charged once more, besides
    /// the buffer's own pin; [`Error::Xdp`] for what the kernel, the interface or the user's rights do not allow. The
    /// memory comes back with it.
    pub fn bind(
        umem: Umem,
        interface: &Interface,
        queue: u32,
        options: XdpOptions,
    ) -> Result<Self, BindError> {
        let ready = match ready(&umem, interface, queue, options) {
            Ok(ready) => ready,
            Err(error) => return Err(BindError { error, umem: Some(umem) }),
        };
        let Ready { socket, witness, rings, frames, is_zero_copy } = ready;
        let live = Live {
            rings,
            frames,
            wipe: options.wipe,
            is_zero_copy,
            owner: os::incarnation(),
            socket,
            witness,
            interface: interface.clone(),
            queue,
            umem,
        };
        match live.interface.map().set(queue, &live.socket) {
            Ok(()) => Ok(Self { live: Some(live) }),
            Err(errno) => Err(BindError { error: refused(errno), umem: live.end().ok() }),
        }
    }

    /// The next packet, if one is there. Any number of them may be held; as long as one is, its frame cannot receive.
    #[must_use]
    pub fn receive(&self) -> Option<Packet<'_>> {
        let live = self.here()?;
        let Some(descriptor) = live.rings.receive.take() else {
            if live.rings.fill.needs_wakeup() {
                // A driver that sleeps. What it says shows in `wait`.
                let _ = live.socket.wake(Wake::Receive);
            }
            return None;
        };
        Some(Packet::new(live, descriptor))
    }

    /// Waits until a packet is there, or for so long. The number of packets that are there.
    ///
    /// # Errors
    ///
    /// [`XdpRefusal::InterfaceDown`] where the interface is down or gone, [`Error::LeftBehind`] in a forked child.
    pub fn wait(&self, longest: Option<Duration>) -> Result<u32, Error> {
        let live = self.here().ok_or(Error::LeftBehind)?;
        let end = longest.map(|longest| Instant::now().checked_add(longest));
        loop {
            let waiting = live.rings.receive.waiting();
            if waiting > 0 {
                return Ok(waiting);
            }
            live.wake(Wake::Receive)?;
            let left = match end {
                None | Some(None) => NAP,
                Some(Some(end)) => end.saturating_duration_since(Instant::now()),
            };
            match live.socket.wait(Some(left.min(NAP))) {
                Ok(()) | Err(Errno::INTR) => {}
                Err(errno) => return Err(refused(errno)),
            }
            if left.is_zero() {
                return Ok(live.rings.receive.waiting());
            }
        }
    }

    /// A frame for a packet of so many bytes.
    ///
    /// # Errors
    ///
    /// [`XdpRefusal::NoFrame`] as long as all of those to send are in use, [`Error::TooLarge`] for more than a frame,
    /// [`Error::LeftBehind`] in a forked child.
    pub fn reserve(&self, bytes: usize) -> Result<Frame<'_>, Error> {
        let live = self.here().ok_or(Error::LeftBehind)?;
        let len = u32::try_from(bytes).ok().filter(|len| *len <= live.frames.frame_bytes());
        let len = len.ok_or(Error::TooLarge)?;
        live.reap();
        let frame = live.frames.take(State::Held).ok_or(Error::Xdp(XdpRefusal::NoFrame))?;
        Ok(Frame::new(live, frame, len))
    }

    /// Sends what was [submitted](Frame::submit): a system call for each 32 packets or so.
    ///
    /// # Errors
    ///
    /// [`XdpRefusal::InterfaceDown`]. What could not be sent stays submitted.
    pub fn transmit(&self) -> Result<(), Error> {
        let live = self.here().ok_or(Error::LeftBehind)?;
        for _ in 0..MOST_BATCHES {
            if !live.rings.transmit.is_pending() {
                break;
            }
            live.wake(Wake::Transmit)?;
            live.reap();
        }
        Ok(())
    }

    /// Copies a packet into a frame and sends it.
    ///
    /// # Errors
    ///
    /// As for [`reserve`](Self::reserve) and [`transmit`](Self::transmit).
    pub fn send(&self, packet: &[u8]) -> Result<(), Error> {
        let mut frame = self.reserve(packet.len())?;
        frame.copy_from_slice(packet);
        frame.submit();
        self.transmit()
    }

    /// How many packets were submitted and are not yet known to be sent. Wipes those that are.
    #[must_use]
    pub fn sending(&self) -> u32 {
        self.here().map_or(0, |live| {
            live.reap();
            live.frames.sending()
        })
    }

    /// How packets get into memory.
    #[must_use]
    pub fn transfer(&self) -> Transfer {
        match &self.live {
            Some(live) if live.is_zero_copy => Transfer::ZeroCopy,
            _ => Transfer::Copy,
        }
    }

    /// What the kernel counted since the socket was bound.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn statistics(&self) -> Result<Statistics, Error> {
        let live = self.here().ok_or(Error::LeftBehind)?;
        let counted = live.socket.statistics().map_err(refused)?;
        Ok(Statistics {
            no_frame: counted.no_frame,
            dropped: counted.dropped.saturating_add(counted.receive_full),
            invalid: counted.invalid,
        })
    }

    /// Ends the socket and gives the buffer back, all zero under [`Wipe::OnReturn`](super::Wipe::OnReturn), else with
    /// what is in it.
    ///
    /// # Errors
    ///
    /// [`XdpRefusal::Quarantined`] where the kernel did not let go of it.
    pub fn into_buffer(mut self) -> Result<DmaBuffer, Error> {
        let live = self.live.take().ok_or(Error::LeftBehind)?;
        Ok(live.end()?.into_buffer())
    }

    /// What is needed to work; nothing in a child.
    fn here(&self) -> Option<&Live> {
        self.live.as_ref().filter(|live| live.is_here())
    }
}

impl Drop for XdpSocket {
    fn drop(&mut self) {
        // Without its memory if the kernel did not let go of that.
        drop(self.live.take().map(Live::end));
    }
}

/// For `poll(2)` and what is built on it: readable when a packet is there. A copy of the descriptor that is kept longer
/// than the socket has the memory quarantined.
impl AsFd for XdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.live {
            Some(live) => live.socket.as_fd(),
            None => unreachable!("taken at the end only"),
        }
    }
}

/// Prints no byte.
impl fmt::Debug for XdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = self.live.as_ref().map(|live| live.queue);
        f.debug_struct("XdpSocket").field("queue", &queue).finish_non_exhaustive()
    }
}

/// What the kernel counts for a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Times that it looked for a frame to receive into and found none: all are held, or waiting to be received.
    pub no_frame: u64,
    /// Packets that it dropped, for that or since they are larger than a frame.
    pub dropped: u64,
    /// Descriptors of ours that it did not accept. There are none.
    pub invalid: u64,
}

/// A socket that could not be bound. Turns into an [`Error`] with `?`, which drops the memory.
#[derive(Debug)]
pub struct BindError {
    error: Error,
    umem: Option<Umem>,
}

impl BindError {
    /// What went wrong.
    #[must_use]
    pub const fn error(&self) -> Error {
        self.error
    }

    /// The memory, unless it had to be quarantined.
    #[must_use]
    pub fn into_umem(self) -> Option<Umem> {
        self.umem
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl core::error::Error for BindError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl From<BindError> for Error {
    fn from(failed: BindError) -> Self {
        failed.error
    }
}

/// A socket that is bound and receives nothing yet.
struct Ready {
    socket: Socket,
    witness: Witness,
    rings: Rings,
    frames: Frames,
    is_zero_copy: bool,
}

/// Makes a socket and binds it. After an error the kernel has no more to do with the memory, since only a socket that
/// is bound, and in the program's map, is written to.
fn ready(umem: &Umem, interface: &Interface, queue: u32, options: XdpOptions) -> Result<Ready, Error> {
    let socket = Socket::new().map_err(no_socket)?;
    let witness = Witness::new()?;
    umem.register(&socket).map_err(|errno| no_memory(errno, umem.bytes()))?;
    let rings = Rings::new(&socket, umem.frames()).map_err(refused)?;
    let frames = Frames::new(umem);
    let receive = options.receive_frames.unwrap_or_else(|| umem.frames().div_ceil(2)).min(umem.frames());
    for _ in 0..receive {
        if let Some(frame) = frames.take(State::Filling) {
            rings.fill.put(frames.offset(frame));
        }
    }
    let (mode, is_zero_copy) = match options.transfer {
        Transfer::Copy => (Socket::COPY, false),
        Transfer::ZeroCopy => (Socket::ZERO_COPY, true),
    };
    bind_patiently(&socket, interface.index(), queue, mode)?;
    Ok(Ready { socket, witness, rings, frames, is_zero_copy })
}

/// Binds, and waits a little for the socket that the queue had before.
fn bind_patiently(socket: &Socket, interface: u32, queue: u32, mode: u16) -> Result<(), Error> {
    let mut patience = Patience::new(PATIENCE);
    loop {
        match socket.bind(interface, queue, mode) {
            Ok(()) => return Ok(()),
            Err(Errno::BUSY) if patience.is_left() => {}
            Err(Errno::BUSY) => return Err(Error::Xdp(XdpRefusal::QueueBusy)),
            Err(Errno::INVAL) => return Err(Error::Xdp(XdpRefusal::NoQueue)),
            Err(Errno::OPNOTSUPP) => return Err(Error::Xdp(XdpRefusal::NoZeroCopy)),
            Err(errno) => return Err(refused(errno)),
        }
    }
}

/// The error for a socket that could not be made.
#[cold]
pub(super) fn no_socket(errno: Errno) -> Error {
    match errno {
        Errno::AFNOSUPPORT => Error::Xdp(XdpRefusal::Missing),
        Errno::PERM | Errno::ACCES => Error::Xdp(XdpRefusal::NoRightToSocket),
        errno => refused(errno),
    }
}

/// The error for memory that the kernel does not take.
#[cold]
pub(super) fn no_memory(errno: Errno, needed_bytes: usize) -> Error {
    match (errno, os::memlock_limit().soft) {
        (Errno::NOBUFS, Some(limit_bytes)) => Error::PinLimit { needed_bytes, limit_bytes },
        (Errno(errno), _) => Error::Os { operation: Operation::Pin, errno },
    }
}
