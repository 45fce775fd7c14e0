//! A seccomp filter that makes chosen system calls fail, as a container's profile or an older kernel does.
//!
//! It only plays a kernel that lacks something; it is no protection, so it does not check the architecture.

use std::io;

/// Offsets into `struct seccomp_data` (seccomp(2)): the number of the call, and the low half of its arguments
/// on a little-endian machine.
const OFFSET_OF_NUMBER: u32 = 0;
const OFFSET_OF_ARGUMENTS: u32 = 16;

/// A system call, or one of its uses, that fails.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Denied {
    pub(crate) call: libc::c_long,
    /// Only where this argument, counted from 0, has this value.
    pub(crate) argument: Option<(u32, u32)>,
    pub(crate) errno: i32,
}

impl Denied {
    /// No rings: as with `kernel.io_uring_disabled = 2`.
    pub(crate) const IO_URING: Self =
        Self { call: libc::SYS_io_uring_setup, argument: None, errno: libc::EPERM };
    /// No hidden memory: as before Linux 5.14, or with `secretmem.enable=0`.
    pub(crate) const MEMFD_SECRET: Self = Self { call: 447, argument: None, errno: libc::ENOSYS };
    /// `madvise(.., MADV_GUARD_INSTALL)`: as before Linux 6.13.
    pub(crate) const GUARD_INSTALL: Self =
        Self { call: libc::SYS_madvise, argument: Some((2, 102)), errno: libc::EINVAL };
    /// The same through `process_madvise`, whose advice is the fourth argument.
    pub(crate) const GUARD_INSTALL_BATCHED: Self =
        Self { call: libc::SYS_process_madvise, argument: Some((3, 102)), errno: libc::EINVAL };
    /// As before Linux 5.10.
    pub(crate) const PROCESS_MADVISE: Self =
        Self { call: libc::SYS_process_madvise, argument: None, errno: libc::ENOSYS };
    /// As before Linux 4.4.
    pub(crate) const MLOCK2: Self = Self { call: libc::SYS_mlock2, argument: None, errno: libc::ENOSYS };
    /// `madvise(.., MADV_DONTNEED_LOCKED)`: as before Linux 5.18.
    pub(crate) const DONTNEED_LOCKED: Self =
        Self { call: libc::SYS_madvise, argument: Some((2, 24)), errno: libc::EINVAL };
}

/// Makes these calls fail from now on, in every thread of this process and in its children.
pub(crate) fn deny(rules: &[Denied]) -> io::Result<()> {
    let mut program = Vec::new();
    for rule in rules {
        let checks = if rule.argument.is_some() { 4 } else { 2 };
        program.push(load(OFFSET_OF_NUMBER));
        // Not this call: skip the rest of the rule.
        program.push(skip_unless(u32::try_from(rule.call).expect("call numbers are small"), checks - 1));
        if let Some((index, value)) = rule.argument {
            program.push(load(OFFSET_OF_ARGUMENTS + 8 * index));
            program.push(skip_unless(value, 1));
        }
        program.push(answer(libc::SECCOMP_RET_ERRNO | u32::try_from(rule.errno).expect("errno is positive")));
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    install(&mut program)
}

/// Makes each of these calls end the process from now on (SIGSYS), as a strict sandbox does.
pub(crate) fn kill_on(calls: &[libc::c_long]) -> io::Result<()> {
    let mut program = vec![load(OFFSET_OF_NUMBER)];
    for call in calls {
        program.push(skip_unless(u32::try_from(*call).expect("call numbers are small"), 1));
        program.push(answer(libc::SECCOMP_RET_KILL_PROCESS));
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    install(&mut program)
}

fn load(offset: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn skip_unless(value: u32, instructions: u8) -> libc::sock_filter {
    libc::sock_filter { jf: instructions, ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value) }
}

fn answer(action: u32) -> libc::sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, action)
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).expect("codes have 16 bits"), jt: 0, jf: 0, k }
}

fn install(program: &mut [libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).expect("a short filter");
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: this option takes numbers and touches no memory (prctl(2)).
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `program` describes `len` instructions that stay valid during the call, which copies them
    // (seccomp(2)).
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            &raw const program,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
