//! Reading another process, by every way that the kernel has.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Eight bytes at an address of a child, once by each way: its name, and what came of it.
pub(crate) fn read_by_every_way(pid: u32, address: usize) -> [(&'static str, io::Result<[u8; 8]>); 3] {
    let pid = i32::try_from(pid).expect("process ids are positive");
    [
        ("/proc/PID/mem", by_file(pid, address)),
        ("process_vm_readv", by_call(pid, address)),
        ("PTRACE_PEEKDATA", by_debugger(pid, address)),
    ]
}

fn by_file(pid: i32, address: usize) -> io::Result<[u8; 8]> {
    let mut bytes = [0; 8];
    File::open(format!("/proc/{pid}/mem"))?.read_exact_at(&mut bytes, address as u64)?;
    Ok(bytes)
}

fn by_call(pid: i32, address: usize) -> io::Result<[u8; 8]> {
    let mut bytes = [0; 8];
    let here = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: 8 };
    let there = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: 8 };
    // SAFETY: writes to `bytes` only; the other address is the other process's (process_vm_readv(2)).
    match unsafe { libc::process_vm_readv(pid, &raw const here, 1, &raw const there, 1, 0) } {
        8 => Ok(bytes),
        _ => Err(io::Error::last_os_error()),
    }
}

fn by_debugger(pid: i32, address: usize) -> io::Result<[u8; 8]> {
    ptrace(libc::PTRACE_SEIZE, pid, 0)?;
    ptrace(libc::PTRACE_INTERRUPT, pid, 0)?;
    // SAFETY: a null status is allowed; the process is our child and not yet reaped.
    let waited = unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) };
    assert_eq!(waited, pid);
    let word = ptrace(libc::PTRACE_PEEKDATA, pid, address);
    ptrace(libc::PTRACE_DETACH, pid, 0)?;
    Ok(word?.to_ne_bytes())
}

fn ptrace(request: libc::c_uint, pid: i32, address: usize) -> io::Result<i64> {
    // The C library's wrapper returns the word, and tells an error by `errno` alone (ptrace(2)).
    // SAFETY: the address of this thread's `errno`.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: valid for writes as long as the thread lives.
    unsafe { errno.write(0) };
    // SAFETY: none of the requests made here touches memory of this process (ptrace(2)).
    let word = unsafe { libc::ptrace(request, pid, address as *mut libc::c_void, 0_usize) };
    match io::Error::last_os_error() {
        error if word == -1 && error.raw_os_error() != Some(0) => Err(error),
        _ => Ok(word),
    }
}
