//! libsodium's guarded heap, by its names (<https://doc.libsodium.org/memory_management>): each block on pages of its
//! own between guard pages, ending at the one behind it, with a canary in front; locked, pinned where the kernel
//! offers it, wiped when it is freed and when the process ends.
//!
//! Put in front of libsodium, these functions take the place of its own for the whole program. Differences: the
//! memory is zeros for a forked child, and may be sealed (`sodium_mprotect_noaccess`) when the process ends.

use core::ffi::{c_int, c_void};
use core::ptr;

use oubliette::IsolatedBytes;

use crate::errno;
use crate::sodium_table::{insert, remove, with};

/// What fresh memory is filled with, as by libsodium, so that who forgets to initialise it notices.
const GARBAGE: u8 = 0xdb;

/// `size` bytes. Null and `ENOMEM` if there is no memory that can be protected.
#[unsafe(no_mangle)]
pub extern "C" fn sodium_malloc(size: usize) -> *mut c_void {
    let Ok(bytes) = IsolatedBytes::new(size) else { return errno::no_memory().cast() };
    let first = bytes.as_ptr();
    // SAFETY: so many bytes, open for writing, of which there is no reference.
    unsafe { first.write_bytes(GARBAGE, size) };
    if insert(bytes) { first.as_ptr().cast() } else { errno::no_memory().cast() }
}

/// `count` objects of `size` bytes.
#[unsafe(no_mangle)]
pub extern "C" fn sodium_allocarray(count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        Some(bytes) => sodium_malloc(bytes),
        None => errno::no_memory().cast(),
    }
}

/// Wipes and frees what `sodium_malloc` gave, whatever may be done with it at the moment. Ends the process for any
/// other address, and if what is in front of it was written to.
///
/// # Safety
/// - `ptr` is null, or a block of `sodium_malloc` that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sodium_free(ptr: *mut c_void) {
    if ptr.is_null() {
        return;
    }
    match remove(ptr.addr()) {
        Some(bytes) => errno::preserved(|| drop(bytes)),
        None => errno::abort_with("oubliette: invalid sodium_free\n"),
    }
}

/// Takes all access away. Returns 0, or -1 and `EINVAL` for an address that is no block.
///
/// # Safety
/// - Nobody accesses the block until that is allowed again: it would be a fault.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sodium_mprotect_noaccess(ptr: *mut c_void) -> c_int {
    answer(with(ptr.addr(), |bytes| {
        bytes.seal();
        true
    }))
}

/// Lets a block be read only.
///
/// # Safety
/// - As for `sodium_mprotect_noaccess`, of writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sodium_mprotect_readonly(ptr: *mut c_void) -> c_int {
    answer(with(ptr.addr(), |bytes| bytes.open_to_read().is_ok()))
}

/// Lets a block be read and written.
#[unsafe(no_mangle)]
pub extern "C" fn sodium_mprotect_readwrite(ptr: *mut c_void) -> c_int {
    answer(with(ptr.addr(), |bytes| bytes.open().is_ok()))
}

fn answer(outcome: Option<bool>) -> c_int {
    match outcome {
        Some(true) => 0,
        Some(false) => {
            errno::set(libc::ENOMEM);
            -1
        }
        None => {
            errno::set(libc::EINVAL);
            -1
        }
    }
}

/// Locks memory of the program's own and keeps it out of core dumps.
///
/// # Safety
/// - As for mlock(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sodium_mlock(ptr: *mut c_void, len: usize) -> c_int {
    // SAFETY: changes no content (madvise(2)). It wants whole pages; for others the lock alone counts.
    let _ = unsafe { libc::madvise(ptr, len, libc::MADV_DONTDUMP) };
    // SAFETY: forwarded (mlock(2)).
    unsafe { libc::mlock(ptr, len) }
}

/// Wipes memory of the program's own and unlocks it.
///
/// # Safety
/// - `len` bytes at `ptr` are the program's to overwrite.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sodium_munlock(ptr: *mut c_void, len: usize) -> c_int {
    // SAFETY: forwarded.
    unsafe { sodium_memzero(ptr, len) };
    // SAFETY: changes no content (madvise(2)).
    let _ = unsafe { libc::madvise(ptr, len, libc::MADV_DODUMP) };
    // SAFETY: forwarded (munlock(2)).
    unsafe { libc::munlock(ptr, len) }
}

/// Wipes memory of the program's own, past the caches.
///
/// # Safety
/// - `len` bytes at `ptr` are the program's to overwrite.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sodium_memzero(ptr: *mut c_void, len: usize) {
    if !ptr.is_null() && len != 0 {
        // SAFETY: forwarded. What the bytes were does not matter: they are written before they are read.
        let bytes = unsafe { &mut *ptr::slice_from_raw_parts_mut(ptr.cast::<u8>(), len) };
        oubliette::wipe(bytes);
    }
}
