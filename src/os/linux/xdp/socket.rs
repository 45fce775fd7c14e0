//! One socket: its memory, its four rings, and where its packets come from.

use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};
use core::time::Duration;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use super::size_of_u32;
use crate::os::linux::check;
use crate::os::{Call, Errno, Result, fake};

/// `XDP_USE_NEED_WAKEUP`: drivers may sleep, and say so in the rings (Linux 5.4).
const USE_NEED_WAKEUP: u16 = libc::XDP_USE_NEED_WAKEUP;

/// An AF_XDP socket. Dropping it closes the descriptor; the kernel lets go of the queue, and of the memory, some
/// time later, and only if no other process has the descriptor.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

/// The four rings of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RingKind {
    /// Frames that the kernel may write to.
    Fill,
    /// Packets that came.
    Receive,
    /// Packets to be sent.
    Transmit,
    /// Frames whose packet was sent.
    Completed,
}

/// Where in a ring's mapping what lies, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingOffsets {
    pub(crate) producer: usize,
    pub(crate) consumer: usize,
    pub(crate) flags: usize,
    pub(crate) entries: usize,
}

/// The same for each ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offsets {
    pub(crate) fill: RingOffsets,
    pub(crate) receive: RingOffsets,
    pub(crate) transmit: RingOffsets,
    pub(crate) completed: RingOffsets,
}

/// What the kernel is told to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// The fill ring.
    Receive,
    /// The ring of packets to be sent.
    Transmit,
}

/// What the kernel counts for a socket, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Statistics {
    pub(crate) dropped: u64,
    pub(crate) no_frame: u64,
    pub(crate) receive_full: u64,
    pub(crate) invalid: u64,
}

impl Socket {
    /// `socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC)`, Linux 4.18, in this thread's network namespace.
    ///
    /// - Result: `AFNOSUPPORT` where the kernel has none, `PERM` without `CAP_NET_RAW`.
    pub(crate) fn new() -> Result<Self> {
        fake::gate(Call::XdpSocket)?;
        // SAFETY: no memory is involved (socket(2)).
        let descriptor = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if descriptor < 0 {
            return Err(Errno::last());
        }
        // SAFETY: made just now, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// `XDP_UMEM_REG`: makes a range the memory of the socket, in frames of this size. Its pages are pinned
    /// (`FOLL_LONGTERM`) until the kernel has let go of the socket, and charged to the user's account of
    /// `RLIMIT_MEMLOCK`, the one of io_uring.
    ///
    /// - Before: `len` is a multiple of `frame_bytes`, a power of two from 2,048 to a page.
    /// - Result: `NOBUFS` at the limit, `NOMEM`, `FAULT` where a page may not be pinned.
    /// - Contents: kept. The kernel writes to a frame from the time that the fill ring names it, and reads one that the
    ///   ring of packets to be sent names.
    ///
    /// # Safety
    ///
    /// - The range is mapped, readable and writable. It may be unmapped: the kernel then writes to the old pages.
    pub(crate) unsafe fn register(&self, start: NonNull<u8>, len: usize, frame_bytes: u32) -> Result<()> {
        let area = libc::xdp_umem_reg {
            addr: u64::try_from(start.addr().get()).map_err(|_| Errno::INVAL)?,
            len: u64::try_from(len).map_err(|_| Errno::INVAL)?,
            chunk_size: frame_bytes,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        // SAFETY: the kernel reads one `struct xdp_umem_reg`; the caller promises the range in it.
        unsafe { self.set(libc::XDP_UMEM_REG, &area) }
    }

    /// Makes a ring of so many entries, a power of two.
    pub(crate) fn make_ring(&self, kind: RingKind, entries: u32) -> Result<()> {
        let option = match kind {
            RingKind::Fill => libc::XDP_UMEM_FILL_RING,
            RingKind::Receive => libc::XDP_RX_RING,
            RingKind::Transmit => libc::XDP_TX_RING,
            RingKind::Completed => libc::XDP_UMEM_COMPLETION_RING,
        };
        // SAFETY: the kernel reads one number.
        unsafe { self.set(option, &entries) }
    }

    /// `XDP_MMAP_OFFSETS`: where in the rings' mappings what lies.
    pub(crate) fn offsets(&self) -> Result<Offsets> {
        // SAFETY: the kernel writes a `struct xdp_mmap_offsets`, of integers.
        let all = unsafe { self.get::<libc::xdp_mmap_offsets>(libc::XDP_MMAP_OFFSETS) }?;
        Ok(Offsets {
            fill: offsets_of(&all.fr)?,
            receive: offsets_of(&all.rx)?,
            transmit: offsets_of(&all.tx)?,
            completed: offsets_of(&all.cr)?,
        })
    }

    /// Maps a ring, shared with the kernel; a child made by fork has no such mapping. The mapping keeps the socket
    /// open. [`unmap`] ends it.
    ///
    /// - Before: the ring was made, and the socket is not bound.
    pub(crate) fn map(&self, kind: RingKind, len: usize) -> Result<NonNull<u8>> {
        fake::gate(Call::XdpSocket)?;
        let offset: u64 = match kind {
            RingKind::Fill => libc::XDP_UMEM_PGOFF_FILL_RING,
            RingKind::Receive => 0,
            RingKind::Transmit => 0x8000_0000,
            RingKind::Completed => libc::XDP_UMEM_PGOFF_COMPLETION_RING,
        };
        let offset = libc::off_t::try_from(offset).map_err(|_| Errno::INVAL)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a new mapping at a place that the kernel chooses (mmap(2)).
        let address = unsafe { libc::mmap(ptr::null_mut(), len, access, flags, self.0.as_raw_fd(), offset) };
        if address == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let start = NonNull::new(address.cast()).ok_or(Errno::NOMEM)?;
        // SAFETY: mapped just now; the advice changes no content (madvise(2)).
        let code = unsafe { libc::madvise(address, len, libc::MADV_DONTFORK) };
        check(code.into()).inspect_err(|_| {
            // SAFETY: mapped just now, and nobody knows it.
            unsafe { unmap(start, len) };
        })?;
        Ok(start)
    }

    /// Binds the socket to a queue of an interface of its namespace. From then on it sends; it receives what a
    /// program hands it ([`Map::set`](super::Map::set)).
    ///
    /// - Before: memory registered; fill ring, ring of completions and one other made.
    /// - `mode`: 0, or `XDP_COPY` or `XDP_ZEROCOPY` as [`COPY`](Self::COPY) and [`ZERO_COPY`](Self::ZERO_COPY).
    /// - Result: `BUSY` as long as the kernel has not let go of the socket that the queue had before; `NODEV` without
    ///   such an interface, `INVAL` without such a queue, `OPNOTSUPP` where the driver cannot work without a copy.
    pub(crate) fn bind(&self, interface: u32, queue: u32, mode: u16) -> Result<()> {
        fake::gate(Call::XdpBind)?;
        let address = libc::sockaddr_xdp {
            sxdp_family: u16::try_from(libc::AF_XDP).map_err(|_| Errno::INVAL)?,
            sxdp_flags: mode | USE_NEED_WAKEUP,
            sxdp_ifindex: interface,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: 0,
        };
        let len = size_of_u32::<libc::sockaddr_xdp>();
        // SAFETY: the kernel reads one `struct sockaddr_xdp` (bind(2)).
        check(unsafe { libc::bind(self.0.as_raw_fd(), (&raw const address).cast(), len) }.into())
    }

    /// Packets are copied by the kernel.
    pub(crate) const COPY: u16 = libc::XDP_COPY;
    /// The device itself reads and writes the frames.
    pub(crate) const ZERO_COPY: u16 = libc::XDP_ZEROCOPY;

    /// `XDP_STATISTICS`, as of Linux 5.9.
    pub(crate) fn statistics(&self) -> Result<Statistics> {
        // SAFETY: the kernel writes a `struct xdp_statistics`, of integers.
        let all = unsafe { self.get::<libc::xdp_statistics>(libc::XDP_STATISTICS) }?;
        Ok(Statistics {
            dropped: all.rx_dropped,
            no_frame: all.rx_fill_ring_empty_descs,
            receive_full: all.rx_ring_full,
            invalid: all.rx_invalid_descs.saturating_add(all.tx_invalid_descs),
        })
    }

    /// Has the kernel look at a ring: `sendto(2)` or `recvfrom(2)` of nothing, with `MSG_DONTWAIT`.
    ///
    /// - Result: `AGAIN`, `BUSY` and `NOBUFS` ask to be called again; `NETDOWN`, `NXIO` say that the interface is down or
    ///   gone.
    pub(crate) fn wake(&self, what: Wake) -> Result<()> {
        fake::gate(Call::XdpWake)?;
        let (descriptor, flags) = (self.0.as_raw_fd(), libc::MSG_DONTWAIT);
        let count = match what {
            // SAFETY: nothing is sent, from no memory (send(2)).
            Wake::Transmit => unsafe { libc::sendto(descriptor, ptr::null(), 0, flags, ptr::null(), 0) },
            // SAFETY: nothing is received, into no memory (recv(2)).
            Wake::Receive => unsafe {
                libc::recvfrom(descriptor, ptr::null_mut(), 0, flags, ptr::null_mut(), ptr::null_mut())
            },
        };
        if count < 0 { Err(Errno::last()) } else { Ok(()) }
    }

    /// Waits until a packet came, or for so long: `ppoll(2)`, which also has packets sent.
    ///
    /// - Result: `INTR`; `NETDOWN` where the interface is gone.
    pub(crate) fn wait(&self, longest: Option<Duration>) -> Result<()> {
        fake::gate(Call::XdpWake)?;
        let mut subject = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let time = longest.map(|longest| libc::timespec {
            tv_sec: libc::time_t::try_from(longest.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: longest.subsec_nanos().into(),
        });
        let time: *const libc::timespec = time.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: the kernel reads and writes one `struct pollfd` and reads one `struct timespec` or none.
        let code = unsafe { libc::ppoll(&raw mut subject, 1, time, ptr::null()) };
        match code {
            ..0 => Err(Errno::last()),
            _ if subject.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0 => {
                Err(Errno::NETDOWN)
            }
            _ => Ok(()),
        }
    }

    /// # Safety
    ///
    /// - `value` is what the kernel reads for this option, and what it says is true.
    unsafe fn set<T>(&self, option: libc::c_int, value: &T) -> Result<()> {
        fake::gate(Call::XdpSocket)?;
        let (value, len) = (ptr::from_ref(value).cast(), size_of_u32::<T>());
        // SAFETY: the caller promises that the kernel finds what it expects (setsockopt(2)).
        let code = unsafe { libc::setsockopt(self.0.as_raw_fd(), libc::SOL_XDP, option, value, len) };
        check(code.into())
    }

    /// # Safety
    ///
    /// - `T` is what the kernel writes for this option, and any bytes are one.
    unsafe fn get<T>(&self, option: libc::c_int) -> Result<T> {
        fake::gate(Call::XdpSocket)?;
        let mut value = MaybeUninit::<T>::zeroed();
        let mut len = size_of_u32::<T>();
        let descriptor = self.0.as_raw_fd();
        // SAFETY: the kernel writes at most `len` bytes to `value` (getsockopt(2)).
        let code = unsafe {
            libc::getsockopt(descriptor, libc::SOL_XDP, option, value.as_mut_ptr().cast(), &raw mut len)
        };
        check(code.into())?;
        // An older kernel writes less, and does not know what is asked here.
        if len != size_of_u32::<T>() {
            return Err(Errno::NOSYS);
        }
        // SAFETY: zeros at first, overwritten in whole; the caller promises that any bytes are a `T`.
        Ok(unsafe { value.assume_init() })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Ends a mapping of [`Socket::map`].
///
/// # Safety
///
/// - It was made by this process with this length, and nothing uses it any more.
pub(crate) unsafe fn unmap(start: NonNull<u8>, len: usize) {
    // SAFETY: the caller promises that it is its own. It cannot fail for a whole mapping (munmap(2)).
    unsafe { libc::munmap(start.as_ptr().cast(), len) };
}

/// The kernel's numbers are below a page and aligned; others are refused.
fn offsets_of(ring: &libc::xdp_ring_offset) -> Result<RingOffsets> {
    let offset = |number: u64, align: usize| {
        let number = usize::try_from(number).ok().filter(|number| *number < 4096);
        number.filter(|number| number.is_multiple_of(align)).ok_or(Errno::NOSYS)
    };
    let offsets = RingOffsets {
        producer: offset(ring.producer, align_of::<u32>())?,
        consumer: offset(ring.consumer, align_of::<u32>())?,
        flags: offset(ring.flags, align_of::<u32>())?,
        entries: offset(ring.desc, align_of::<u64>())?,
    };
    let last = offsets.producer.max(offsets.consumer).max(offsets.flags);
    if offsets.entries.saturating_sub(last) < size_of::<u32>() || offsets.producer == offsets.consumer {
        return Err(Errno::NOSYS);
    }
    Ok(offsets)
}
