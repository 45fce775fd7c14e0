//! The side effects on signals: whom they leave alone, and how a process ends with them.
//!
//! Each test starts this binary again as a child that plays the test's part and may die of it. That live
//! secrets are wiped at every such end is seen by a tracer, in the test of `behaviour` about endings.

#![cfg(target_os = "linux")]
#![expect(unsafe_code, reason = "sends signals, sets handlers, faults")]
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::unwrap_used,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "support/inherited.rs"]
mod inherited;

use std::ffi::{c_int, c_void};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::Command;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::{mem, ptr};

use oubliette::{SecretBox, WipeAtEnd, set_wipe_at_end};

/// Plays the part of the calling test in a child, and looks how it ends and what it says.
#[track_caller]
fn in_a_child<Part: FnOnce()>(expected_status: c_int, expected_words: &str, part: Part) {
    if std::env::var_os(PLAYS_A_PART).is_some() {
        part();
        std::process::exit(PLAYED >> 8);
    }
    // "signals::name_of_the_test::{{closure}}"
    let test = std::any::type_name::<Part>().split("::").nth(1).unwrap();
    let (status, said) = play(test);
    assert_eq!(status, expected_status, "{said}");
    assert!(said.contains(expected_words), "{said}");
}

const PLAYS_A_PART: &str = "OUBLIETTE_TEST_PART";

/// Runs a test of this binary as a child and gives its wait status and what it wrote.
fn play(test: &str) -> (c_int, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(PLAYS_A_PART, "1");
    // SAFETY: system calls only, between fork and exec: no core file, no signal ignored or blocked by
    // whoever started the tests, and no hanging child.
    unsafe {
        command.pre_exec(|| {
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
            inherited::take_no_signal_as_ignored();
            libc::alarm(60);
            Ok(())
        });
    }
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.into_raw(), String::from_utf8_lossy(&said).into_owned())
}

/// A secret that is alive when the process ends, for [`say_whether_it_is_wiped`].
static SECRET: AtomicPtr<[u8; 32]> = AtomicPtr::new(ptr::null_mut());

fn leak_a_secret() {
    let secret = SecretBox::<[u8; 32]>::new_with(|bytes| bytes.fill(7)).unwrap();
    SECRET.store(secret.leak(), Ordering::Relaxed);
}

fn is_wiped() -> bool {
    // SAFETY: leaked, so it stays.
    unsafe { SECRET.load(Ordering::Relaxed).read_volatile() == [0; 32] }
}

/// The handler of a signal, as an address, or `SIG_DFL` or `SIG_IGN`.
fn handler_of(signal: c_int) -> usize {
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: reads the action into a structure of ours.
    assert_eq!(unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) }, 0);
    action.sa_sigaction
}

fn set_handler(signal: c_int, handler: usize, flags: c_int) -> libc::sigaction {
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    let mut before: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: the handlers of these tests do what a handler may.
    assert_eq!(unsafe { libc::sigaction(signal, &raw const action, &raw mut before) }, 0);
    before
}

/// Ends the process with status 21 if the secret is wiped, else with 22. For `atexit`.
extern "C" fn say_whether_it_is_wiped() {
    // SAFETY: ends the process here.
    unsafe { libc::_exit(if is_wiped() { 21 } else { 22 }) }
}

/// The wait status of a part that came to its end.
const PLAYED: c_int = 20 << 8;
const WIPED: c_int = 21 << 8;
const NOT_WIPED: c_int = 22 << 8;

#[test]
fn exit_wipes() {
    in_a_child(WIPED, "", || {
        // Registered before ours, so called after it (atexit(3)).
        unsafe { libc::atexit(say_whether_it_is_wiped) };
        leak_a_secret();
    });
}

#[test]
fn never_means_never() {
    in_a_child(NOT_WIPED, "", || {
        set_wipe_at_end(WipeAtEnd::Never);
        unsafe { libc::atexit(say_whether_it_is_wiped) };
        leak_a_secret();
        assert_eq!(handler_of(libc::SIGTERM), libc::SIG_DFL);
    });
}

#[test]
fn exit_only_leaves_signals_alone() {
    in_a_child(WIPED, "", || {
        set_wipe_at_end(WipeAtEnd::ExitOnly);
        unsafe { libc::atexit(say_whether_it_is_wiped) };
        let before: Vec<usize> = (1..=31).map(handler_of).collect();
        leak_a_secret();
        assert_eq!(before, (1..=31).map(handler_of).collect::<Vec<_>>());
    });
}

#[test]
fn opting_out_late_puts_everything_back() {
    in_a_child(PLAYED, "", || {
        let before: Vec<usize> = (1..=31).map(handler_of).collect();
        leak_a_secret();
        assert_ne!(before, (1..=31).map(handler_of).collect::<Vec<_>>());
        set_wipe_at_end(WipeAtEnd::ExitOnly);
        assert_eq!(before, (1..=31).map(handler_of).collect::<Vec<_>>());
        set_wipe_at_end(WipeAtEnd::ExitAndSignals);
        assert_ne!(before, (1..=31).map(handler_of).collect::<Vec<_>>());
    });
}

extern "C" fn ignore(_signal: c_int) {
    RECOVERED.fetch_add(1, Ordering::Relaxed);
}

static RECOVERED: AtomicU32 = AtomicU32::new(0);

/// The program's own handlers, and its wish to ignore, are the program's.
#[test]
fn what_the_program_set_stays() {
    in_a_child(PLAYED, "", || {
        set_handler(libc::SIGTERM, ignore as *const () as usize, 0);
        set_handler(libc::SIGHUP, libc::SIG_IGN, 0);
        leak_a_secret();
        assert_eq!(handler_of(libc::SIGTERM), ignore as *const () as usize);
        assert_eq!(handler_of(libc::SIGHUP), libc::SIG_IGN);
        // Its default is to do nothing, or to stop.
        for harmless in [libc::SIGCHLD, libc::SIGWINCH, libc::SIGURG, libc::SIGTSTP, libc::SIGCONT] {
            assert_eq!(handler_of(harmless), libc::SIG_DFL);
        }
    });
}

static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

/// A handler that hands on to the one before it, as signal-hook does.
extern "C" fn hand_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    RECOVERED.fetch_add(1, Ordering::Relaxed);
    // SAFETY: set before this handler was.
    let before = unsafe { *BEFORE.load(Ordering::Relaxed) };
    if before.sa_sigaction != libc::SIG_DFL && before.sa_sigaction != libc::SIG_IGN {
        // SAFETY: the handler that was there before, which takes this.
        let before: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
            unsafe { mem::transmute(before.sa_sigaction) };
        before(signal, info, context);
    }
}

/// A graceful shutdown that is installed later and hands on must not be cut short.
#[test]
fn a_later_handler_that_hands_on_is_not_undermined() {
    in_a_child(PLAYED, "", || {
        leak_a_secret();
        let before = Box::leak(Box::new(unsafe { mem::zeroed::<libc::sigaction>() }));
        BEFORE.store(before, Ordering::Relaxed);
        *before = set_handler(libc::SIGTERM, hand_on as *const () as usize, libc::SA_SIGINFO);
        unsafe { libc::raise(libc::SIGTERM) };
        unsafe { libc::raise(libc::SIGTERM) };
        assert_eq!(RECOVERED.load(Ordering::Relaxed), 2);
        assert!(!is_wiped());
    });
}

static PAGE: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// A handler that recovers: it makes the page that faulted accessible.
extern "C" fn open_page(_signal: c_int, _info: *mut libc::siginfo_t, _context: *mut c_void) {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a page of the test's own.
    unsafe { libc::mprotect(PAGE.load(Ordering::Relaxed), 4096, access) };
    RECOVERED.fetch_add(1, Ordering::Relaxed);
}

fn write_to_closed_page() {
    let (none, private) = (libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new page; the write to it faults, and is what the handler is for.
    unsafe {
        let page = libc::mmap(ptr::null_mut(), 4096, none, private, -1, 0);
        PAGE.store(page, Ordering::Relaxed);
        page.cast::<u8>().write_volatile(1);
        assert_eq!(page.cast::<u8>().read_volatile(), 1);
    }
}

/// As runtimes for WebAssembly and Java do, with flags of their kind.
#[test]
fn a_handler_that_recovers_from_faults_goes_on_recovering() {
    in_a_child(PLAYED, "", || {
        set_handler(
            libc::SIGSEGV,
            open_page as *const () as usize,
            libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER,
        );
        leak_a_secret();
        write_to_closed_page();
        write_to_closed_page();
        assert_eq!(RECOVERED.load(Ordering::Relaxed), 2);
        assert!(!is_wiped());
    });
}

/// As V8 does: with the flags of Rust's own handler, which never recovers, but for one signal only.
#[test]
fn a_handler_that_looks_like_rusts_and_recovers_goes_on_recovering() {
    in_a_child(PLAYED, "", || {
        let flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        set_handler(libc::SIGSEGV, open_page as *const () as usize, flags);
        leak_a_secret();
        write_to_closed_page();
        assert_eq!(RECOVERED.load(Ordering::Relaxed), 1);
        assert!(!is_wiped());
    });
}

#[test]
fn stack_overflow_is_still_reported_and_ends_the_same_way() {
    in_a_child(libc::SIGABRT, "overflowed its stack", || {
        fn deeper(depth: u64) -> u64 {
            let frame = std::hint::black_box([depth; 100]);
            if depth == u64::MAX { 0 } else { deeper(depth + 1) + frame[99] }
        }
        leak_a_secret();
        std::thread::spawn(|| println!("{}", deeper(0))).join().unwrap();
    });
}

#[test]
fn a_fault_ends_the_same_way() {
    in_a_child(libc::SIGSEGV, "", || {
        leak_a_secret();
        unsafe { ptr::without_provenance_mut::<u8>(8).write_volatile(1) };
    });
}

#[test]
fn a_trap_ends_the_same_way() {
    in_a_child(libc::SIGTRAP, "", || {
        leak_a_secret();
        unsafe { libc::raise(libc::SIGTRAP) };
    });
}

#[test]
fn a_signal_in_another_thread_ends_the_same_way() {
    in_a_child(libc::SIGINT, "", || {
        leak_a_secret();
        std::thread::spawn(|| unsafe { libc::raise(libc::SIGINT) }).join().unwrap();
    });
}

/// Threads that read a secret at that moment see zeros, and whatever they then do of it changes nothing.
#[test]
fn a_thread_that_stumbles_over_a_wiped_secret_does_not_change_the_status() {
    in_a_child(libc::SIGTERM, "", || {
        leak_a_secret();
        for _ in 0..4 {
            std::thread::spawn(|| {
                while !is_wiped() {
                    std::hint::spin_loop();
                }
                std::process::abort();
            });
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
        loop {
            std::thread::park();
        }
    });
}

/// A child that is forked while another thread of its parent wipes has nobody to wait for.
#[test]
fn a_child_forked_during_the_wipe_ends_by_its_own_signal() {
    const NAME: &str = "a_child_forked_during_the_wipe_ends_by_its_own_signal";
    if std::env::var_os(PLAYS_A_PART).is_some() {
        return fork_during_the_wipe();
    }
    // The wipe may be over, and the process with it, before it is forked: on a busy machine mostly.
    let start = std::time::Instant::now();
    let mut in_a_minute = std::iter::from_fn(|| (start.elapsed().as_secs() < 60).then_some(()));
    let child = in_a_minute.find_map(|()| {
        let (status, said) = play(NAME);
        assert_eq!(status, libc::SIGTERM, "{said}");
        said.lines().find_map(|line| line.strip_prefix("forked ")?.parse::<c_int>().ok())
    });
    let child = child.expect("a child that was forked in time");
    // Not our child, so that its end shows only by its being gone, or waited for by nobody.
    let is_alive = || {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    };
    for _ in 0..600 {
        if !is_alive() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    // SAFETY: no memory is involved; it is alive, so the id is its own.
    unsafe { libc::kill(child, libc::SIGKILL) };
    panic!("the child waits for a thread that it does not have");
}

fn fork_during_the_wipe() {
    /// What takes a while to be wiped, after the small secret.
    const LARGE_BYTES: usize = 96 << 20;
    leak_a_secret();
    let large = oubliette::SecretVec::<u8>::new_with(LARGE_BYTES, |bytes| bytes.fill(1)).unwrap();
    assert_eq!(large.leak().len(), LARGE_BYTES);
    std::thread::spawn(|| unsafe { libc::kill(libc::getpid(), libc::SIGTERM) });
    // The signal must come to another thread than this one.
    let mut all: libc::sigset_t = unsafe { mem::zeroed() };
    unsafe { libc::sigfillset(&raw mut all) };
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, ptr::null_mut()) };
    std::thread::spawn(|| {
        let mut none: libc::sigset_t = unsafe { mem::zeroed() };
        unsafe { libc::sigemptyset(&raw mut none) };
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) };
        loop {
            std::thread::park();
        }
    });
    while !is_wiped() {
        std::hint::spin_loop();
    }
    // SAFETY: the child calls only what is async-signal-safe, and the allocator, which the C library takes over.
    if unsafe { libc::fork() } == 0 {
        // The harness has begun a line with the name of the test.
        let said = format!("\nforked {}\n", std::process::id());
        unsafe { libc::write(1, said.as_ptr().cast(), said.len()) };
        // Whoever reads what this binary says is not to wait for it.
        for descriptor in 0..3 {
            unsafe { libc::close(descriptor) };
        }
        let mut none: libc::sigset_t = unsafe { mem::zeroed() };
        unsafe { libc::sigemptyset(&raw mut none) };
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) };
        unsafe { libc::raise(libc::SIGTERM) };
        unsafe { libc::_exit(1) };
    }
    loop {
        std::thread::park();
    }
}

/// The default ignores the signal in the first process of a container; so must we.
#[test]
fn process_1_ignores_what_it_does_not_handle() {
    /// Runs `part` in a forked child and gives its exit status.
    fn forked(part: impl FnOnce() -> c_int) -> c_int {
        // SAFETY: the child calls only what is async-signal-safe, then ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let status = part();
            unsafe { libc::_exit(status) };
        }
        let mut status = 0;
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -1 }
    }
    const IS_FIRST: c_int = 30;
    const NO_NAMESPACE: c_int = 31;
    in_a_child(PLAYED, "", || {
        leak_a_secret();
        // A process of one thread, as a new user namespace demands; its child is the first of the other.
        let status = forked(|| {
            if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID) } != 0 {
                return NO_NAMESPACE;
            }
            forked(|| {
                unsafe { libc::raise(libc::SIGTERM) };
                if unsafe { libc::getpid() } == 1 { IS_FIRST } else { 0 }
            })
        });
        if status == NO_NAMESPACE {
            return eprintln!("skipped: this system makes no namespace");
        }
        assert_eq!(status, IS_FIRST);
    });
}
