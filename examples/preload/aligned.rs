//! posix_memalign(3).

use core::ffi::{c_int, c_void};

use crate::{errno, heap};

const PAGE_BYTES: usize = 4096;

/// A block aligned to a power of two that is a multiple of the size of a pointer. Returns the error; `errno` stays
/// as it was.
///
/// # Safety
/// - `place` can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(place: *mut *mut c_void, align: usize, size: usize) -> c_int {
    if !align.is_power_of_two() || align < size_of::<*mut c_void>() {
        return libc::EINVAL;
    }
    let block = errno::preserved(|| heap::allocate_aligned(size, align));
    if block.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: forwarded.
    unsafe { place.write(block.cast()) };
    0
}

/// A block aligned to a power of two; `EINVAL` for any other number. The size need not be a multiple of it.
#[unsafe(no_mangle)]
pub extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    if !align.is_power_of_two() {
        return errno::invalid().cast();
    }
    heap::allocate_aligned(size, align).cast()
}

/// A block aligned to this or, as in the C library, to the next power of two.
#[unsafe(no_mangle)]
pub extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    match align.checked_next_power_of_two() {
        Some(align) => heap::allocate_aligned(size, align).cast(),
        None => errno::invalid().cast(),
    }
}

/// A block aligned to the size of a page.
#[unsafe(no_mangle)]
pub extern "C" fn valloc(size: usize) -> *mut c_void {
    heap::allocate_aligned(size, PAGE_BYTES).cast()
}

/// The same in whole pages: at least one.
#[unsafe(no_mangle)]
pub extern "C" fn pvalloc(size: usize) -> *mut c_void {
    match size.max(1).checked_next_multiple_of(PAGE_BYTES) {
        Some(size) => heap::allocate_aligned(size, PAGE_BYTES).cast(),
        None => errno::no_memory().cast(),
    }
}
