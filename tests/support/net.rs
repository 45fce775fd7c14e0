//! A network of a test's own: a namespace with a pair of interfaces, what goes into one of which comes out of the
//! other. Made by netlink messages (rtnetlink(7)), so that nothing has to be installed.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::{pattern, skip};

/// Runs a test in a thread with a network namespace of its own, in which nothing speaks but the test. Says so where
/// that cannot be.
#[track_caller]
pub(crate) fn in_own_network(test: impl FnOnce() + Send) {
    if !super::limits::is_root() {
        return skip::not_set_up("a network namespace takes root");
    }
    let done = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: no memory is involved; only this thread moves (unshare(2)).
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            // Interfaces without IPv6 send nothing by themselves.
            let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
            test();
            Ok(())
        });
        match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    if let Err(error) = done {
        skip::not_set_up(&format!("no network namespace: {error}"));
    }
}

/// Makes a pair of connected interfaces with so many queues, in this thread's namespace.
pub(crate) fn make_pair(left: &str, right: &str, queues: u32) -> io::Result<()> {
    let mut peer = vec![0; INTERFACE_BYTES];
    attribute(&mut peer, libc::IFLA_IFNAME, &name(right));
    attribute(&mut peer, libc::IFLA_NUM_TX_QUEUES, &queues.to_ne_bytes());
    attribute(&mut peer, libc::IFLA_NUM_RX_QUEUES, &queues.to_ne_bytes());
    let mut data = Vec::new();
    attribute(&mut data, VETH_INFO_PEER, &peer);
    let mut kind = Vec::new();
    attribute(&mut kind, libc::IFLA_INFO_KIND, b"veth");
    attribute(&mut kind, libc::IFLA_INFO_DATA, &data);
    let mut body = vec![0; INTERFACE_BYTES];
    attribute(&mut body, libc::IFLA_IFNAME, &name(left));
    attribute(&mut body, libc::IFLA_NUM_TX_QUEUES, &queues.to_ne_bytes());
    attribute(&mut body, libc::IFLA_NUM_RX_QUEUES, &queues.to_ne_bytes());
    attribute(&mut body, libc::IFLA_LINKINFO, &kind);
    ask(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body)
}

/// Turns an interface on.
pub(crate) fn turn_on(interface: &str) -> io::Result<()> {
    let mut body = interface_message(interface);
    let up = u32::try_from(libc::IFF_UP).expect("a flag").to_ne_bytes();
    body[8..12].copy_from_slice(&up);
    body[12..16].copy_from_slice(&up);
    ask(libc::RTM_NEWLINK, 0, &body)
}

/// Removes an interface, and the other of its pair.
pub(crate) fn remove(interface: &str) -> io::Result<()> {
    ask(libc::RTM_DELLINK, 0, &interface_message(interface))
}

/// `struct ifinfomsg`.
const INTERFACE_BYTES: usize = 16;
const VETH_INFO_PEER: u16 = 1;

fn interface_message(interface: &str) -> Vec<u8> {
    let mut body = vec![0; INTERFACE_BYTES];
    body[4..8].copy_from_slice(&index_of(interface).to_ne_bytes());
    body
}

/// The number of an interface of this thread's namespace.
pub(crate) fn index_of(interface: &str) -> u32 {
    let name = std::ffi::CString::new(interface).expect("a name");
    // SAFETY: reads the name up to its zero.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

fn name(interface: &str) -> Vec<u8> {
    [interface.as_bytes(), &[0]].concat()
}

/// Appends an attribute: its length, its type, its value, up to the next multiple of 4.
fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).expect("short");
    message.extend(len.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// Sends a request to the kernel and waits for its answer.
fn ask(kind: u16, flags: i32, body: &[u8]) -> io::Result<()> {
    let socket = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    let flags = u16::try_from(flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK).expect("flags have 16 bits");
    let mut message = Vec::new();
    message.extend(u32::try_from(16 + body.len()).expect("short").to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    message.extend(body);
    send(&socket, &message)?;
    let mut answer = [0; 4096];
    let len = receive(&socket, &mut answer, 0)?;
    // `struct nlmsghdr`, then the number of an error or zero.
    let number = answer[..len].get(16..20).and_then(|number| number.try_into().ok());
    match number.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(-number)),
        None => Err(io::Error::other("a short answer of netlink")),
    }
}

/// A socket that sends and receives whole packets of one interface: packet(7).
pub(crate) struct Wire(OwnedFd);

impl Wire {
    pub(crate) fn new(interface: &str) -> io::Result<Self> {
        let protocol = u16::try_from(libc::ETH_P_ALL).expect("16 bits").to_be();
        let socket = socket(libc::AF_PACKET, libc::SOCK_RAW, protocol.into())?;
        // SAFETY: integers and bytes, for which all zeros are a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).expect("16 bits");
        address.sll_protocol = protocol;
        address.sll_ifindex = i32::try_from(index_of(interface)).expect("31 bits");
        let len = u32::try_from(size_of_val(&address)).expect("short");
        // SAFETY: the kernel reads one `struct sockaddr_ll` (packet(7)).
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) }.into())?;
        Ok(Self(socket))
    }

    pub(crate) fn send(&self, packet: &[u8]) -> io::Result<()> {
        send(&self.0, packet)
    }

    /// The next packet that the interface received, not one that it sent.
    pub(crate) fn receive(&self, longest: Duration) -> Option<Vec<u8>> {
        let end = std::time::Instant::now() + longest;
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            let mut subject = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            let millis = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
            // SAFETY: the kernel reads and writes one `struct pollfd`.
            if unsafe { libc::poll(&raw mut subject, 1, millis) } <= 0 {
                return None;
            }
            let mut packet = vec![0; 4096];
            // SAFETY: integers and bytes, for which all zeros are a value.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut from_len = u32::try_from(size_of_val(&from)).expect("short");
            let (buffer, room) = (packet.as_mut_ptr().cast(), packet.len());
            // SAFETY: the kernel writes at most `room` bytes to the packet, and one address.
            let len = unsafe {
                libc::recvfrom(self.0.as_raw_fd(), buffer, room, 0, (&raw mut from).cast(), &raw mut from_len)
            };
            packet.truncate(usize::try_from(len).ok()?);
            if from.sll_pkttype != libc::PACKET_OUTGOING {
                return Some(packet);
            }
        }
    }
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved (socket(2)).
    let descriptor = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    check(descriptor.into())?;
    // SAFETY: made just now, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn send(socket: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads these bytes (send(2)).
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
    check(sent as i64)
}

fn receive(socket: &OwnedFd, bytes: &mut [u8], flags: i32) -> io::Result<usize> {
    // SAFETY: the kernel writes at most as many bytes (recv(2)).
    let len = unsafe { libc::recv(socket.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), flags) };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}

fn check(result: i64) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Packet number `seed`, of `len` bytes: a header that sends it to everybody, then a pattern.
pub(crate) fn packet(seed: u64, len: usize) -> Vec<u8> {
    let mut packet = vec![0xff; len];
    packet[6..12].fill(2);
    // A type of packets for experiments, so that nothing of the system answers.
    packet[12..14].copy_from_slice(&[0x88, 0xb5]);
    pattern::fill(&mut packet[14..], seed);
    packet
}
