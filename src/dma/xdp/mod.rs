//! Packets of a network interface as slices of pinned memory (AF_XDP, Linux 5.9; 64-bit).
//!
//! ```text
//!  interface --program--> queue 0 --> XdpSocket --owns--> Umem: a DmaBuffer in frames
//!                |                      |  |
//!                |                      |  '- receive() -> Packet: a slice; dropped: wiped, its frame receives again
//!                |                      '---- reserve() -> Frame: a slice; submit(), transmit(): sent, then wiped
//!                '-> other queues: the system, as without the program
//! ```
//!
//! Who has a frame:
//!
//! ```text
//! Free --reserve--> Held by a Frame --submit--> Sending, the kernel's --completed, wiped--> Free
//! Filling, the kernel's --received--> Held by a Packet --dropped, wiped--> Filling
//! ```
//!
//! What the rings say is checked against that: a packet in no frame of ours, in one that was not the kernel's, or
//! beyond its end, ends the process, as corruption does.
//!
//! # Rights
//!
//! `CAP_NET_ADMIN` and `CAP_BPF` for [`Interface::attach`], `CAP_NET_RAW` for [`XdpSocket::bind`]. What is missing is
//! named by the [`Error`].
//!
//! # When the kernel has let go
//!
//! See `end.rs` and `docs/mitigations/xdp.md`.

mod end;
mod frames;
mod interface;
mod live;
mod options;
mod packet;
mod ring;
mod rings;
mod socket;
mod umem;

pub use interface::{Attach, Interface};
pub use options::{Transfer, Wipe, XdpOptions};
pub use packet::{Frame, Packet};
pub use socket::{BindError, Statistics, XdpSocket};
pub use umem::{FrameSize, Umem};

use crate::os::Errno;
use crate::{Error, Operation, XdpRefusal};

/// As often as the kernel is asked to send at one time: it takes 32 packets each time.
const MOST_BATCHES: u32 = 1024;

/// The error for anything else that the kernel refuses.
#[cold]
fn refused(errno: Errno) -> Error {
    match errno {
        Errno::NETDOWN | Errno::NXIO | Errno::NODEV => Error::Xdp(XdpRefusal::InterfaceDown),
        Errno::NOSYS => Error::Xdp(XdpRefusal::Missing),
        Errno(errno) => Error::Os { operation: Operation::Xdp, errno },
    }
}

#[cfg(test)]
mod tests;
