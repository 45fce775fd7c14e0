//! Resource limits, users, and what the kernel counts for this process.

use std::fs;
use std::io;

/// A resource of setrlimit(2).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Resource {
    LockedMemory,
    AddressSpace,
}

/// Sets the soft and the hard limit.
pub(crate) fn set(resource: Resource, bytes: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // The C libraries differ in the type of this number, so it has none here.
    let number = match resource {
        Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
        Resource::AddressSpace => libc::RLIMIT_AS,
    };
    // SAFETY: `limit` is valid for a read (setrlimit(2)).
    let result = unsafe { libc::setrlimit(number, &raw const limit) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Crash tests need no core files: lowers the soft limit.
pub(crate) fn no_core_file() {
    set_core_file(0);
}

/// Raises it again, as far as it goes.
pub(crate) fn allow_core_file() {
    set_core_file(core_file_limits().rlim_max);
}

/// Whether a process may leave a core file at all, if it wants to.
pub(crate) fn may_have_core_file() -> bool {
    core_file_limits().rlim_max > 0
}

fn core_file_limits() -> libc::rlimit {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limits` is valid for a write (getrlimit(2)).
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_CORE, &raw mut limits) }, 0);
    limits
}

fn set_core_file(bytes: libc::rlim_t) {
    let limits = libc::rlimit { rlim_cur: bytes, ..core_file_limits() };
    // SAFETY: `limits` is valid for a read (setrlimit(2)).
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const limits) }, 0);
}

/// Whether the tests' secrets fit under this process's limit of locked memory. Says so where they do not.
#[track_caller]
pub(crate) fn allow_secrets() -> bool {
    /// What the hungriest of them takes, and some more.
    const NEEDED_BYTES: usize = 7 << 20;
    let probe = super::pages::map(NEEDED_BYTES);
    // SAFETY: this range was mapped above.
    let is_locked = unsafe { libc::mlock(probe.cast(), NEEDED_BYTES) } == 0;
    // SAFETY: mapped above, and nobody uses it.
    unsafe { libc::munmap(probe.cast(), NEEDED_BYTES) };
    if !is_locked {
        super::skip::not_set_up("RLIMIT_MEMLOCK is below 7 MiB");
    }
    is_locked
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    // SAFETY: this call cannot fail and touches no memory (geteuid(2)).
    unsafe { libc::geteuid() == 0 }
}

/// Why a process cannot be put under a limit as an ordinary user.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) String);

/// Puts this process under a limit of locked memory as an ordinary user, whom it applies to: root is above
/// it (`CAP_IPC_LOCK`). A root process changes to a user id of its own, since io_uring counts what it pins
/// for all processes of a user together.
pub(crate) fn as_ordinary_user(memlock_bytes: u64) -> Result<(), Refused> {
    let refused = |what: &'static str| move |error: io::Error| Refused(format!("{what}: {error}"));
    set(Resource::LockedMemory, memlock_bytes).map_err(refused("setting RLIMIT_MEMLOCK"))?;
    if !is_root() {
        return Ok(());
    }
    let id = 60_000 + std::process::id() % 5_000;
    // SAFETY: zero groups are read from no memory (setgroups(2)).
    check(unsafe { libc::setgroups(0, std::ptr::null()) }).map_err(refused("setgroups"))?;
    // SAFETY: no memory is involved (setgid(2)).
    check(unsafe { libc::setgid(id) }).map_err(refused("setgid"))?;
    // SAFETY: no memory is involved. All capabilities go with it (capabilities(7), "Effect of user ID
    // changes on capabilities").
    check(unsafe { libc::setuid(id) }).map_err(refused("setuid"))?;
    // A process that changed its user may not read its own `/proc/self/mem` before this (proc(5)).
    // SAFETY: this option takes a number and touches no memory (prctl(2)).
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) }).map_err(refused("PR_SET_DUMPABLE"))
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A figure of `/proc/self/status`, in bytes.
pub(crate) fn status_bytes(key: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("every process may read its own status");
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok());
    kib.unwrap_or_else(|| panic!("no {key} in /proc/self/status")) * 1024
}

/// How many mappings this process has.
pub(crate) fn mapping_count() -> usize {
    let maps = fs::read("/proc/self/maps").expect("every process may read its own maps");
    maps.iter().filter(|byte| **byte == b'\n').count()
}

/// Minor page faults of this thread so far.
pub(crate) fn minor_faults() -> i64 {
    usage().ru_minflt
}

/// Page faults of this thread so far, minor and major.
pub(crate) fn faults() -> i64 {
    let usage = usage();
    usage.ru_minflt + usage.ru_majflt
}

fn usage() -> libc::rusage {
    // SAFETY: `rusage` consists of integers, for which all zeros are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is valid for a write (getrusage(2)).
    let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    assert_eq!(result, 0);
    usage
}
