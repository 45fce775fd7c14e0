//! A bound socket and all that belongs to it.

use core::mem::ManuallyDrop;

use super::end::Witness;
use super::frames::{Frames, State};
use super::interface::Interface;
use super::options::Wipe;
use super::rings::Rings;
use super::umem::Umem;
use super::{refused, ring};
use crate::dma::pin::count_quarantined;
use crate::os::xdp::{Socket, Wake};
use crate::os::{self, Errno};
use crate::{Error, XdpRefusal};

/// A bound socket. Ended by [`end`](Self::end); dropped without that it leaves its memory to whoever writes to it.
pub(super) struct Live {
    pub(super) rings: Rings,
    pub(super) frames: Frames,
    pub(super) wipe: Wipe,
    pub(super) is_zero_copy: bool,
    /// The process that made it ([`os::incarnation`]).
    pub(super) owner: u32,
    pub(super) socket: Socket,
    pub(super) witness: Witness,
    pub(super) interface: Interface,
    pub(super) queue: u32,
    pub(super) umem: Umem,
}

impl Live {
    /// Whether this is the process that made it. In a child the rings are not mapped, and the memory is another.
    pub(super) fn is_here(&self) -> bool {
        self.owner == os::incarnation()
    }

    /// Takes back the frames of packets that were sent.
    pub(super) fn reap(&self) {
        while let Some(offset) = self.rings.completed.take() {
            let place = self.frames.locate(offset, 0);
            let Some((frame, State::Sending(bytes))) =
                place.map(|(frame, _)| (frame, self.frames.state(frame)))
            else {
                ring::corrupted()
            };
            self.give_back(frame, bytes);
        }
    }

    /// Frees a frame to send that nobody has any more, of which so many bytes were lent.
    pub(super) fn give_back(&self, frame: u32, bytes: u32) {
        if self.wipe == Wipe::OnReturn {
            self.frames.wipe(frame, bytes);
        }
        self.frames.give(frame);
    }

    /// Gives the frame of a packet, which ended at `end` in it, to the kernel for the next one.
    pub(super) fn refill(&self, frame: u32, end: u32) {
        if self.wipe == Wipe::OnReturn {
            // The kernel copies nothing behind the packet. What a device writes there is its own business.
            let bytes = if self.is_zero_copy { self.frames.frame_bytes() } else { end };
            self.frames.wipe(frame, bytes);
        }
        self.frames.set(frame, State::Filling);
        self.rings.fill.put(self.frames.offset(frame));
    }

    /// Has the kernel look at a ring. That it could not do all at once is no error.
    pub(super) fn wake(&self, what: Wake) -> Result<(), Error> {
        match self.socket.wake(what) {
            Ok(()) | Err(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS | Errno::INTR) => Ok(()),
            Err(errno) => Err(refused(errno)),
        }
    }

    /// Ends the socket. The memory, if nobody can write to it any more; else it is quarantined.
    pub(super) fn end(self) -> Result<Umem, Error> {
        let is_here = self.is_here();
        let Self { rings, wipe, socket, witness, interface, queue, umem, .. } = self;
        if !is_here {
            // The memory here is a copy, or not there; the rings are the parent's, and so is the program.
            return Ok(umem);
        }
        // If it is refused, the descriptor is gone: what is proved below is proved all the same.
        let _ = interface.map().clear(queue);
        let index = interface.index();
        drop(interface);
        // They keep the socket open.
        drop(rings);
        drop(socket);
        let mut umem = ManuallyDrop::new(umem);
        let is_free = witness.sees_free(index, queue);
        if wipe == Wipe::OnReturn || !is_free {
            umem.wipe();
        }
        if is_free {
            return Ok(ManuallyDrop::into_inner(umem));
        }
        // Never freed; `purge` and the end of the process still find it.
        count_quarantined(umem.bytes());
        Err(Error::Xdp(XdpRefusal::Quarantined))
    }
}
