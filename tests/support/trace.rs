//! Looking at a process at its very end: after its last instruction, before its memory goes.

use std::io;
use std::process::{Child, Command};

use super::child::{self, Ended};
use super::scan::{Findings, Needles, scan};

/// Stops this process until the one that waits in [`Stopped::spawn`] lets it go on.
pub(crate) fn stop_here() {
    // SAFETY: no memory is involved. SIGSTOP stops the whole process and cannot be caught (signal(7)).
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// A child that has stopped itself.
pub(crate) struct Stopped(Child);

impl Stopped {
    /// Starts a child and waits until it stops.
    #[track_caller]
    pub(crate) fn spawn(mut command: Command) -> Self {
        Self(command.spawn().expect("a child can be started")).wait()
    }

    /// Lets it run until it stops again.
    #[track_caller]
    pub(crate) fn resume_to_next_stop(self) -> Self {
        self.go_on();
        self.wait()
    }

    #[track_caller]
    fn wait(mut self) -> Self {
        let pid = i32::try_from(self.id()).expect("process ids are positive");
        let mut status = 0;
        // SAFETY: `status` is valid for a write; the process is our child and not yet reaped.
        let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::WUNTRACED) };
        assert_eq!(waited, pid);
        if !libc::WIFSTOPPED(status) {
            let said = self.0.stderr.take().map(|stderr| io::read_to_string(stderr).unwrap_or_default());
            panic!("the child ended before it stopped: {status:#x}\n{}", said.unwrap_or_default());
        }
        self
    }

    fn go_on(&self) {
        let pid = i32::try_from(self.id()).expect("process ids are positive");
        // SAFETY: no memory is involved; the child is not yet reaped, so the id is its own.
        unsafe { libc::kill(pid, libc::SIGCONT) };
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Lets it run to its end.
    pub(crate) fn resume(self) -> Ended {
        self.go_on();
        child::end(self.0)
    }
}

/// A child whose first thread stops when it is about to exit, whatever the reason (ptrace(2),
/// `PTRACE_O_TRACEEXIT`).
pub(crate) struct Traced {
    pid: i32,
}

impl Traced {
    /// Starts tracing a running child.
    pub(crate) fn seize(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).expect("process ids are positive");
        let options = libc::PTRACE_O_TRACEEXIT | libc::PTRACE_O_EXITKILL;
        // SAFETY: `PTRACE_SEIZE` ignores the address and takes options as a number (ptrace(2)).
        let result = unsafe {
            libc::ptrace(libc::PTRACE_SEIZE, pid, std::ptr::null_mut::<libc::c_void>(), options as usize)
        };
        if result == 0 { Ok(Self { pid }) } else { Err(io::Error::last_os_error()) }
    }

    /// Lets the child run to its exit, scans its memory there, and lets it go. Signals on the way are passed on.
    /// Returns the wait status it ended with.
    pub(crate) fn scan_at_exit(&self, needles: &Needles) -> io::Result<(Findings, i32)> {
        loop {
            let status = self.wait()?;
            if !libc::WIFSTOPPED(status) {
                return Err(io::Error::other(format!("ended without an exit stop: {status:#x}")));
            }
            if status >> 8 == libc::SIGTRAP | (libc::PTRACE_EVENT_EXIT << 8) {
                break;
            }
            // An event stop of `PTRACE_SEIZE` has its number in the third byte; its signal is not passed on.
            let signal = if status >> 16 == 0 { libc::WSTOPSIG(status) } else { 0 };
            self.go_on(signal)?;
        }
        let findings = scan(&self.pid.to_string(), needles)?;
        self.go_on(0)?;
        Ok((findings, self.wait()?))
    }

    fn wait(&self) -> io::Result<i32> {
        let mut status = 0;
        // SAFETY: `status` is valid for a write; the process is our child and not yet reaped.
        let waited = unsafe { libc::waitpid(self.pid, &raw mut status, libc::__WALL) };
        if waited == self.pid { Ok(status) } else { Err(io::Error::last_os_error()) }
    }

    fn go_on(&self, signal: i32) -> io::Result<()> {
        // SAFETY: `PTRACE_CONT` ignores the address and takes a signal as a number (ptrace(2)).
        let result = unsafe {
            libc::ptrace(libc::PTRACE_CONT, self.pid, std::ptr::null_mut::<libc::c_void>(), signal as usize)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
