//! Time: `clock_gettime(2)`.

/// `clock_gettime(CLOCK_MONOTONIC_COARSE)`: the kernel's last tick, 1 to 10 ms old, read from memory that it shares
/// with every process (vdso(7)): no system call.
pub(in crate::os) fn coarse_milliseconds() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one `timespec` to `time`. The clock exists since Linux 2.6.32; if it failed, time would
    // stand still at 0, which callers bear.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let milliseconds = u64::try_from(time.tv_nsec / 1_000_000).unwrap_or(0);
    seconds.wrapping_mul(1000).wrapping_add(milliseconds)
}
