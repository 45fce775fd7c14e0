//! The contract of AF_XDP: sockets whose packets lie in memory of the program, and the small program in the kernel
//! that hands them packets. Documentation/networking/af_xdp.rst and bpf(2); only Linux has it, so there is no other
//! backend. The rules of [`os`](crate::os) hold, but for one: these are called for sockets, never in an allocator
//! callback.

mod program;
mod socket;

pub(crate) use program::{Attachment, Map, interface_index};
pub(crate) use socket::{RingKind, RingOffsets, Socket, Wake, unmap};

use crate::os::Errno;

/// More of the system's numbers.
impl Errno {
    /// No such family of sockets.
    pub(crate) const AFNOSUPPORT: Self = Self(libc::EAFNOSUPPORT);
    /// No buffers: for `XDP_UMEM_REG`, the limit of locked memory.
    pub(crate) const NOBUFS: Self = Self(libc::ENOBUFS);
    /// The interface is down.
    pub(crate) const NETDOWN: Self = Self(libc::ENETDOWN);
    /// Not bound, or not any more.
    pub(crate) const NXIO: Self = Self(libc::ENXIO);
    /// Out of range: for an XDP program, packets of the interface can be too large for it.
    pub(crate) const RANGE: Self = Self(libc::ERANGE);
}

/// A structure of the kernel's, as large as it may be on the way to it.
fn size_of_u32<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX)
}
