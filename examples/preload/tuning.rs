//! What programs ask of the C library's allocator besides blocks.

use core::ffi::{c_int, c_void};

use crate::heap;

/// malloc_usable_size(3): exactly the size that was asked for, since what is behind is checked. 0 for null.
///
/// # Safety
/// - `ptr` is null or a block. The process ends for a block that was freed.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn malloc_usable_size(ptr: *mut c_void) -> usize {
    heap::usable_size(ptr.cast())
}

/// malloc_trim(3): gives memory without blocks back to the system.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_trim(_keep: usize) -> c_int {
    oubliette::trim();
    1
}

/// mallopt(3): there is nothing here that its parameters would change, so each of them is as good as set.
#[unsafe(no_mangle)]
pub extern "C" fn mallopt(_parameter: c_int, _value: c_int) -> c_int {
    1
}
