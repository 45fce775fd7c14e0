//! An interface, and the program on it.

use std::ffi::CString;
use std::sync::Arc;

use crate::os::xdp::{Attachment, Map, interface_index};
use crate::os::{self, Errno};
use crate::{Error, Operation, XdpRefusal};

/// Queues that the program knows. Packets of others go to the system.
const MOST_QUEUES: u32 = 4096;

/// Where the program runs that hands packets to sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attach {
    /// In the interface's driver, before the system sees a packet. Not all drivers can.
    Driver,
    /// In the system, with every interface, at the cost of one more copy of each packet, in memory of the kernel's.
    Generic,
}

/// An interface of the calling thread's network namespace, with a program on it that hands packets to sockets by
/// the queue that they came in by. Packets of queues without a socket go to the system, as without the program.
///
/// A handle: clones are the same, and each socket has one. The program is taken off when the last is dropped.
/// In a forked child dropping it does nothing.
#[derive(Clone, Debug)]
pub struct Interface(Arc<Attached>);

#[derive(Debug)]
struct Attached {
    map: Map,
    attachment: Attachment,
    index: u32,
    owner: u32,
}

impl Interface {
    /// Puts the program on an interface, such as `eth0`.
    ///
    /// # Errors
    ///
    /// [`Error::Xdp`], which says what is missing: an interface of that name, the capabilities `CAP_NET_ADMIN` and
    /// `CAP_BPF`, a driver that can, or that there is a program already.
    pub fn attach(name: &str, mode: Attach) -> Result<Self, Error> {
        let name = CString::new(name).map_err(|_| Error::Xdp(XdpRefusal::NoInterface))?;
        let index = interface_index(&name).map_err(refused)?;
        let map = Map::new(MOST_QUEUES).map_err(refused)?;
        let mode = match mode {
            Attach::Driver => Attachment::DRIVER,
            Attach::Generic => Attachment::GENERIC,
        };
        let attachment = Attachment::new(&map, index, mode).map_err(refused)?;
        Ok(Self(Arc::new(Attached { map, attachment, index, owner: os::incarnation() })))
    }

    pub(super) fn index(&self) -> u32 {
        self.0.index
    }

    pub(super) fn map(&self) -> &Map {
        &self.0.map
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // A child shares the program with its parent.
        if self.owner == os::incarnation() {
            // Closing the descriptors takes it off as well, unless another process has them.
            let _ = self.attachment.detach();
        }
    }
}

#[cold]
fn refused(errno: Errno) -> Error {
    Error::Xdp(match errno {
        Errno::NODEV => XdpRefusal::NoInterface,
        Errno::PERM | Errno::ACCES => XdpRefusal::NoRightToProgram,
        Errno::BUSY | Errno::EXIST => XdpRefusal::ProgramBusy,
        Errno::OPNOTSUPP => XdpRefusal::NoDriverMode,
        Errno::RANGE => XdpRefusal::PacketsTooLarge,
        Errno::NOSYS | Errno::INVAL => XdpRefusal::Missing,
        Errno(errno) => return Error::Os { operation: Operation::Xdp, errno },
    })
}
