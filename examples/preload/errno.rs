//! What goes wrong: the C library's error number of this thread, and the end of the process.

use core::ffi::c_int;
use core::ptr;

/// Sets `errno`.
#[cold]
pub(crate) fn set(value: c_int) {
    // SAFETY: always callable (errno(3)).
    let place = unsafe { libc::__errno_location() };
    // SAFETY: this thread's own errno, valid as long as the thread lives.
    unsafe { place.write(value) };
}

/// Sets `errno` to `ENOMEM`, for a function that fails with null.
#[cold]
#[inline(never)]
pub(crate) fn no_memory() -> *mut u8 {
    set(libc::ENOMEM);
    ptr::null_mut()
}

/// Sets `errno` to `EINVAL`, for a function that fails with null.
#[cold]
pub(crate) fn invalid() -> *mut u8 {
    set(libc::EINVAL);
    ptr::null_mut()
}

/// Runs `f` and leaves `errno` as it was.
pub(crate) fn preserved<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: always callable (errno(3)).
    let place = unsafe { libc::__errno_location() };
    // SAFETY: this thread's own errno, valid as long as the thread lives.
    let before = unsafe { place.read() };
    let result = f();
    set(before);
    result
}

/// Ends the process with a message.
#[cold]
pub(crate) fn abort_with(message: &'static str) -> ! {
    // SAFETY: as many bytes as the text has (write(2)).
    let _ = unsafe { libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len()) };
    std::process::abort();
}
