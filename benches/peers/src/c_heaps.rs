//! The secure heaps of OpenSSL and libgcrypt: a locked arena each, made once.

use std::ffi::{c_char, c_int, c_void};
use std::sync::Once;

/// Bytes of either arena: OpenSSL's must be a power of two.
const ARENA_BYTES: usize = 16 << 20;

#[link(name = "crypto")]
unsafe extern "C" {
    fn CRYPTO_secure_malloc_init(size: usize, minsize: usize) -> c_int;
    fn CRYPTO_secure_malloc(size: usize, file: *const c_char, line: c_int) -> *mut c_void;
    fn CRYPTO_secure_clear_free(ptr: *mut c_void, size: usize, file: *const c_char, line: c_int);
}

#[link(name = "gcrypt")]
unsafe extern "C" {
    fn gcry_check_version(required: *const c_char) -> *const c_char;
    fn gcry_control(command: c_int, ...) -> u32;
    fn gcry_malloc_secure(size: usize) -> *mut c_void;
    fn gcry_free(ptr: *mut c_void);
}

/// `gcry_ctl_cmds` of gcrypt.h.
const GCRYCTL_INIT_SECMEM: c_int = 24;
const GCRYCTL_INITIALIZATION_FINISHED: c_int = 38;

/// One of the two heaps.
#[derive(Clone, Copy)]
pub enum CHeap {
    OpenSsl,
    Libgcrypt,
}

impl CHeap {
    pub const ALL: [(&'static str, Self); 2] =
        [("OpenSSL secure heap", Self::OpenSsl), ("libgcrypt secure heap", Self::Libgcrypt)];

    /// A block, or null. Sets the heap up at the first call.
    pub fn allocate(self, bytes: usize) -> *mut u8 {
        static SET_UP: [Once; 2] = [Once::new(), Once::new()];
        match self {
            Self::OpenSsl => {
                SET_UP[0].call_once(|| {
                    // SAFETY: called once, before any allocation; both sizes are powers of two.
                    let outcome = unsafe { CRYPTO_secure_malloc_init(ARENA_BYTES, 16) };
                    assert_eq!(outcome, 1, "OpenSSL's secure heap could not be locked");
                });
                // SAFETY: the heap is set up; a null file name is allowed.
                unsafe { CRYPTO_secure_malloc(bytes, std::ptr::null(), 0) }.cast()
            }
            Self::Libgcrypt => {
                SET_UP[1].call_once(|| {
                    // SAFETY: the order that the manual asks for: version, secure memory, finished.
                    unsafe {
                        gcry_check_version(std::ptr::null());
                        gcry_control(GCRYCTL_INIT_SECMEM, ARENA_BYTES as c_int, 0);
                        gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
                    }
                });
                // SAFETY: the library is set up.
                unsafe { gcry_malloc_secure(bytes) }.cast()
            }
        }
    }

    /// Wipes and frees a block.
    ///
    /// # Safety
    /// - `block` is one of this heap, of `bytes` bytes, and nobody uses it any more.
    pub unsafe fn free(self, block: *mut u8, bytes: usize) {
        match self {
            // SAFETY: forwarded.
            Self::OpenSsl => unsafe { CRYPTO_secure_clear_free(block.cast(), bytes, std::ptr::null(), 0) },
            // SAFETY: forwarded; secure memory is wiped by `gcry_free`.
            Self::Libgcrypt => unsafe { gcry_free(block.cast()) },
        }
    }
}
