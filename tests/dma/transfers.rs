//! Transfers: what is left of one that was dropped, how many system calls are made, signals, runtimes.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use oubliette::dma::{BufferPool, Ring};
use oubliette::{DmaBuffer, Error};

use crate::late_io;
use crate::support::child::{self, Role};
use crate::support::fork::{ChildEnd, in_child};
use crate::support::inherited::take_no_signal_as_ignored;
use crate::support::skip;

pub(super) const ROLES: &[Role] = &[
    ("dma forks", forks),
    ("dma late io", late),
    ("dma pool without calls", without_calls),
    ("dma pool control", with_a_call),
];

/// Whether rings can be made here; says so where they cannot.
fn may_use_rings() -> bool {
    let may = DmaBuffer::new(1).is_ok() && Ring::new(1).is_ok();
    if !may {
        skip::not_set_up("no io_uring");
    }
    may
}

#[test]
fn ten_thousand_transfers_dropped_at_random_moments() {
    if !may_use_rings() {
        return;
    }
    child::run("dma late io", "").assert_success();
}

fn late(_: &str) {
    let outcome = late_io::run(10_000, &std::env::temp_dir(), 1).unwrap();
    assert!(outcome.dropped.iter().all(|dropped| *dropped > 3_000), "{outcome:?}");
    assert_eq!((outcome.late_writes, outcome.late_reads, outcome.quarantined), (0, 0, 0), "{outcome:?}");
    if !outcome.has_direct_files {
        println!("note: no O_DIRECT in {}", std::env::temp_dir().display());
    }
    assert!(late_io::control().unwrap(), "control: a late write is seen");
}

const ROUNDS: usize = 1_000_000;

#[test]
fn a_pool_makes_no_system_call() {
    if !may_use_rings() {
        return;
    }
    child::run("dma pool without calls", "").assert_success();
    // The control makes one call among all these, and its thread is ended for it.
    child::run("dma pool control", "").assert_success();
}

/// Runs `work` on a thread that is ended by the kernel at any system call but `read`, `write` and its own exit
/// (seccomp(2), `SECCOMP_MODE_STRICT`), and tells whether it came to its end.
fn comes_to_its_end_in_strict_mode(work: impl FnOnce() + Send + 'static) -> bool {
    static IS_DONE: AtomicBool = AtomicBool::new(false);
    IS_DONE.store(false, Ordering::SeqCst);
    let is_over = std::sync::Arc::new(AtomicUsize::new(0));
    let thread_id = std::sync::Arc::clone(&is_over);
    // Not joined: it ends without the library's knowledge.
    thread::spawn(move || {
        // SAFETY: no memory is involved (gettid(2)).
        let id = unsafe { libc::gettid() };
        thread_id.store(id as usize, Ordering::SeqCst);
        // SAFETY: this option takes no memory (prctl(2)).
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, 1) }, 0);
        work();
        IS_DONE.store(true, Ordering::SeqCst);
        // SAFETY: ends this thread, and nothing of it is used any more.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    });
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        thread::sleep(Duration::from_millis(10));
        let id = is_over.load(Ordering::SeqCst);
        let is_gone = id != 0 && !std::path::Path::new(&format!("/proc/self/task/{id}")).exists();
        if is_gone || Instant::now() > end {
            return IS_DONE.load(Ordering::SeqCst);
        }
    }
}

fn churn(pool: &BufferPool) {
    for round in 0..ROUNDS {
        let Some(mut buffer) = pool.take() else { return assert!(round == ROUNDS) };
        // Wiped each time, wherever the last one wrote.
        let at = round % buffer.len();
        let was = buffer[at.saturating_sub(1)] | buffer[at];
        buffer[at] = 7 | was;
        if was != 0 {
            // No way to say more here.
            std::process::abort();
        }
    }
}

fn without_calls(_: &str) {
    let ring = Ring::new(4).unwrap();
    let pool = BufferPool::new(&ring, 4, 4096).unwrap();
    assert!(comes_to_its_end_in_strict_mode(move || {
        churn(&pool);
        // The pool's own end makes calls.
        std::mem::forget((pool, ring));
    }));
}

fn with_a_call(_: &str) {
    let ring = Ring::new(4).unwrap();
    let pool = BufferPool::new(&ring, 4, 4096).unwrap();
    assert!(!comes_to_its_end_in_strict_mode(move || {
        churn(&pool);
        // SAFETY: no memory is involved.
        unsafe { libc::getpid() };
        std::mem::forget((pool, ring));
    }));
}

#[test]
fn signals_while_waiting() {
    extern "C" fn count(_: libc::c_int) {
        SIGNALS.fetch_add(1, Ordering::Relaxed);
    }
    static SIGNALS: AtomicUsize = AtomicUsize::new(0);
    if !may_use_rings() {
        return;
    }
    // SAFETY: `sigaction` consists of integers, for which all zeros are a value: no flags, no mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = count as extern "C" fn(libc::c_int) as usize;
    // SAFETY: the handler only adds to an atomic.
    assert_eq!(unsafe { libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut()) }, 0);
    take_no_signal_as_ignored();
    let ring = Ring::new(1).unwrap();
    let (from, mut to) = io::pipe().unwrap();
    // SAFETY: no memory is involved.
    let waiter = unsafe { libc::pthread_self() } as usize;
    let sender = thread::spawn(move || {
        let end = Instant::now() + Duration::from_secs(30);
        // One that is sent before the one before it was taken is none.
        while SIGNALS.load(Ordering::Relaxed) <= 50 && Instant::now() < end {
            // SAFETY: the thread waits until this one has written, so it is there.
            unsafe { libc::pthread_kill(waiter as libc::pthread_t, libc::SIGUSR2) };
            thread::sleep(Duration::from_millis(1));
        }
        to.write_all(b"abcd").unwrap();
    });
    let (buffer, n) = ring.read(DmaBuffer::new(4).unwrap(), &from, 0).unwrap().wait().unwrap();
    assert_eq!((n, &buffer[..]), (4, &b"abcd"[..]));
    sender.join().unwrap();
    assert!(SIGNALS.load(Ordering::Relaxed) > 50);
}

#[test]
fn forks_while_transfers_are_under_way() {
    if !may_use_rings() {
        return;
    }
    child::run("dma forks", "").assert_success();
}

fn forks(_: &str) {
    const CHILDREN: usize = 100;
    let ring = Ring::new(16).unwrap();
    let pool = BufferPool::new(&ring, 4, 4096).unwrap();
    let is_over = AtomicBool::new(false);
    let rounds = AtomicUsize::new(0);
    thread::scope(|scope| {
        for id in 1..=2_u8 {
            let (ring, pool, is_over, rounds) = (&ring, &pool, &is_over, &rounds);
            scope.spawn(move || {
                let (from, mut to) = io::pipe().unwrap();
                while !is_over.load(Ordering::Relaxed) {
                    let in_flight = ring.read(pool.take().unwrap(), &from, 0).unwrap();
                    to.write_all(&[id; 64]).unwrap();
                    let (buffer, n) = in_flight.wait().unwrap();
                    assert_eq!((n, &buffer[..n]), (64, &[id; 64][..]));
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..CHILDREN {
            let (from, _to) = io::pipe().unwrap();
            let mine = (ring.read(pool.take().unwrap(), &from, 0).unwrap(), ring.clone(), pool.clone());
            let mut mine = Some(mine);
            // At whatever point the other threads are, with whatever they hold.
            let end = in_child(|| {
                let (in_flight, ring, pool) = mine.take().unwrap();
                let buffer = pool.take();
                assert!(buffer.iter().all(|buffer| buffer.iter().all(|byte| *byte == 0)));
                drop(in_flight);
                let refused = ring.read(DmaBuffer::new(64).unwrap(), &from, 0).unwrap_err();
                assert_eq!(refused.error(), Error::LeftBehind);
                drop((buffer, refused, ring, pool));
                // A ring of its own works.
                let (from, mut to) = io::pipe().unwrap();
                to.write_all(b"abcd").unwrap();
                let ring = Ring::new(1).unwrap();
                assert_eq!(ring.read(DmaBuffer::new(64).unwrap(), &from, 0).unwrap().wait().unwrap().1, 4);
            });
            assert_eq!(end, ChildEnd::Done);
            drop(mine);
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(rounds.into_inner() > CHILDREN);
    let report = oubliette::report();
    assert_eq!((report.dma().quarantined, report.dma().live), (0, 4));
}

#[test]
fn awaited_on_tokio() {
    if !may_use_rings() {
        return;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    runtime.block_on(async {
        let ring = Ring::new(64).unwrap();
        let tasks: Vec<_> = (0..32_u8)
            .map(|id| {
                let ring = ring.clone();
                tokio::spawn(async move {
                    let (from, mut to) = io::pipe().unwrap();
                    let mut buffer = DmaBuffer::new(4096).unwrap();
                    for _ in 0..20 {
                        let read = ring.read(buffer, &from, 0).unwrap();
                        tokio::time::sleep(Duration::from_millis(u64::from(id % 3))).await;
                        to.write_all(&[id; 64]).unwrap();
                        let (back, n) = read.await.unwrap();
                        assert_eq!(&back[..n], &[id; 64][..n]);
                        buffer = back;
                    }
                    // Dropped by the timeout: cancelled, and nothing is taken any more.
                    let read = ring.read(buffer, &from, 0).unwrap();
                    assert!(tokio::time::timeout(Duration::from_millis(5), read).await.is_err());
                    to.write_all(b"kept").unwrap();
                    drop(to);
                    assert_eq!(io::read_to_string(from).unwrap(), "kept");
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    assert_eq!(oubliette::report().dma().quarantined, 0);
}
