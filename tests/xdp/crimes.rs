//! Rings that say what cannot be: the process ends before it touches a byte that is not a frame's.

use std::os::fd::{AsFd, AsRawFd};

use super::support::child::Role;
use super::*;

pub(super) const ROLES: &[Role] = &[("overwrite", overwrite)];

const MESSAGE: &str = "oubliette: AF_XDP ring corrupted\n";

#[test]
fn a_ring_that_was_overwritten_ends_the_process() {
    if !support::limits::is_root() {
        return skip::not_set_up("an interface takes root");
    }
    for crime in ["producer", "start", "high", "last", "length", "frame", "completed"] {
        let ended = child::run("overwrite", crime);
        if ended.stderr.contains("skipped: ") {
            continue;
        }
        assert_eq!(ended.signal(), Some(libc::SIGABRT), "{crime}: {ended:?}");
        assert!(ended.stderr.ends_with(MESSAGE), "{crime}: {ended:?}");
    }
    child::run("overwrite", "nothing").assert_success();
}

fn overwrite(crime: &str) {
    with_pair(1, || {
        let interface = Interface::attach(OURS, Attach::Driver).unwrap();
        let socket = bind(&interface, 0, 16, XdpOptions::new());
        let wire = Wire::new(THEIRS).unwrap();
        settle(&wire, &socket);
        let held = {
            wire.send(&packet(1, 60)).unwrap();
            next(&socket)
        };
        wire.send(&packet(2, 60)).unwrap();
        assert!(socket.wait(Some(LONG)).unwrap() > 0);
        let offsets = offsets_of(&socket);
        let (receive, completed) = (ring_at(0), ring_at(0x1_8000_0000));
        let consumer = read(receive, offsets.rx.consumer);
        // A descriptor: the low and the high half of where it starts, its length.
        let entry = |number: u32| offsets.rx.desc + 16 * u64::from(number % 16);
        let this = entry(consumer);
        match crime {
            "producer" => {
                write(receive, offsets.rx.producer, consumer.wrapping_add(17));
                let _ = socket.wait(Some(Duration::ZERO));
            }
            "start" => write(receive, this, 16 * 2048),
            "high" => write(receive, this + 4, 1),
            "last" => write(receive, this, 16 * 2048 - 59),
            "length" => write(receive, this + 8, 2048),
            // That of the packet that is still held.
            "frame" => write(receive, this, read(receive, entry(consumer.wrapping_sub(1)))),
            // Nothing was sent.
            "completed" => {
                write(completed, offsets.cr.producer, 1);
                let _ = socket.sending();
            }
            _ => {}
        }
        let received = socket.receive().unwrap();
        assert_eq!(*received, *packet(2, 60));
        assert_eq!(*held, *packet(1, 60));
    });
}

/// The word at an offset of a ring.
fn read(ring: *mut u8, offset: u64) -> u32 {
    // SAFETY: the kernel says where in the mapping, which has room for 16 entries, its numbers and entries lie.
    let word = unsafe { ring.add(offset as usize) }.cast::<u32>();
    // SAFETY: mapped, and aligned as the kernel's words are.
    unsafe { word.read_volatile() }
}

fn write(ring: *mut u8, offset: u64, value: u32) {
    // SAFETY: as for `read`.
    let word = unsafe { ring.add(offset as usize) }.cast::<u32>();
    // SAFETY: as for `read`. What is overwritten is what this test is about.
    unsafe { word.write_volatile(value) };
}

fn offsets_of(socket: &XdpSocket) -> libc::xdp_mmap_offsets {
    // SAFETY: integers, for which all zeros are a value.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    let mut len = u32::try_from(size_of_val(&offsets)).unwrap();
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes.
    let result = unsafe {
        libc::getsockopt(
            descriptor,
            libc::SOL_XDP,
            libc::XDP_MMAP_OFFSETS,
            (&raw mut offsets).cast(),
            &raw mut len,
        )
    };
    assert_eq!(result, 0);
    offsets
}

/// Where the ring with this offset in the socket is mapped.
fn ring_at(offset: u64) -> *mut u8 {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| {
        line.contains("socket:[")
            && line.split(' ').nth(2).and_then(|text| u64::from_str_radix(text, 16).ok()) == Some(offset)
    });
    let start = line.and_then(|line| line.split('-').next()).unwrap();
    std::ptr::with_exposed_provenance_mut(usize::from_str_radix(start, 16).unwrap())
}
