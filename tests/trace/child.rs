//! The child's side: stops, needles, and where to begin.

use std::arch::asm;
use std::env;
use std::io::{Read, stdin};

use crate::{hazards, programs};

/// Names the program, the mode, and the descriptor for needles.
pub(crate) const VARIABLES: [&str; 3] = ["TRACE_PROGRAM", "TRACE_MODE", "TRACE_NEEDLES"];

/// Where a program runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// In a scope.
    Scope,
    /// Without one, to show that the scan finds what is left then.
    Control,
}

/// Waits until the parent is there, then runs the program.
pub(crate) fn main() {
    let program = env::var(VARIABLES[0]).expect("only the other tests start this");
    let mode = if env::var(VARIABLES[1]).unwrap() == "scope" { Mode::Scope } else { Mode::Control };
    stdin().read_exact(&mut [0]).unwrap();
    if !programs::run(&program, mode) {
        hazards::run(&program, mode);
    }
}

/// Stops this thread for the parent, with all registers as they are.
#[inline(always)]
pub(crate) fn stop() {
    unsafe { asm!("int3", options(nomem, nostack, preserves_flags)) };
}

/// Tells the parent what to look for, straight from where it is.
pub(crate) fn needle(label: &'static str, bytes: &[u8]) {
    let pipe: i32 = descriptor();
    let header = [label.len() as u32, bytes.len() as u32];
    let part = |start: *const u8, len| libc::iovec { iov_base: start.cast_mut().cast(), iov_len: len };
    let parts = [
        part(header.as_ptr().cast(), 8),
        part(label.as_ptr(), label.len()),
        part(bytes.as_ptr(), bytes.len()),
    ];
    let written = unsafe { libc::writev(pipe, parts.as_ptr(), 3) };
    assert_eq!(written as usize, 8 + label.len() + bytes.len(), "the pipe has room");
}

/// The same for a value with a plain representation in memory.
pub(crate) fn needle_of<T>(label: &'static str, value: &T) {
    let bytes = unsafe { std::slice::from_raw_parts((&raw const *value).cast(), size_of::<T>()) };
    needle(label, bytes);
}

/// Fresh random bytes, from the kernel straight into place.
pub(crate) fn fill(bytes: &mut [u8]) {
    let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    assert_eq!(count as usize, bytes.len(), "getrandom");
}

fn descriptor() -> i32 {
    env::var(VARIABLES[2]).unwrap().parse().unwrap()
}
