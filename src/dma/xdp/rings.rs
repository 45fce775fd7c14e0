//! The four rings of a socket.

use super::ring::{Consumer, Descriptor, Producer};
use crate::os::Errno;
use crate::os::xdp::{RingKind, Socket};

/// The rings, each with room for all frames at once, so that none is ever full.
#[derive(Debug)]
pub(super) struct Rings {
    pub(super) fill: Producer<u64>,
    pub(super) receive: Consumer<Descriptor>,
    pub(super) transmit: Producer<Descriptor>,
    pub(super) completed: Consumer<u64>,
}

impl Rings {
    /// Makes and maps them.
    pub(super) fn new(socket: &Socket, frames: u32) -> Result<Self, Errno> {
        let offsets = socket.offsets()?;
        Ok(Self {
            fill: Producer::new(socket, RingKind::Fill, offsets.fill, frames)?,
            receive: Consumer::new(socket, RingKind::Receive, offsets.receive, frames)?,
            transmit: Producer::new(socket, RingKind::Transmit, offsets.transmit, frames)?,
            completed: Consumer::new(socket, RingKind::Completed, offsets.completed, frames)?,
        })
    }
}
