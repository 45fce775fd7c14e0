//! What this process is and may: `sysconf(3)`, `getrlimit(2)`.

use crate::os::Limit;

/// The page size: fixed by the architecture on x86-64.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(in crate::os) const fn page_size() -> usize {
    4096
}

/// `sysconf(_SC_PAGESIZE)`, sysconf(3): the C library reads it from the auxiliary vector, no system call.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(in crate::os) fn page_size() -> usize {
    // SAFETY: the call only reads a constant of the process.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(65_536)
}

/// `getrlimit(RLIMIT_MEMLOCK)`, getrlimit(2).
pub(in crate::os) fn memlock_limit() -> Limit {
    limit(libc::RLIMIT_MEMLOCK)
}

/// `getrlimit(RLIMIT_AS)`, getrlimit(2).
pub(in crate::os) fn address_space_limit() -> Limit {
    limit(libc::RLIMIT_AS)
}

/// `getrlimit(RLIMIT_NOFILE)`, getrlimit(2).
pub(super) fn descriptor_limit() -> Limit {
    limit(libc::RLIMIT_NOFILE)
}

/// `capget(2)`: whether the thread has `CAP_IPC_LOCK`, which lifts `RLIMIT_MEMLOCK` (mlock(2)). In a user
/// namespace of its own the capability does not count; then a lock fails, and the caller goes by that.
pub(in crate::os) fn may_exceed_memlock_limit() -> bool {
    /// `_LINUX_CAPABILITY_VERSION_3` and `CAP_IPC_LOCK`, linux/capability.h.
    const VERSION: u32 = 0x2008_0522;
    const IPC_LOCK: u32 = 14;
    let mut header = [VERSION, 0];
    // Two sets of effective, permitted and inheritable capabilities, 32 bits each.
    let mut data = [0_u32; 6];
    // SAFETY: the kernel reads two words from `header` and writes six to `data` (capget(2)); thread 0 is the
    // calling one.
    let result = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), data.as_mut_ptr()) };
    let [effective, ..] = data;
    result == 0 && effective & (1 << IPC_LOCK) != 0
}

/// `VmLck` of `/proc/self/status` (proc_pid_status(5)): what this process has locked, by whatever means.
/// Allocates nothing. `None` without /proc.
pub(in crate::os) fn locked_bytes() -> Option<usize> {
    // SAFETY: the path ends with a NUL byte.
    let fd = unsafe { libc::open(c"/proc/self/status".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if fd < 0 {
        return None;
    }
    let mut text = [0_u8; 4096];
    // SAFETY: the kernel writes at most that many bytes to `text`.
    let read = unsafe { libc::read(fd, text.as_mut_ptr().cast(), text.len()) };
    // SAFETY: opened above, and nobody else knows it.
    unsafe { libc::close(fd) };
    locked_bytes_in(text.get(..usize::try_from(read).ok()?)?)
}

/// The figure in the text, which the kernel gives in KiB.
fn locked_bytes_in(status: &[u8]) -> Option<usize> {
    let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"VmLck:"))?;
    let digits = line.trim_ascii().strip_suffix(b" kB")?;
    let kib: usize = core::str::from_utf8(digits).ok()?.parse().ok()?;
    kib.checked_mul(1024)
}

fn limit(resource: libc::__rlimit_resource_t) -> Limit {
    let mut limits = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the kernel writes one `rlimit` to `limits`. It cannot fail: the resource is known and the
    // address is good (getrlimit(2)); if it did, both would stay unlimited.
    unsafe { libc::getrlimit(resource, &raw mut limits) };
    Limit { soft: finite(limits.rlim_cur), hard: finite(limits.rlim_max) }
}

fn finite(value: libc::rlim_t) -> Option<usize> {
    if value == libc::RLIM_INFINITY { None } else { Some(usize::try_from(value).unwrap_or(usize::MAX)) }
}

#[cfg(test)]
mod tests {
    use super::locked_bytes_in;

    #[test]
    fn reads_the_figure_and_nothing_else() {
        assert_eq!(locked_bytes_in(b"Name:\tx\nVmLck:\t     132 kB\nVmPin:\t 0 kB\n"), Some(132 * 1024));
        assert_eq!(locked_bytes_in(b"Name:\tx\nVmPin:\t 0 kB\n"), None);
        assert_eq!(locked_bytes_in(b"VmLck:\t"), None);
    }
}
