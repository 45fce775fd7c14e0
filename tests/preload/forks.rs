//! Forks at any moment, and threads that end: nothing waits for a lock that nobody holds any more.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::c::{self, Block};
use crate::library::{On, run};
use crate::support::fork::{ChildEnd, in_child};

const THREADS: usize = 3;
const FORKS: usize = 100;

#[test]
fn a_program_with_threads_forks() {
    let ended = run(On::Preload, "forks", "");
    ended.assert_success();
    assert_eq!(ended.number("forks"), FORKS);
}

#[test]
fn signal_handlers_fork_and_allocate() {
    let ended = run(On::Preload, "signals", "");
    ended.assert_success();
    assert!(ended.number("forks") >= HANDLER_FORKS);
}

#[test]
fn destructors_of_threads_allocate() {
    let ended = run(On::Preload, "late", "");
    ended.assert_success();
    assert_eq!(ended.number("destructors"), 2 * LATE_THREADS);
}

fn work(seed: usize, blocks: &mut [Block; 64]) {
    let place = seed % blocks.len();
    let size = 1 + seed * 7919 % 3000 + if seed.is_multiple_of(97) { 60_000 } else { 0 };
    // SAFETY: null, or a block that is used here only.
    let block = unsafe { c::realloc(blocks[place], size) };
    assert!(!block.is_null());
    // SAFETY: the block has that size now.
    unsafe { c::fill(block, 0x11, size.min(64)) };
    blocks[place] = block;
    if seed.is_multiple_of(3) {
        // SAFETY: a block that is used here only.
        unsafe { c::free(block) };
        blocks[place] = std::ptr::null_mut();
    }
}

fn free_all(blocks: &[Block]) {
    for &block in blocks {
        // SAFETY: null or a live block; nobody uses it any more.
        unsafe { c::free(block) };
    }
}

pub(crate) fn fork_while_threads_allocate(_: &str) {
    static IS_OVER: AtomicBool = AtomicBool::new(false);
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            thread::spawn(move || {
                let mut blocks = [std::ptr::null_mut(); 64];
                let mut seed = number;
                while !IS_OVER.load(Ordering::Relaxed) {
                    work(seed, &mut blocks);
                    seed += THREADS;
                }
                free_all(&blocks);
            })
        })
        .collect();
    let mut blocks = [std::ptr::null_mut(); 64];
    for number in 0..FORKS {
        for seed in 0..100 {
            work(number * 100 + seed, &mut blocks);
        }
        let end = in_child(|| {
            // SAFETY: a child that waits for ever is ended by a signal; no memory is involved (alarm(2)).
            unsafe { libc::alarm(20) };
            // What the parent allocated is the child's to change and to free.
            let mut blocks = blocks;
            for seed in 0..300 {
                work(seed, &mut blocks);
            }
            free_all(&blocks);
        });
        assert_eq!(end, ChildEnd::Done, "fork {number}");
    }
    IS_OVER.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    free_all(&blocks);
    println!("forks {FORKS}");
}

const HANDLER_FORKS: usize = 60;
static HANDLED: AtomicUsize = AtomicUsize::new(0);
static FAILED: AtomicUsize = AtomicUsize::new(0);

/// Not async-signal-safe by any standard: allocates. With this heap it works, though.
extern "C" fn fork_here(_: libc::c_int) {
    // SAFETY: the child leaves by `_exit`.
    let id = unsafe { libc::fork() };
    if id == 0 {
        // SAFETY: no memory is involved (alarm(2)).
        unsafe { libc::alarm(20) };
        for size in [10, 100, 1000, 5000, 100_000] {
            let block = c::malloc(size);
            // SAFETY: just allocated with this size.
            unsafe { c::fill(block, 1, size) };
            // SAFETY: allocated above, freed once.
            unsafe { c::free(block) };
        }
        // SAFETY: ends this process.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: `status` is valid for a write; the process is our child and not yet reaped.
    let waited = unsafe { libc::waitpid(id, &raw mut status, 0) };
    if id < 0 || waited != id || status != 0 {
        FAILED.fetch_add(1, Ordering::Relaxed);
    }
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn fork_in_signal_handlers(_: &str) {
    // SAFETY: `sigaction` consists of integers and a handler that may be null.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = fork_here as *const () as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the action is valid for a read, the old one is not asked for (sigaction(2)).
    let result = unsafe { libc::sigaction(libc::SIGPROF, &raw const action, std::ptr::null_mut()) };
    assert_eq!(result, 0);
    let every = libc::timeval { tv_sec: 0, tv_usec: 3000 };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: the timer is valid for a read, the old one is not asked for (setitimer(2)).
    let result = unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, std::ptr::null_mut()) };
    assert_eq!(result, 0);
    let mut blocks = [std::ptr::null_mut(); 64];
    let mut seed = 0;
    while HANDLED.load(Ordering::Relaxed) < HANDLER_FORKS {
        work(seed, &mut blocks);
        seed += 1;
    }
    // SAFETY: zeros are a timer that is off.
    let off: libc::itimerval = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const off, std::ptr::null_mut()) };
    free_all(&blocks);
    assert_eq!(FAILED.load(Ordering::Relaxed), 0);
    println!("forks {}", HANDLED.load(Ordering::Relaxed));
}

const LATE_THREADS: usize = 20;
static DESTRUCTORS: AtomicUsize = AtomicUsize::new(0);

/// Runs when all thread-locals of the thread are gone (pthread_key_create(3)): allocates and frees, and leaves a
/// block for a second round.
unsafe extern "C" fn destructor(value: *mut libc::c_void) {
    for size in [10, 1000, 50_000] {
        let block = c::malloc(size);
        // SAFETY: just allocated with this size.
        unsafe { c::fill(block, 1, size) };
        // SAFETY: allocated above, freed once.
        unsafe { c::free(block) };
    }
    // SAFETY: the block that the thread, or the first round, left.
    unsafe { c::free(value.cast()) };
    DESTRUCTORS.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn allocate_after_the_end_of_thread_locals(_: &str) {
    let mut keys = [0; 2];
    for key in &mut keys {
        // SAFETY: the place is valid for a write, and the destructor is a function.
        let result = unsafe { libc::pthread_key_create(key, Some(destructor)) };
        assert_eq!(result, 0);
    }
    for _ in 0..LATE_THREADS {
        let thread = thread::spawn(move || {
            for key in keys {
                // SAFETY: a key that was created above.
                let result = unsafe { libc::pthread_setspecific(key, c::malloc(100).cast()) };
                assert_eq!(result, 0);
            }
        });
        thread.join().unwrap();
    }
    println!("destructors {}", DESTRUCTORS.load(Ordering::Relaxed));
}
