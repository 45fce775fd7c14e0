//! malloc(3).
//!
//! The functions that programs call all the time are `C-unwind`. Nothing here unwinds; but a plain `C` function has to
//! stop what would, so that the last call in it is no jump, and each way through it has a stack frame.

use core::ffi::c_void;
use core::ptr;

use crate::{errno, heap};

/// A block of `size` bytes; of none for 0, at an address of its own. It is all zero.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn malloc(size: usize) -> *mut c_void {
    heap::allocate(size).cast()
}

/// A block for `count` objects of `size` bytes, all zero.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn calloc(count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        // A free block is all zero.
        Some(bytes) => heap::allocate(bytes).cast(),
        None => errno::no_memory().cast(),
    }
}

/// Frees a block. `errno` stays as it was.
///
/// # Safety
/// - `ptr` is null, or a block that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn free(ptr: *mut c_void) {
    // SAFETY: forwarded.
    unsafe { heap::free(ptr.cast()) }
}

/// Changes the size of a block. With null for a block it allocates; with 0 for a size it frees and returns null, as
/// the C library does. What the block loses is wiped.
///
/// # Safety
/// - `ptr` is null, or a block that nobody uses by its old address after success.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn realloc(ptr: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: forwarded.
    unsafe { resize(ptr, size) }
}

/// `realloc` by a name of ours: a call of a public symbol goes to whoever has it first, which in a program that opened
/// this library later is the C library.
#[inline(always)]
unsafe fn resize(ptr: *mut c_void, size: usize) -> *mut c_void {
    if ptr.is_null() {
        return heap::allocate(size).cast();
    }
    if size == 0 {
        // SAFETY: forwarded.
        unsafe { heap::free_elsewhere(ptr.cast()) };
        return ptr::null_mut();
    }
    // SAFETY: forwarded.
    unsafe { heap::resize(ptr.cast(), size) }.cast()
}

/// `realloc` to `count` objects of `size` bytes. If these are too many the block is as it was.
///
/// # Safety
/// - As for `realloc`.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn reallocarray(ptr: *mut c_void, count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: forwarded.
        Some(bytes) => unsafe { resize(ptr, bytes) },
        None => errno::no_memory().cast(),
    }
}

/// `free` for a block of `malloc`, `calloc` or `realloc` whose size the caller knows (C23). Ends the process if it
/// has another one.
///
/// # Safety
/// - As for `free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_sized(ptr: *mut c_void, size: usize) {
    // SAFETY: forwarded.
    unsafe { heap::free_layout(ptr.cast(), size, 1) }
}

/// `free` for a block of `aligned_alloc` whose alignment and size the caller knows (C23). Ends the process if it
/// has another size.
///
/// # Safety
/// - As for `free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_aligned_sized(ptr: *mut c_void, align: usize, size: usize) {
    // SAFETY: forwarded.
    unsafe { heap::free_layout(ptr.cast(), size, align) }
}
