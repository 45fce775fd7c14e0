//! What cannot be had is an error that names what is missing, and the memory comes back.

use oubliette::dma::xdp::Transfer;

use super::support::child::Role;
use super::support::limits::{self, Resource};
use super::support::seccomp::{self, Denied};
use super::*;

pub(super) const ROLES: &[Role] = &[
    ("no_right_to_program", no_right_to_program),
    ("no_right_to_socket", no_right_to_socket),
    ("no_af_xdp", no_af_xdp),
    ("no_bpf", no_bpf),
    ("limit", limit),
];

/// Of capabilities(7).
const NET_ADMIN: u32 = 12;
const NET_RAW: u32 = 13;
const IPC_LOCK: u32 = 14;
const SYS_ADMIN: u32 = 21;
const BPF: u32 = 39;

#[track_caller]
fn refused<T>(result: Result<T, Error>) -> XdpRefusal {
    match result.map(drop) {
        Err(Error::Xdp(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// The refusal, and that the memory came back with it.
#[track_caller]
fn bind_refused(interface: &Interface, queue: u32, options: XdpOptions) -> XdpRefusal {
    let failed = XdpSocket::bind(umem(16), interface, queue, options).unwrap_err();
    let error = failed.error();
    assert_eq!(failed.into_umem().unwrap().into_buffer().len(), 16 * 2048);
    refused::<()>(Err(error))
}

#[test]
fn interfaces_queues_and_modes_that_there_are_not() {
    with_pair(1, || {
        assert_eq!(refused(Interface::attach("nowhere", Attach::Generic)), XdpRefusal::NoInterface);
        assert_eq!(refused(Interface::attach("no\0where", Attach::Generic)), XdpRefusal::NoInterface);
        assert_eq!(refused(Interface::attach("lo", Attach::Driver)), XdpRefusal::NoDriverMode);
        let interface = Interface::attach(OURS, Attach::Driver).unwrap();
        assert_eq!(refused(Interface::attach(OURS, Attach::Driver)), XdpRefusal::ProgramBusy);
        assert_eq!(refused(Interface::attach(OURS, Attach::Generic)), XdpRefusal::ProgramBusy);
        assert_eq!(bind_refused(&interface, 7, XdpOptions::new()), XdpRefusal::NoQueue);
        let zero_copy = XdpOptions::new().transfer(Transfer::ZeroCopy);
        assert_eq!(bind_refused(&interface, 0, zero_copy), XdpRefusal::NoZeroCopy);
        let socket = bind(&interface, 0, 16, XdpOptions::new());
        assert_eq!(socket.transfer(), Transfer::Copy);
        assert_eq!(bind_refused(&interface, 0, XdpOptions::new()), XdpRefusal::QueueBusy);
        // As soon as it is dropped, the queue is free for another.
        drop(socket);
        drop(bind(&interface, 0, 16, XdpOptions::new()));
        drop(interface);
        drop(Interface::attach(OURS, Attach::Generic).unwrap());
    });
}

#[test]
fn rights_and_kernels_without_it() {
    if !limits::is_root() {
        return skip::not_set_up("giving rights up takes having them");
    }
    for role in ["no_right_to_program", "no_right_to_socket", "no_af_xdp", "no_bpf"] {
        child::run(role, "").assert_success();
    }
}

#[test]
fn the_limit_of_locked_memory_is_named() {
    if !limits::is_root() {
        return skip::not_set_up("an interface takes root");
    }
    child::run("limit", "").assert_success();
}

fn no_right_to_program(_: &str) {
    with_pair(1, || {
        give_up(&[NET_ADMIN, SYS_ADMIN, BPF]);
        assert_eq!(refused(Interface::attach(OURS, Attach::Generic)), XdpRefusal::NoRightToProgram);
    });
}

fn no_right_to_socket(_: &str) {
    with_pair(1, || {
        let interface = Interface::attach(OURS, Attach::Generic).unwrap();
        give_up(&[NET_RAW]);
        assert_eq!(bind_refused(&interface, 0, XdpOptions::new()), XdpRefusal::NoRightToSocket);
    });
}

fn no_af_xdp(_: &str) {
    with_pair(1, || {
        let interface = Interface::attach(OURS, Attach::Generic).unwrap();
        let argument = Some((0, u32::try_from(libc::AF_XDP).unwrap()));
        seccomp::deny(&[Denied { call: libc::SYS_socket, argument, errno: libc::EAFNOSUPPORT }]).unwrap();
        assert_eq!(bind_refused(&interface, 0, XdpOptions::new()), XdpRefusal::Missing);
    });
}

fn no_bpf(_: &str) {
    with_pair(1, || {
        seccomp::deny(&[Denied { call: libc::SYS_bpf, argument: None, errno: libc::ENOSYS }]).unwrap();
        assert_eq!(refused(Interface::attach(OURS, Attach::Generic)), XdpRefusal::Missing);
    });
}

fn limit(_: &str) {
    with_pair(1, || {
        let interface = Interface::attach(OURS, Attach::Generic).unwrap();
        let umem = umem(64);
        give_up(&[IPC_LOCK]);
        limits::set(Resource::LockedMemory, 64 * 1024).unwrap();
        let failed = XdpSocket::bind(umem, &interface, 0, XdpOptions::new()).unwrap_err();
        let expected = Error::PinLimit { needed_bytes: 128 * 1024, limit_bytes: 64 * 1024 };
        assert_eq!(failed.error(), expected);
        assert!(failed.to_string().contains("RLIMIT_MEMLOCK is 65536 bytes"), "{failed}");
        assert_eq!(failed.into_umem().unwrap().into_buffer().len(), 128 * 1024);
    });
}

/// Gives up some of this thread's capabilities: capset(2), by number, since the C library has none.
fn give_up(capabilities: &[u32]) {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    // Effective, permitted, inheritable; low words, then high ones.
    let mut sets = [[0_u32; 3]; 2];
    let mut header = Header { version: 0x2008_0522, pid: 0 };
    // SAFETY: the kernel reads one header and writes both sets (capget(2)).
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    assert_eq!(got, 0);
    for capability in capabilities {
        let set = &mut sets[*capability as usize / 32];
        set[..2].iter_mut().for_each(|word| *word &= !(1 << (capability % 32)));
    }
    // SAFETY: the kernel reads one header and both sets (capget(2)).
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) };
    assert_eq!(done, 0);
}
