//! The way out, and `errno`: `writev(2)`, `abort(3)`, `errno(3)`.

use crate::os::Errno;

/// `writev` to descriptor 2, writev(2), then `abort`, which raises SIGABRT and runs no destructor.
#[cold]
pub(in crate::os) fn abort_with(message: &'static str) -> ! {
    let [prefix, line_end] = ["oubliette: ", "\n"];
    let parts = [prefix, message, line_end]
        .map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
    // SAFETY: the kernel reads the three parts, which are static strings. What it returns does not matter:
    // there is nothing left to do about a message that cannot be written.
    unsafe { libc::writev(libc::STDERR_FILENO, parts.as_ptr(), 3) };
    std::process::abort()
}

/// Saves and restores `errno`, errno(3).
#[inline]
pub(in crate::os) fn preserve_errno<R>(f: impl FnOnce() -> R) -> R {
    let location = errno_location();
    // SAFETY: it is valid and aligned for the life of the thread, and no other thread uses it.
    let saved = unsafe { location.read() };
    let result = f();
    // SAFETY: as above; `f` runs on this thread.
    unsafe { location.write(saved) };
    result
}

/// Sets `errno`, errno(3).
pub(in crate::os) fn set_errno(errno: Errno) {
    // SAFETY: it is valid and aligned for the life of the thread, and no other thread uses it.
    unsafe { errno_location().write(errno.0) };
}

#[inline]
fn errno_location() -> *mut libc::c_int {
    // SAFETY: the call returns the address of this thread's errno (errno(3)).
    unsafe { libc::__errno_location() }
}
