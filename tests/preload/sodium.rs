//! libsodium's guarded heap, by its names.

use std::ffi::{CStr, c_int, c_void};
use std::io::Write;

use crate::c;
use crate::library::{On, run};
use crate::support::fork::{ChildEnd, in_child};
use crate::support::limits;

type Pointer = *mut c_void;

const PAGE_BYTES: usize = 4096;
const SIZES: [usize; 8] = [1, 15, 32, 4095, 4096, 4097, 70_000, 1 << 20];

fn function(name: &CStr) -> *mut c_void {
    c::symbol(name).expect("the library has it")
}

fn malloc(size: usize) -> Pointer {
    // SAFETY: the symbol of this name has this type (libsodium's sodium/utils.h).
    let f: extern "C" fn(usize) -> Pointer = unsafe { std::mem::transmute(function(c"sodium_malloc")) };
    f(size)
}

fn allocarray(count: usize, size: usize) -> Pointer {
    // SAFETY: as above.
    let f: extern "C" fn(usize, usize) -> Pointer =
        unsafe { std::mem::transmute(function(c"sodium_allocarray")) };
    f(count, size)
}

fn call<R>(name: &CStr, block: Pointer) -> R {
    // SAFETY: as above: every function that is called by this takes one pointer.
    let f: extern "C" fn(Pointer) -> R = unsafe { std::mem::transmute_copy(&function(name)) };
    f(block)
}

fn free(block: Pointer) {
    call::<()>(c"sodium_free", block);
}

fn protect(how: &CStr, block: Pointer) -> c_int {
    call(how, block)
}

const NOTHING: &CStr = c"sodium_mprotect_noaccess";
const READ: &CStr = c"sodium_mprotect_readonly";
const WRITE: &CStr = c"sodium_mprotect_readwrite";

fn range(name: &CStr, start: Pointer, len: usize) -> c_int {
    // SAFETY: as above.
    let f: extern "C" fn(Pointer, usize) -> c_int = unsafe { std::mem::transmute(function(name)) };
    f(start, len)
}

#[test]
fn the_guarded_heap_of_libsodium() {
    if limits::allow_secrets() {
        run(On::Preload, "sodium", "").assert_success();
    }
}

/// What the process must die of: a signal, and a message of ours where we notice.
const CRIMES: &[(&str, i32, &str)] = &[
    ("read_sealed", libc::SIGSEGV, ""),
    ("write_sealed", libc::SIGSEGV, ""),
    ("write_read_only", libc::SIGSEGV, ""),
    ("overflow", libc::SIGSEGV, ""),
    ("underflow", libc::SIGABRT, "oubliette: block underflow\n"),
    ("double_free", libc::SIGABRT, "oubliette: invalid sodium_free\n"),
    ("read_freed_large", libc::SIGSEGV, ""),
];

#[test]
fn crimes_against_it_end_the_process() {
    if !limits::allow_secrets() {
        return;
    }
    for (crime, signal, message) in CRIMES {
        let ended = run(On::Preload, "sodium_crime", crime);
        assert!(ended.stdout.contains("about to do it"), "{crime} {ended:?}");
        assert_eq!((ended.signal(), ended.stderr.as_str()), (Some(*signal), *message), "{crime}");
    }
}

/// What every block can do. The process ends with one that is sealed.
pub(crate) fn use_it(_: &str) {
    free(std::ptr::null_mut());
    for size in SIZES {
        for after in [NOTHING, READ, WRITE] {
            let block = malloc(size);
            assert!(!block.is_null(), "{size}");
            assert!((block.addr() + size).is_multiple_of(PAGE_BYTES), "{size}: ends at a page");
            // SAFETY: just allocated with this size.
            assert!(unsafe { c::is_full_of(block.cast(), 0xdb, size) });
            // SAFETY: as above.
            unsafe { c::fill(block.cast(), 7, size) };
            assert_eq!(protect(NOTHING, block), 0);
            assert_eq!(protect(READ, block), 0);
            // SAFETY: readable.
            assert!(unsafe { c::is_full_of(block.cast(), 7, size) });
            assert_eq!(protect(WRITE, block), 0);
            // SAFETY: writable.
            unsafe { c::fill(block.cast(), 8, size) };
            assert_eq!(protect(after, block), 0);
            free(block);
        }
    }
    let many: Vec<Pointer> = (1..200).map(malloc).collect();
    for block in many {
        free(block);
    }
    let array = allocarray(10, 30);
    // SAFETY: 300 bytes.
    unsafe { c::fill(array.cast(), 7, 300) };
    free(array);
    c::set_errno(0);
    assert!(allocarray(usize::MAX / 2, 4).is_null());
    assert_eq!(c::errno(), libc::ENOMEM);
    let mut local = [7_u8; 100];
    for how in [NOTHING, READ, WRITE] {
        c::set_errno(0);
        assert_eq!(protect(how, (&raw mut local).cast()), -1);
        assert_eq!(c::errno(), libc::EINVAL);
    }
    assert_eq!(range(c"sodium_mlock", (&raw mut local).cast(), 100), 0);
    assert_eq!(range(c"sodium_munlock", (&raw mut local).cast(), 100), 0);
    assert_eq!(local, [0; 100]);

    let block = malloc(32);
    // SAFETY: just allocated with this size.
    unsafe { c::fill(block.cast(), 7, 32) };
    let end = in_child(|| {
        // SAFETY: mapped in the child: as zeros.
        assert!(unsafe { c::is_full_of(block.cast(), 0, 32) });
        free(block);
        let own = malloc(64);
        // SAFETY: just allocated with this size.
        unsafe { c::fill(own.cast(), 7, 64) };
        free(own);
    });
    assert_eq!(end, ChildEnd::Done);
    // SAFETY: the parent's is as it was.
    assert!(unsafe { c::is_full_of(block.cast(), 7, 32) });
    assert_eq!(protect(NOTHING, block), 0);
}

pub(crate) fn commit(crime: &str) {
    let size = if crime == "read_freed_large" { 1 << 20 } else { 100 };
    let block = malloc(size).cast::<u8>();
    println!("about to do it");
    std::io::stdout().flush().unwrap();
    let read = |at: *mut u8| {
        // SAFETY: none: the crime, which ends the process.
        unsafe { at.read_volatile() }
    };
    let write = |at: *mut u8| {
        // SAFETY: none: the crime, which ends the process.
        unsafe { at.write_volatile(!7) };
    };
    match crime {
        "read_sealed" => {
            protect(NOTHING, block.cast());
            read(block);
        }
        "write_sealed" => {
            protect(NOTHING, block.cast());
            write(block);
        }
        "write_read_only" => {
            protect(READ, block.cast());
            read(block);
            write(block);
        }
        "overflow" => write(block.wrapping_add(size)),
        "underflow" => {
            let before = block.wrapping_sub(1);
            let byte = read(before);
            // SAFETY: none: the crime. A page of ours, so that it is noticed later.
            unsafe { before.write_volatile(!byte) };
            free(block.cast());
        }
        "double_free" => {
            free(block.cast());
            free(block.cast());
        }
        "read_freed_large" => {
            free(block.cast());
            read(block);
        }
        other => panic!("no crime {other}"),
    }
}
