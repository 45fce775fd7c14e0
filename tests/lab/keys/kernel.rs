//! What the kernel does for a process without rights, and what is left when the process ends.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};

use oubliette::{IsolatedBox, SecretVec};

use super::{Key, address_of, address_of_dense, begin, dense, isolated, stopped};
use crate::check::{Ended, Outcome, require};
use crate::keys::touch::Touch;
use crate::support::pages::PAGE_BYTES;
use crate::support::pattern;
use crate::support::ring::Ring;
use crate::support::scan::{Findings, Needles};
use crate::support::trace::{Traced, stop_here};

/// What lies at an address, read past the keys.
pub(super) fn peek(address: usize) -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    File::open("/proc/self/mem")?.read_exact_at(&mut bytes, address as u64)?;
    Ok(bytes)
}

/// A pipe: the end to read from and the end to write to.
pub(super) fn pipe() -> io::Result<(File, File)> {
    let mut ends = [0; 2];
    // SAFETY: two descriptors are written.
    if unsafe { libc::pipe(ends.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let [from, to] = ends.map(|end| {
        // SAFETY: made above, owned by nobody else.
        unsafe { File::from_raw_fd(end) }
    });
    Ok((from, to))
}

/// `read(2)` or `write(2)` of 32 bytes at an address, by number: the error, if any.
fn transfer(call: libc::c_long, file: &File, address: usize) -> Option<i32> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: the address holds a secret that is all bytes, and the caller writes its own bytes to it.
    let done = unsafe { libc::syscall(call, file.as_raw_fd(), address, 32) };
    if done == 32 { None } else { Some(io::Error::last_os_error().raw_os_error().unwrap_or(0)) }
}

/// `process_vm_readv(2)` of this process by itself.
fn read_as_another(address: usize) -> Result<[u8; 32], i32> {
    let mut bytes = [0_u8; 32];
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: 32 };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: 32 };
    let pid = std::process::id().cast_signed();
    // SAFETY: `local` names 32 bytes of ours; `remote` is read.
    let read = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    if read == 32 { Ok(bytes) } else { Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)) }
}

pub(super) fn honours_them() -> Outcome {
    begin()?;
    let mut secret = isolated(1)?;
    let mut small = dense(2)?;
    let (address, dense_address) = (address_of(&secret)?, address_of_dense(&small));
    let (from, mut to) = pipe()?;
    for at in [address, dense_address] {
        to.write_all(&[7; 32])?;
        let refused = transfer(libc::SYS_read, &from, at);
        require(refused == Some(libc::EFAULT), || format!("read(2) into it: {refused:?}"))?;
        let refused = transfer(libc::SYS_write, &to, at);
        require(refused == Some(libc::EFAULT), || format!("write(2) from it: {refused:?}"))?;
        let mut rest = [0; 32];
        io::Read::read_exact(&mut &from, &mut rest)?;
    }
    require(pattern::matches(&peek(address)?, 1), || "it was written to".to_owned())?;

    let open = secret.open()?;
    require(transfer(libc::SYS_write, &to, address).is_none(), || "write(2) while open".to_owned())?;
    let refused = transfer(libc::SYS_read, &from, address);
    require(refused == Some(libc::EFAULT), || format!("read(2) while open to be read: {refused:?}"))?;
    drop(open);
    to.write_all(&[8; 32])?;
    let open = secret.open_mut()?;
    require(transfer(libc::SYS_read, &from, address).is_none(), || "read(2) while open_mut".to_owned())?;
    drop(open);
    to.write_all(&[9; 32])?;
    let open = small.open_mut();
    require(transfer(libc::SYS_read, &from, dense_address).is_none(), || "read(2), dense".to_owned())?;
    drop(open);

    // What works on the memory of a process from outside takes no notice of the keys of a thread: as written in
    // docs/mitigations/protection-keys.md.
    println!("/proc/self/mem: {}", peek(address).is_ok());
    println!("process_vm_readv: {:?}", read_as_another(address).map(|bytes| bytes == [0; 32]));
    require(peek(address).is_ok(), || "/proc/self/mem honours keys: the documentation is wrong".to_owned())?;
    require(read_as_another(address).is_ok(), || "process_vm_readv honours keys".to_owned())?;
    stopped(address, Touch::Read)
}

/// What a ring does for a thread without rights: its own requests, those that a thread of the kernel's carries out,
/// and a fixed buffer.
pub(super) fn rings() -> Outcome {
    begin()?;
    let mut secret = isolated(1)?;
    let address = address_of(&secret)?;
    // Not a pipe: before Linux 6.4 all requests on pipes are carried out by a thread of the kernel's.
    let (_from, to) = UnixStream::pair()?;
    let code = |result: io::Result<usize>| result.err().and_then(|error| error.raw_os_error());
    let mut ring = Ring::new()?;
    let refused = code(ring.write(&to, address, 8));
    require(refused == Some(libc::EFAULT), || format!("a request: {refused:?}"))?;
    // By a thread of the kernel's that is made now, without rights.
    let refused = code(ring.write_aside(&to, address, 8));
    require(refused == Some(libc::EFAULT), || format!("a request carried out aside: {refused:?}"))?;
    let page = address & !(PAGE_BYTES - 1);
    let refused = code(ring.register(page, PAGE_BYTES).map(|()| 0));
    require(refused == Some(libc::EFAULT), || format!("a fixed buffer: {refused:?}"))?;
    let open = secret.open_mut()?;
    require(ring.write(&to, address, 8).is_ok(), || "while open".to_owned())?;
    ring.register(page, PAGE_BYTES)?;
    drop(open);
    // What was registered while it was open is read by its frame: as written in docs/mitigations/protection-keys.md.
    require(ring.write_fixed(&to, address, 8).is_ok(), || "a fixed buffer honours keys".to_owned())?;
    let refused = code(ring.write(&to, address, 8));
    require(refused == Some(libc::EFAULT), || format!("a request, sealed again: {refused:?}"))?;
    stopped(address, Touch::Read)?;
    made_while_open(&secret, address, &to)
}

/// A thread of the kernel's is made where a request needs one and none is idle, for the thread that asks and with its
/// rights, and keeps them: as written in docs/mitigations/protection-keys.md. Asked by a thread that has none yet, since
/// which of several carries out a request is a matter of luck.
fn made_while_open(secret: &IsolatedBox<Key>, address: usize, to: &UnixStream) -> Outcome {
    let [while_open, sealed_again] = std::thread::scope(|scope| {
        let asks = || -> Result<[io::Result<usize>; 2], Ended> {
            let mut ring = Ring::new()?;
            let open = secret.open()?;
            let while_open = ring.write_aside(to, address, 8);
            drop(open);
            Ok([while_open, ring.write_aside(to, address, 8)])
        };
        scope.spawn(asks).join().expect("it does not panic")
    })?;
    println!("aside, by a thread made while open: {while_open:?}; and sealed again: {sealed_again:?}");
    require(while_open.is_ok(), || format!("a thread made while open has no rights: {while_open:?}"))
}

pub(super) fn fatal_signal_wipes() -> Outcome {
    for (signal, is_open) in [(libc::SIGTERM, false), (libc::SIGABRT, true)] {
        let status = wiped_at_the_end(|secret| {
            let open = is_open.then(|| secret.open().expect("it is of this process"));
            // SAFETY: ends this process, as it would another.
            unsafe { libc::raise(signal) };
            drop(open);
        })?;
        let by = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
        require(by == Some(signal), || format!("ended by {by:?} instead of {signal}"))?;
    }
    // A touch without rights is such a signal, too.
    let status = wiped_at_the_end(|secret| {
        let address = address_of(secret).expect("it is of this process");
        // SAFETY: a fault, which ends this process.
        unsafe { std::ptr::read_volatile(address as *const u8) };
    })?;
    require(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV, || format!("{status:#x}"))
}

pub(super) fn exit_wipes() -> Outcome {
    let status = wiped_at_the_end(|_| std::process::exit(3))?;
    require(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 3, || format!("{status:#x}"))?;
    // The control: without a wipe the scan finds every one.
    let (findings, _) = at_the_end(|_| {
        // SAFETY: ends this process.
        unsafe { libc::_exit(0) }
    })?;
    let seen: Vec<usize> = (0..NR_SECRETS).map(|needle| findings.of_needle(needle)).collect();
    require(seen.iter().all(|hits| *hits > 0), || format!("the scan saw {seen:?}"))
}

/// Secrets that a child makes.
const NR_SECRETS: usize = 4;

fn wiped_at_the_end(end: impl FnOnce(&IsolatedBox<Key>)) -> Result<i32, Ended> {
    let (findings, status) = at_the_end(end)?;
    require(findings.hits.is_empty(), || format!("left: {:?}", findings.hits))?;
    Ok(status)
}

/// Forks a child that makes secrets, leaks some, and ends as told. What of them is in its memory at its exit stop,
/// and its status.
fn at_the_end(end: impl FnOnce(&IsolatedBox<Key>)) -> Result<(Findings, i32), Ended> {
    /// New ones for each child, which inherits what this process looked for before.
    static NEXT_SEED: AtomicU64 = AtomicU64::new(1000);
    let first = NEXT_SEED.fetch_add(NR_SECRETS as u64, Ordering::Relaxed);
    // SAFETY: this process has one thread.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let made = in_the_child(first, end);
        // SAFETY: ends this process.
        unsafe { libc::_exit(if made.is_ok() { 98 } else { 99 }) };
    }
    let mut status = 0;
    // SAFETY: `status` is valid for a write; the process is our child and not yet reaped.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::WUNTRACED) };
    require(waited == pid && libc::WIFSTOPPED(status), || format!("did not stop: {status:#x}"))?;
    let traced = Traced::seize(pid.cast_unsigned())?;
    // SAFETY: no memory is involved; the child is not yet reaped.
    unsafe { libc::kill(pid, libc::SIGCONT) };
    let mut needles = Needles::default();
    for seed in (first..).take(NR_SECRETS) {
        needles.add(&seed.to_string(), &pattern::secret(seed, 32));
    }
    Ok(traced.scan_at_exit(&needles)?)
}

fn in_the_child(first: u64, end: impl FnOnce(&IsolatedBox<Key>)) -> Outcome {
    begin()?;
    let kept = isolated(first)?;
    let leaked = dense(first + 1)?.leak();
    let large = SecretVec::<u8>::new_with(50_000, |bytes| pattern::fill(&mut bytes[..32], first + 2))?;
    // What is given to `forget` stays, as what another thread holds.
    std::mem::forget(isolated(first + 3)?);
    stop_here();
    end(&kept);
    drop((kept, large));
    require(leaked.as_ptr().addr() != 0, String::new)
}
