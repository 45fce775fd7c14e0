//! The program that hands packets to sockets, by `bpf(2)`, without libbpf.
//!
//! ```text
//! r2 = ctx->rx_queue_index        the queue that the packet came in by
//! r1 = the map of sockets
//! r3 = XDP_PASS                   where the map has no socket for it: on to the system, as if we were not there
//! r0 = bpf_redirect_map(r1, r2, r3)
//! exit
//! ```

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use super::{Socket, size_of_u32};
use crate::os::linux::check_count;
use crate::os::{Call, Errno, Result, fake};

// Of `include/uapi/linux/bpf.h`. Commands:
const MAP_CREATE: u32 = 0;
const MAP_UPDATE_ELEM: u32 = 2;
const MAP_DELETE_ELEM: u32 = 3;
const PROG_LOAD: u32 = 5;
/// Linux 5.7, for XDP 5.9.
const LINK_CREATE: u32 = 28;
/// Linux 5.9.
const LINK_DETACH: u32 = 34;
// Types:
const MAP_TYPE_XSKMAP: u32 = 17;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
/// The helper `bpf_redirect_map`. Its last argument says what to do where the map has nothing (Linux 5.3).
const REDIRECT_MAP: i32 = 51;
const XDP_PASS: i32 = 2;
/// Where `rx_queue_index` lies in `struct xdp_md`.
const RX_QUEUE_INDEX: i16 = 16;

/// `struct bpf_insn`.
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    const fn new(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Self {
        // Little-endian machines have the target in the low half; the others the other way round.
        let registers = if cfg!(target_endian = "little") { (from << 4) | to } else { (to << 4) | from };
        Self { code, registers, offset, immediate }
    }
}

/// A table of sockets by queue number: an XSKMAP.
#[derive(Debug)]
pub(crate) struct Map(OwnedFd);

impl Map {
    /// Makes one with so many places.
    ///
    /// - Result: `PERM` without `CAP_NET_ADMIN` and `CAP_BPF`, `NOSYS` without bpf(2), `INVAL` without AF_XDP.
    pub(crate) fn new(places: u32) -> Result<Self> {
        #[repr(C)]
        struct Create {
            map_type: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
            flags: u32,
        }
        let attributes =
            Create { map_type: MAP_TYPE_XSKMAP, key_size: 4, value_size: 4, max_entries: places, flags: 0 };
        // SAFETY: these are the attributes of the command; no address is in them.
        unsafe { make(MAP_CREATE, &attributes) }.map(Self)
    }

    /// Hands packets of a queue to a socket from now on.
    pub(crate) fn set(&self, queue: u32, socket: &Socket) -> Result<()> {
        let socket = socket.as_fd().as_raw_fd();
        // SAFETY: key and value are of the sizes that the map was made with.
        unsafe { self.element(MAP_UPDATE_ELEM, &raw const queue, &raw const socket) }
    }

    /// Hands packets of a queue to the system from now on. A packet on its way may still reach the socket.
    pub(crate) fn clear(&self, queue: u32) -> Result<()> {
        // SAFETY: as for `set`; the command has no value.
        unsafe { self.element(MAP_DELETE_ELEM, &raw const queue, core::ptr::null()) }
    }

    /// # Safety
    ///
    /// - The pointers are what the command takes, valid for a read.
    unsafe fn element(&self, command: u32, key: *const u32, value: *const i32) -> Result<()> {
        #[repr(C)]
        struct Element {
            map: i32,
            padding: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let attributes = Element {
            map: self.0.as_raw_fd(),
            padding: 0,
            key: address(key),
            value: address(value),
            flags: 0,
        };
        // SAFETY: the caller promises what the addresses in it point to.
        unsafe { bpf(command, &attributes) }.map(drop)
    }
}

/// A program that is attached to an interface, until it is [detached](Self::detach) or no process has the descriptor
/// any more.
#[derive(Debug)]
pub(crate) struct Attachment(OwnedFd);

impl Attachment {
    /// In the driver, before the system makes a packet of its own of what came.
    pub(crate) const DRIVER: u32 = 1 << 2;
    /// In the system, after that: works with every interface.
    pub(crate) const GENERIC: u32 = 1 << 1;

    /// Loads the program for a map and attaches it to an interface of this thread's network namespace.
    ///
    /// - Result: `PERM` without `CAP_NET_ADMIN` and `CAP_BPF`; `BUSY` or `EXIST` where the interface has a program;
    ///   `OPNOTSUPP` where the driver cannot; `INVAL` before Linux 5.9.
    pub(crate) fn new(map: &Map, interface: u32, mode: u32) -> Result<Self> {
        #[repr(C)]
        struct Create {
            program: i32,
            interface: u32,
            attach_type: u32,
            flags: u32,
        }
        let program = load(map.0.as_fd())?;
        let attributes =
            Create { program: program.as_raw_fd(), interface, attach_type: ATTACH_XDP, flags: mode };
        // SAFETY: these are the attributes of the command; no address is in them.
        unsafe { make(LINK_CREATE, &attributes) }.map(Self)
    }

    /// Takes the program off, also where another process has the descriptor.
    pub(crate) fn detach(&self) -> Result<()> {
        // SAFETY: the attribute of the command is the descriptor.
        unsafe { bpf(LINK_DETACH, &self.0.as_raw_fd()) }.map(drop)
    }
}

/// `if_nametoindex(3)`, in this thread's network namespace.
///
/// - Result: `NODEV` without such an interface.
pub(crate) fn interface_index(name: &CStr) -> Result<u32> {
    // SAFETY: reads the name up to its zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(Errno::last()),
        index => Ok(index),
    }
}

fn load(map: BorrowedFd<'_>) -> Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        program_type: u32,
        nr_instructions: u32,
        instructions: u64,
        license: u64,
        log: [u32; 2],
        log_buffer: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        attach_type: u32,
    }
    let program = [
        // BPF_LDX | BPF_W | BPF_MEM
        Instruction::new(0x61, 2, 1, RX_QUEUE_INDEX, 0),
        // BPF_LD | BPF_DW | BPF_IMM, of a map (BPF_PSEUDO_MAP_FD): two places long
        Instruction::new(0x18, 1, 1, 0, map.as_raw_fd()),
        Instruction::new(0, 0, 0, 0, 0),
        // BPF_ALU64 | BPF_MOV | BPF_K
        Instruction::new(0xb7, 3, 0, 0, XDP_PASS),
        // BPF_JMP | BPF_CALL
        Instruction::new(0x85, 0, 0, 0, REDIRECT_MAP),
        // BPF_JMP | BPF_EXIT
        Instruction::new(0x95, 0, 0, 0, 0),
    ];
    let attributes = Load {
        program_type: PROG_TYPE_XDP,
        nr_instructions: u32::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        instructions: address(program.as_ptr()),
        // It calls nothing that asks for another licence.
        license: address(c"MIT OR Apache-2.0".as_ptr()),
        log: [0; 2],
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"oubliette_xdp\0\0\0",
        interface: 0,
        attach_type: ATTACH_XDP,
    };
    // SAFETY: these are the attributes of the command; the addresses are those of the program and of a string.
    unsafe { make(PROG_LOAD, &attributes) }
}

/// The address as the kernel takes it, in 64 bits everywhere.
fn address<T>(pointer: *const T) -> u64 {
    u64::try_from(pointer.expose_provenance()).unwrap_or(0)
}

/// A command that makes a descriptor. It is close-on-exec.
///
/// # Safety
///
/// As for [`bpf`].
unsafe fn make<T>(command: u32, attributes: &T) -> Result<OwnedFd> {
    // SAFETY: forwarded.
    let descriptor = unsafe { bpf(command, attributes) }?;
    let descriptor = libc::c_int::try_from(descriptor).map_err(|_| Errno::BADF)?;
    // SAFETY: made just now, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// `bpf(2)`.
///
/// # Safety
///
/// - `attributes` is what the command reads, and the addresses in it are valid for that.
unsafe fn bpf<T>(command: u32, attributes: &T) -> Result<usize> {
    fake::gate(Call::XdpProgram)?;
    let attributes: *const T = attributes;
    // SAFETY: the caller promises that the kernel finds what it expects. It writes nothing for these commands.
    let code = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of_u32::<T>()) };
    check_count(code)
}
