//! Touching what must not be touched, in a child that must die of it; and each with a lawful twin.

use std::io::Write as _;

use oubliette::IsolatedBox;

use super::support::child::{self, Role};
use super::support::pages::{OwnMemory, PAGE_BYTES};
use super::{address_of, key_of};

/// Byte at an offset from a sealed secret.
pub(super) const ROLES: &[Role] = &[
    ("touch_sealed", |offset| touch(address_of(&key_of(1)), offset)),
    ("touch_open", |offset| {
        let secret = key_of(1);
        let address = address_of(&secret);
        let _open = secret.open().unwrap();
        touch(address, offset);
    }),
    ("write_open", |_| {
        let secret = key_of(1);
        let address = address_of(&secret);
        let _open = secret.open().unwrap();
        println!("ready");
        // SAFETY: the page may only be read, so this is a fault, which the test wants.
        unsafe { (address as *mut u8).write_volatile(0) };
    }),
    ("touch_dropped", |_| {
        // More than are kept ready, so that the last are sealed again and without memory.
        let many: Vec<_> = (0..3000).map(|_| key_of(1)).collect();
        let address = address_of(&many[2999]);
        drop(many);
        touch(address, "0");
    }),
    ("leave_nothing", |_| leave_nothing()),
    ("underrun", |distance| {
        let mut secret = key_of(1);
        let distance: usize = distance.parse().unwrap();
        let mut open = secret.open_mut().unwrap();
        // No byte of the canary is zero, and all bytes before it are.
        let byte = if distance <= 16 { 0 } else { 0x77 };
        println!("ready");
        // SAFETY: inside the page of the secret but not of the secret: a crime that the canary must show.
        unsafe { open.as_mut_ptr().wrapping_sub(distance).write_volatile(byte) };
        drop(open);
        drop(secret);
    }),
    ("write_after_free", |_| {
        let secret = key_of(1);
        let address = address_of(&secret);
        drop(secret);
        println!("ready");
        // SAFETY: the place is kept ready, so it can be written to: a crime that its next use must show.
        unsafe { (address as *mut u8).wrapping_sub(100).write_volatile(1) };
        drop(key_of(2));
    }),
];

fn touch(address: usize, offset: &str) {
    let offset: isize = offset.parse().unwrap();
    println!("ready");
    std::io::stdout().flush().unwrap();
    // SAFETY: either a fault, which the test wants, or a byte of a secret.
    let byte = unsafe { (address as *const u8).wrapping_offset(offset).read_volatile() };
    println!("read {byte}");
}

#[track_caller]
fn dies(role: &str, argument: &str, signal: i32, message: &str) {
    let ended = child::run(role, argument);
    assert!(ended.stdout.contains("ready"), "{role} {argument}: {ended:?}");
    assert_eq!(ended.signal(), Some(signal), "{role} {argument}: {ended:?}");
    assert!(ended.stderr.ends_with(message), "{role} {argument}: {ended:?}");
}

#[test]
fn any_touch_of_a_sealed_secret_is_a_fault() {
    for offset in ["0", "31", "-1", "32"] {
        dies("touch_sealed", offset, libc::SIGSEGV, "");
    }
}

#[test]
fn the_guards_of_an_open_secret_fault_at_their_first_byte() {
    // The secret ends where its page does; the page in front of its own is a guard too.
    dies("touch_open", "32", libc::SIGSEGV, "");
    let before = -(PAGE_BYTES as isize) + 31;
    dies("touch_open", &before.to_string(), libc::SIGSEGV, "");
    // The lawful twins.
    for offset in ["0", "31"] {
        let ended = child::run("touch_open", offset);
        ended.assert_success();
        assert_eq!(ended.number("read"), 1);
    }
}

#[test]
fn writing_through_a_shared_guard_is_a_fault() {
    dies("write_open", "", libc::SIGSEGV, "");
}

#[test]
fn a_dropped_secret_is_out_of_reach() {
    dies("touch_dropped", "", libc::SIGSEGV, "");
}

#[test]
fn an_underrun_ends_the_process() {
    for distance in ["1", "16", "17", "1000"] {
        dies("underrun", distance, libc::SIGABRT, "oubliette: block underflow\n");
    }
}

#[test]
fn a_write_to_a_place_that_was_given_back_ends_the_process() {
    dies("write_after_free", "", libc::SIGABRT, "oubliette: write after free\n");
}

#[test]
fn nothing_is_left_where_a_secret_was() {
    // In a process of its own: here other tests take the places that are given back.
    child::run("leave_nothing", "").assert_success();
}

fn leave_nothing() {
    let memory = OwnMemory::open();
    let mut addresses = Vec::new();
    {
        let many: Vec<_> = (0..2000).map(|_| key_of(0x5a)).collect();
        addresses.extend(many.iter().map(address_of));
        assert!(!memory.is_zero(addresses[0], 32), "the control: it was there, and the kernel can see it");
    }
    for address in addresses {
        // The whole page: nothing of it but the secret and its canary was ever written.
        assert!(memory.is_zero(address & !(PAGE_BYTES - 1), PAGE_BYTES));
    }
}

#[test]
fn sizes_and_alignments() {
    #[repr(align(64))]
    struct Line([u8; 100]);
    oubliette::impl_inline!(Line { 0 });
    #[repr(align(8192))]
    struct TwoPages([u8; 100]);
    oubliette::impl_inline!(TwoPages { 0 });

    fn check<T: oubliette::Inline>() {
        let secrets: Vec<_> = (0..3).map(|_| IsolatedBox::<T>::new_with(|_| ()).unwrap()).collect();
        for secret in &secrets {
            let address = address_of(secret);
            assert_eq!(address % align_of::<T>(), 0);
            assert_eq!((address + size_of::<T>()) % PAGE_BYTES, 0, "flush with what follows");
        }
    }
    check::<()>();
    check::<u8>();
    check::<Line>();
    check::<TwoPages>();
    check::<[u8; 4096]>();
    check::<[u64; 513]>();
    check::<[u8; 70_000]>();
    let mut large = IsolatedBox::<[u8; 3 << 20]>::new_with(|bytes| bytes[3 << 19] = 1).unwrap();
    large.open_mut().unwrap()[0] = 2;
    assert_eq!((large.open().unwrap()[0], large.open().unwrap()[3 << 19]), (2, 1));
}
