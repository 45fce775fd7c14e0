//! A small io_uring, by its system calls: what a program would do I/O with.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

const ENTRIES: u32 = 4;
const SQE_BYTES: usize = 64;
const OP_WRITE: u8 = 23;
const OP_READ: u8 = 22;
const OP_WRITE_FIXED: u8 = 5;
const SQE_ASYNC: u8 = 1 << 4;
const ENTER_GETEVENTS: u32 = 1;
const REGISTER_BUFFERS: u32 = 0;
const OFFSET_CQ_RING: libc::off_t = 0x800_0000;
const OFFSET_SQES: libc::off_t = 0x1000_0000;

/// `struct io_uring_params`: the words that are read here, the rest for the kernel.
#[repr(C)]
#[derive(Default)]
struct Parameters {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    head: [u32; 7],
    /// head, tail, ring_mask, ring_entries, flags, dropped, array, reserved, user_addr.
    sq_off: [u32; 10],
    /// head, tail, ring_mask, ring_entries, overflow, cqes, flags, reserved, user_addr.
    cq_off: [u32; 10],
}

const _: () = assert!(size_of::<Parameters>() == 120);

/// A ring of one request at a time.
pub(crate) struct Ring {
    descriptor: OwnedFd,
    queues: *mut u8,
    entries: *mut u8,
    parameters: Parameters,
}

impl Ring {
    pub(crate) fn new() -> io::Result<Self> {
        let mut parameters = Parameters::default();
        // SAFETY: the kernel reads and writes one `io_uring_params` (io_uring_setup(2)).
        let made = unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, &raw mut parameters) };
        let descriptor = i32::try_from(made).ok().filter(|made| *made >= 0);
        let descriptor = descriptor.ok_or_else(io::Error::last_os_error)?;
        // SAFETY: made above, and nobody else knows it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        // Both queues lie in one mapping (IORING_FEAT_SINGLE_MMAP, Linux 5.4).
        let queues = map(&descriptor, OFFSET_CQ_RING)?;
        let entries = map(&descriptor, OFFSET_SQES)?;
        let ring = Self { descriptor, queues, entries, parameters };
        // The queue of submissions holds indices of entries (always, before Linux 6.6): each place its own.
        for index in 0..ENTRIES {
            ring.word(ring.parameters.sq_off[6] + 4 * index).store(index, Ordering::Relaxed);
        }
        Ok(ring)
    }

    /// Registers one fixed buffer.
    pub(crate) fn register(&self, address: usize, len: usize) -> io::Result<()> {
        let buffer = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: len };
        let ring = self.descriptor.as_raw_fd();
        // SAFETY: the kernel reads one `iovec`, and pins what it names, or refuses.
        let code = unsafe {
            libc::syscall(libc::SYS_io_uring_register, ring, REGISTER_BUFFERS, &raw const buffer, 1_u32)
        };
        if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Writes from this address to a file, and waits.
    pub(crate) fn write(&mut self, file: &impl AsRawFd, address: usize, len: u32) -> io::Result<usize> {
        self.transfer(OP_WRITE, 0, file.as_raw_fd(), address, len)
    }

    /// The same from within the fixed buffer.
    pub(crate) fn write_fixed(&mut self, file: &impl AsRawFd, address: usize, len: u32) -> io::Result<usize> {
        self.transfer(OP_WRITE_FIXED, 0, file.as_raw_fd(), address, len)
    }

    /// The same by a thread of the kernel's, which is made at the first time (`IOSQE_ASYNC`).
    pub(crate) fn write_aside(&mut self, file: &impl AsRawFd, address: usize, len: u32) -> io::Result<usize> {
        self.transfer(OP_WRITE, SQE_ASYNC, file.as_raw_fd(), address, len)
    }

    /// Reads to this address from a file, and waits.
    pub(crate) fn read(&mut self, file: &impl AsRawFd, address: usize, len: u32) -> io::Result<usize> {
        self.transfer(OP_READ, 0, file.as_raw_fd(), address, len)
    }

    fn transfer(
        &mut self,
        operation: u8,
        flags: u8,
        file: i32,
        address: usize,
        len: u32,
    ) -> io::Result<usize> {
        let tail = self.word(self.parameters.sq_off[1]).load(Ordering::Acquire);
        let index = tail as usize % ENTRIES as usize;
        let mut entry = [0_u8; SQE_BYTES];
        entry[0] = operation;
        entry[1] = flags;
        entry[4..8].copy_from_slice(&file.to_ne_bytes());
        entry[16..24].copy_from_slice(&(address as u64).to_ne_bytes());
        entry[24..28].copy_from_slice(&len.to_ne_bytes());
        // SAFETY: the mapping holds ENTRIES entries.
        let place = unsafe { self.entries.cast::<[u8; SQE_BYTES]>().add(index) };
        // SAFETY: as above; the kernel reads it only once it is told.
        unsafe { place.write(entry) };
        self.word(self.parameters.sq_off[1]).store(tail.wrapping_add(1), Ordering::Release);
        let ring = self.descriptor.as_raw_fd();
        // SAFETY: one request, whose addresses are the caller's (io_uring_enter(2)).
        let done = unsafe {
            libc::syscall(libc::SYS_io_uring_enter, ring, 1_u32, 1_u32, ENTER_GETEVENTS, 0_usize, 0_usize)
        };
        if done != 1 {
            return Err(io::Error::last_os_error());
        }
        let head = self.word(self.parameters.cq_off[0]).load(Ordering::Acquire);
        let mask = self.word(self.parameters.cq_off[2]).load(Ordering::Relaxed);
        let at = self.parameters.cq_off[5] as usize + (head & mask) as usize * 16 + 8;
        // SAFETY: within the mapping.
        let result = unsafe { self.queues.add(at) };
        // SAFETY: the result of an entry of the completion queue, which the kernel has filled in.
        let result = unsafe { result.cast::<i32>().read() };
        self.word(self.parameters.cq_off[0]).store(head.wrapping_add(1), Ordering::Release);
        usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
    }

    /// A word that is shared with the kernel.
    fn word(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: offsets come from the kernel and lie in the mapping.
        let word = unsafe { self.queues.add(offset as usize) };
        // SAFETY: aligned, mapped as long as this lives, and shared by atomics only.
        unsafe { AtomicU32::from_ptr(word.cast()) }
    }
}

/// A mapping of a ring; it stays until the end of the process.
fn map(descriptor: &OwnedFd, offset: libc::off_t) -> io::Result<*mut u8> {
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
    // SAFETY: a new mapping at a place that the kernel chooses.
    let mapping =
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, access, flags, descriptor.as_raw_fd(), offset) };
    if mapping == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(mapping.cast()) }
}
