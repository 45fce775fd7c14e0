//! A table of pinned ranges: an io_uring that is never enabled, by `io_uring_setup(2)` and
//! `io_uring_register(2)`, without liburing.
//!
//! Registering a range as a fixed buffer takes a long-term pin on its pages (`FOLL_LONGTERM`,
//! Documentation/core-api/pin_user_pages.rst): the kernel does not move them until the slot is emptied or
//! the last descriptor of the ring is closed. The ring never runs a request: it stays disabled
//! (`IORING_SETUP_R_DISABLED`), and its queues are not even mapped.

use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};

use super::{check_count, probe};
use crate::os::{Errno, Result, Ring, incarnation};

/// `IORING_SETUP_R_DISABLED`, `include/uapi/linux/io_uring.h`, Linux 5.10: no request can be submitted.
const SETUP_R_DISABLED: u32 = 1 << 6;
/// `IORING_REGISTER_BUFFERS2`, Linux 5.13.
const REGISTER_BUFFERS2: u32 = 15;
/// `IORING_REGISTER_BUFFERS_UPDATE`, Linux 5.13.
const REGISTER_BUFFERS_UPDATE: u32 = 16;
/// `IORING_RSRC_REGISTER_SPARSE`, Linux 5.19: a table of empty slots.
const RSRC_REGISTER_SPARSE: u32 = 1;
/// The first descriptor number to ask for, where the limit allows: programs close, or count on, low ones.
const HIGH_DESCRIPTOR: libc::c_int = 1024;

/// `struct io_uring_params`: only `flags` is set here.
#[repr(C)]
struct SetupParameters {
    entries: [u32; 2],
    flags: u32,
    rest: [u32; 27],
}

const _: () = assert!(size_of::<SetupParameters>() == 120);

/// `struct io_uring_rsrc_register`.
#[repr(C)]
struct TableRegister {
    slots: u32,
    flags: u32,
    reserved: u64,
    data: u64,
    tags: u64,
}

const _: () = assert!(size_of::<TableRegister>() == 32);

/// `struct io_uring_rsrc_update2`.
#[repr(C)]
struct TableUpdate {
    offset: u32,
    reserved: u32,
    /// A `u64` in the kernel's header, which holds a pointer.
    data: *const libc::iovec,
    #[cfg(target_pointer_width = "32")]
    data_high: u32,
    tags: u64,
    count: u32,
    reserved2: u32,
}

const _: () = assert!(size_of::<TableUpdate>() == 32);

/// Makes a ring with a table of empty slots.
pub(in crate::os) fn ring_new(slots: u32) -> Result<Ring> {
    let ring = make(slots);
    probe::note_io_uring(ring.map(drop));
    ring
}

/// # Safety
///
/// As for `Ring::register`.
pub(in crate::os) unsafe fn ring_register(ring: Ring, slot: u32, ptr: NonNull<u8>, len: usize) -> Result<()> {
    if !ring_is_alive(ring) {
        return Err(Errno::BADF);
    }
    let range = libc::iovec { iov_base: ptr.as_ptr().cast(), iov_len: len };
    // SAFETY: the caller promises that the range is its own.
    unsafe { update(ring.descriptor, slot, &range) }
}

pub(in crate::os) fn ring_unregister(ring: Ring, slot: u32) -> Result<()> {
    if ring.owner != incarnation() {
        return Ok(());
    }
    if !is_same_file(ring) {
        return Err(Errno::BADF);
    }
    let nothing = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
    // SAFETY: an empty range is nobody's.
    unsafe { update(ring.descriptor, slot, &nothing) }
}

pub(in crate::os) fn ring_is_alive(ring: Ring) -> bool {
    ring.owner == incarnation() && is_same_file(ring)
}

pub(in crate::os) fn ring_close(ring: Ring) {
    if is_same_file(ring) {
        close(ring.descriptor);
    }
}

fn make(slots: u32) -> Result<Ring> {
    let descriptor = setup()?;
    if let Err(errno) = make_table(descriptor, slots) {
        close(descriptor);
        return Err(errno);
    }
    let descriptor = move_high(descriptor);
    let (device, inode) = file_of(descriptor).inspect_err(|_| close(descriptor))?;
    Ok(Ring { descriptor, owner: incarnation(), device, inode })
}

/// Whether the descriptor still means the file that it meant at first. Each ring has an inode of its own
/// (seen on Linux 6.18); where they share one, only closed descriptors and other kinds of files are noticed.
fn is_same_file(ring: Ring) -> bool {
    file_of(ring.descriptor) == Ok((ring.device, ring.inode))
}

/// `io_uring_setup(1, IORING_SETUP_R_DISABLED)`, io_uring_setup(2), Linux 5.1. The descriptor is close-on-exec.
fn setup() -> Result<libc::c_int> {
    let mut parameters = SetupParameters { entries: [0; 2], flags: SETUP_R_DISABLED, rest: [0; 27] };
    // SAFETY: the kernel reads and writes one `struct io_uring_params` at `parameters`.
    let code = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1_u32, &raw mut parameters) };
    libc::c_int::try_from(check_count(code)?).map_err(|_| Errno::BADF)
}

/// `io_uring_register(IORING_REGISTER_BUFFERS2)` with a sparse table, io_uring_register(2), Linux 5.19.
fn make_table(descriptor: libc::c_int, slots: u32) -> Result<()> {
    let table = TableRegister { slots, flags: RSRC_REGISTER_SPARSE, reserved: 0, data: 0, tags: 0 };
    // SAFETY: the kernel reads `table`, and nothing else, since a sparse table has no data.
    unsafe { io_uring_register(descriptor, REGISTER_BUFFERS2, &table) }.map(drop)
}

/// `io_uring_register(IORING_REGISTER_BUFFERS_UPDATE)` on one slot. Rings are called from any thread: the
/// kernel takes the ring's own lock.
///
/// # Safety
///
/// - The range is empty, or the caller's own.
unsafe fn update(descriptor: libc::c_int, slot: u32, range: &libc::iovec) -> Result<()> {
    let update = TableUpdate {
        offset: slot,
        reserved: 0,
        data: range,
        #[cfg(target_pointer_width = "32")]
        data_high: 0,
        tags: 0,
        count: 1,
        reserved2: 0,
    };
    // SAFETY: the kernel reads `update` and the one `iovec` that it points to. It takes a pin on the range, or
    // drops one; neither changes the contents of memory.
    match unsafe { io_uring_register(descriptor, REGISTER_BUFFERS_UPDATE, &update) }? {
        0 => Err(Errno::AGAIN),
        _ => Ok(()),
    }
}

/// `io_uring_register`, io_uring_register(2).
///
/// # Safety
///
/// - `argument` is what the operation reads, and the addresses in it are valid for that.
unsafe fn io_uring_register<T>(descriptor: libc::c_int, operation: u32, argument: &T) -> Result<usize> {
    let argument: *const T = argument;
    // SAFETY: the caller promises that the kernel finds what it expects.
    let code = unsafe {
        libc::syscall(libc::SYS_io_uring_register, descriptor, operation, argument, size_of::<T>())
    };
    check_count(code)
}

/// `fcntl(F_DUPFD_CLOEXEC)`, fcntl(2), to a high number below the limit; the low one where that fails.
fn move_high(low: libc::c_int) -> libc::c_int {
    let limit = super::limits::descriptor_limit().soft.and_then(|limit| libc::c_int::try_from(limit).ok());
    let least = match limit {
        // Three quarters of a small limit: still out of the way of a program that counts from below.
        Some(limit) if limit / 2 < HIGH_DESCRIPTOR => limit.saturating_sub(limit / 4),
        _ => HIGH_DESCRIPTOR,
    };
    // SAFETY: the call makes a new descriptor and changes no other.
    let high = unsafe { libc::fcntl(low, libc::F_DUPFD_CLOEXEC, least) };
    if high < 0 {
        return low;
    }
    close(low);
    high
}

/// `st_dev` and `st_ino`, fstat(2).
pub(super) fn file_of(descriptor: libc::c_int) -> Result<(u64, u64)> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel writes one `struct stat` to `status`.
    let code = unsafe { libc::fstat(descriptor, status.as_mut_ptr()) };
    super::check(code.into())?;
    // SAFETY: the call succeeded, so it was written.
    let status = unsafe { status.assume_init() };
    #[allow(clippy::useless_conversion, reason = "narrower on some targets")]
    Ok((u64::from(status.st_dev), u64::from(status.st_ino)))
}

/// `close`, close(2). The descriptor is gone even where it reports an error.
pub(super) fn close(descriptor: libc::c_int) {
    // SAFETY: the callers own the descriptor and use it no more.
    unsafe { libc::close(descriptor) };
}
