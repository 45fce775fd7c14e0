//! However a process ends, what is still alive is wiped: seen by a tracer at the exit stop, when the last
//! instruction has run and the memory is still there.

use std::io::Read;

use oubliette::{SecretBox, SecretVec, purge};

use crate::support::child::{self, Role};
use crate::support::scan::{Needles, scan};
use crate::support::trace::{Stopped, Traced, stop_here};
use crate::support::{limits, pattern, skip};

pub(crate) const ROLES: &[Role] = &[("end", end), ("purge", |_| purge_and_stop())];

const KEY: u64 = 21;
const LARGE: u64 = 22;
const OTHER: u64 = 23;
const PLAIN: u64 = 24;

/// How the child ends, and the wait status that its parent must see: as it would be without this crate.
const ENDINGS: [(&str, i32); 10] = [
    ("return", 0),
    ("exit", 3 << 8),
    ("exit_in_thread", 4 << 8),
    ("panic", 101 << 8),
    ("abort", libc::SIGABRT),
    ("fault", libc::SIGSEGV),
    ("illegal", libc::SIGILL),
    ("terminate", libc::SIGTERM),
    ("interrupt", libc::SIGINT),
    ("hang_up", libc::SIGHUP),
];

#[test]
fn every_ending_wipes_what_is_alive() {
    if !limits::allow_secrets() {
        return;
    }
    for (how, expected_status) in ENDINGS {
        let Some((left, control, status)) = watch(how) else { return };
        assert_eq!(left, 0, "{how}: fragments left");
        assert!(control > 0, "{how}: the scan did not even find the plain copy");
        assert_eq!(status, expected_status, "{how}: ended otherwise than without us");
    }
}

/// Runs a child to its end. Gives the fragments of secrets found there, those of a plain copy of another
/// secret, and the wait status.
fn watch(how: &str) -> Option<(usize, usize, i32)> {
    let mut needles = Needles::default();
    needles.add("key", &pattern::secret(KEY, 32));
    needles.add("large", &pattern::secret(LARGE, 4096));
    needles.add("other", &pattern::secret(OTHER, 32));
    needles.add("plain", &pattern::secret(PLAIN, 32));
    let mut child = child::start("end", how);
    let traced = match Traced::seize(child.id()) {
        Ok(traced) => traced,
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            skip::not_set_up(&format!("cannot trace a child: {error}"));
            return None;
        }
    };
    // The child waits for the end of its input before it does anything.
    drop(child.stdin.take());
    let (findings, status) = traced.scan_at_exit(&needles).unwrap();
    let plain = findings.of_needle(3);
    Some((findings.hits.len() - plain, plain, status))
}

fn end(how: &str) {
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    // Leaked, held by a frame that never returns, and held by another thread.
    std::mem::forget(SecretBox::<[u8; 32]>::new_with(|bytes| pattern::fill(bytes, KEY)).unwrap());
    let large = SecretVec::<u8>::new_with(100_000, |bytes| pattern::fill(bytes, LARGE)).unwrap();
    std::mem::forget(large);
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _other = SecretBox::<[u8; 32]>::new_with(|bytes| pattern::fill(bytes, OTHER)).unwrap();
        ready.send(()).unwrap();
        loop {
            std::thread::park();
        }
    });
    is_ready.recv().unwrap();
    let mut plain = vec![0; 32];
    pattern::fill(&mut plain, PLAIN);
    std::mem::forget(plain);
    match how {
        "return" => {}
        "exit" => std::process::exit(3),
        "exit_in_thread" => std::thread::spawn(|| std::process::exit(4)).join().unwrap(),
        "panic" => panic!("as asked for"),
        "abort" => std::process::abort(),
        // SAFETY: none: the fault is what is asked for.
        "fault" => unsafe { std::ptr::null_mut::<u8>().wrapping_add(8).write_volatile(1) },
        "illegal" => raise(libc::SIGILL),
        "terminate" => raise(libc::SIGTERM),
        "interrupt" => raise(libc::SIGINT),
        "hang_up" => raise(libc::SIGHUP),
        _ => unreachable!(),
    }
}

/// Sends a signal to this process, as another would.
fn raise(signal: i32) {
    let this_process = i32::try_from(std::process::id()).unwrap();
    // SAFETY: no memory is involved.
    unsafe { libc::kill(this_process, signal) };
    loop {
        std::thread::park();
    }
}

#[test]
fn purge_wipes_every_secret_of_every_thread() {
    if !limits::allow_secrets() {
        return;
    }
    let mut needles = Needles::default();
    needles.add("key", &pattern::secret(KEY, 32));
    needles.add("other", &pattern::secret(OTHER, 32));
    let child = Stopped::spawn(child::command("purge", ""));
    let before = scan(&child.id().to_string(), &needles).unwrap();
    let child = child.resume_to_next_stop();
    let after = scan(&child.id().to_string(), &needles).unwrap();
    child.resume().assert_success();
    assert!(before.of_needle(0) >= 25 && before.of_needle(1) >= 25, "{:?}", before.hits);
    assert_eq!(after.hits.len(), 0, "{:?}", after.hits);
}

fn purge_and_stop() {
    let key = SecretBox::<[u8; 32]>::new_with(|bytes| pattern::fill(bytes, KEY)).unwrap();
    let other =
        std::thread::spawn(|| SecretBox::<[u8; 32]>::new_with(|bytes| pattern::fill(bytes, OTHER)).unwrap());
    let other = other.join().unwrap();
    stop_here();
    purge();
    stop_here();
    assert!(key.expose().iter().chain(other.expose()).all(|byte| *byte == 0));
    // The handles are still good for being dropped, and the heap for new secrets.
    drop((key, other));
    let key = SecretBox::<[u8; 32]>::new_with(|bytes| pattern::fill(bytes, KEY)).unwrap();
    assert!(pattern::matches(key.expose(), KEY));
}
