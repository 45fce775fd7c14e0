//! What this machine offers, asked without the crate under test.

/// Whether this process may make an io_uring.
pub(crate) fn has_io_uring() -> bool {
    // `struct io_uring_params` has 120 bytes.
    let mut parameters = [0_u64; 15];
    // SAFETY: `parameters` is as large as the structure that the kernel reads and writes, and all zeros ask
    // for the defaults (io_uring_setup(2)).
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
    if ring < 0 {
        return false;
    }
    // SAFETY: the descriptor was made above and is used nowhere else.
    unsafe { libc::close(ring as i32) };
    true
}

/// Whether there is hidden memory, `memfd_secret(2)`.
pub(crate) fn has_memfd_secret() -> bool {
    // SAFETY: the call takes a flag and touches no memory.
    let file = unsafe { libc::syscall(447, libc::O_CLOEXEC) };
    if file < 0 {
        return false;
    }
    // SAFETY: the descriptor was made above and is used nowhere else.
    unsafe { libc::close(file as i32) };
    true
}

/// Whether `MADV_GUARD_INSTALL` (Linux 6.13) works.
pub(crate) fn has_guard_install() -> bool {
    let page = super::pages::map(super::pages::PAGE_BYTES);
    super::pages::advise(page.addr(), super::pages::PAGE_BYTES, 102).is_ok()
}
