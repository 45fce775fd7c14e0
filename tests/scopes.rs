//! Scopes as a program sees them: what needs a process, a thread or an executor of its own.

#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#![allow(
    unsafe_code,
    clippy::indexing_slicing,
    clippy::multiple_unsafe_ops_per_block,
    clippy::undocumented_unsafe_blocks,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::unwrap_used,
    reason = "tests"
)]

#[path = "support/mod.rs"]
mod support;

use std::alloc::System;
use std::hint::black_box;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use std::{env, ptr, thread};

use oubliette::{
    Backing, Cover, Error, Flush, Scope, ScopedAlloc, ScopedFuture, SecretBox, is_in_scope, report, scope,
    set_secret_backing, spawn_scoped, suspended, try_scope,
};
use support::{probe, skip};

#[global_allocator]
static ALLOC: ScopedAlloc<System> = ScopedAlloc::new(System);

/// Names the program that the child runs.
const PROGRAM: &str = "SCOPES_PROGRAM";

/// Runs one of the programs below in a process of its own.
fn run(program: &str) -> Output {
    Command::new(env::current_exe().unwrap())
        .args(["child", "--exact", "--ignored", "--nocapture"])
        .env(PROGRAM, program)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Not a test: what the other tests start in a process of its own.
#[test]
#[ignore = "started by the other tests"]
fn child() {
    support::limits::no_core_file();
    match env::var(PROGRAM).as_deref() {
        Ok("overflow inside") => {
            scope(|| dive(0));
        }
        Ok("overflow outside") => {
            scope(|| ());
            dive(0);
        }
        Ok("null") => {
            scope(|| ());
            unsafe { black_box(ptr::null_mut::<u8>()).write_volatile(1) };
        }
        Ok("null inside") => {
            scope(|| unsafe { black_box(ptr::null_mut::<u8>()).write_volatile(1) });
        }
        Ok("fork") => fork(),
        Ok("fork inside") => fork_inside(),
        Ok("fork hidden") => fork_hidden(),
        Ok("limit") => limit(),
        Ok("outlive") => outlive(),
        Ok("panic") => panic_with_backtrace(),
        Ok("exit inside") => scope(|| -> () {
            let text = String::from("still here");
            println!("leaving with {} bytes", text.len());
            std::process::exit(7);
        }),
        _ => unreachable!("only the other tests start this"),
    }
}

#[expect(unconditional_recursion, reason = "that is the crime")]
fn dive(depth: u64) -> u64 {
    dive(black_box(depth + 1)) + black_box(depth)
}

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_overflow_inside_says_what_to_do() {
    let output = run("overflow inside");
    assert!(message(&output).contains("stack overflow in a scope"), "{output:?}");
    assert!(message(&output).contains("stack_bytes"), "{output:?}");
    assert_eq!(output.status.signal(), Some(libc::SIGABRT));
}

#[test]
fn an_overflow_outside_is_reported_by_std_as_before() {
    let output = run("overflow outside");
    assert!(message(&output).contains("has overflowed its stack"), "{output:?}");
    assert_eq!(output.status.signal(), Some(libc::SIGABRT));
}

#[test]
fn another_fault_ends_the_process_by_its_signal() {
    for program in ["null", "null inside"] {
        let output = run(program);
        assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{output:?}");
    }
}

#[test]
fn an_exit_inside_ends_the_process_in_order() {
    let output = run("exit inside");
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("leaving with 10 bytes"));
}

/// In a child, the stack of the parent is not there: it makes one of its own.
fn fork() {
    let key = SecretBox::<[u8; 32]>::random().unwrap();
    let sum = || scope(|| key.expose().iter().map(|&byte| u32::from(byte)).sum::<u32>());
    assert_ne!(sum(), 0);
    let child = unsafe { libc::fork() };
    if child == 0 {
        // The key is zeros here, and so is the sum; a second scope works like the first.
        let code = i32::from(sum() != 0 || sum() != 0);
        unsafe { libc::_exit(code) };
    }
    let mut status = -1;
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0, "the child finds zeros and a scope that works");
    assert_ne!(sum(), 0);
}

#[test]
fn a_forked_child_has_scopes_of_its_own() {
    let output = run("fork");
    assert!(output.status.success(), "{output:?}");
}

/// A block of hidden memory that a child frees in a scope is gone there: its lines must not be written back.
fn fork_hidden() {
    set_secret_backing(Backing::Hidden).unwrap();
    let mut block = Vec::new();
    scope(|| block.resize(64, 1_u8));
    assert_eq!(ALLOC.outliving_blocks(), 1, "a block of the secret heap");
    let child = unsafe { libc::fork() };
    if child == 0 {
        scope(|| drop(block));
        // And one of its own.
        let mut own = Vec::new();
        scope(|| own.resize(64, 2_u8));
        let is_whole = own.iter().all(|&byte| byte == 2);
        scope(|| drop(own));
        unsafe { libc::_exit(i32::from(!is_whole)) };
    }
    let mut status = -1;
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0, "the child frees what it does not have");
    assert!(block.iter().all(|&byte| byte == 1));
}

#[test]
fn a_forked_child_frees_hidden_blocks_in_a_scope() {
    if !probe::has_memfd_secret() {
        return skip::impossible("no memfd_secret: nothing can be hidden");
    }
    let output = run("fork hidden");
    assert!(output.status.success(), "{output:?}");
}

/// A child that is forked on the stack of a scope does not have that stack.
fn fork_inside() {
    let status = scope(|| {
        let child = unsafe { libc::fork() };
        if child == 0 {
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        status
    });
    assert!(libc::WIFSIGNALED(status), "it dies rather than see the stack: {status:#x}");
    // The way to do it: outside, and to the end.
    let status = scope(|| {
        suspended(|| {
            let child = unsafe { libc::fork() };
            if child == 0 {
                unsafe { libc::_exit(3) };
            }
            let mut status = 0;
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            status
        })
    });
    assert_eq!(libc::WEXITSTATUS(status), 3);
}

#[test]
fn a_child_forked_inside_sees_no_stack() {
    let output = run("fork inside");
    assert!(output.status.success(), "{output:?}");
}

/// As somebody without privileges, with 64 KiB to lock: a scope works or says what is missing, and a
/// smaller one works.
fn limit() {
    let limit = libc::rlimit { rlim_cur: 64 << 10, rlim_max: 64 << 10 };
    unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit), 0);
        if libc::geteuid() == 0 {
            // Root may lock what it likes.
            assert_eq!(libc::setuid(65534), 0);
        }
    }
    match try_scope(|| 1) {
        Ok(one) => println!("works: {one}"),
        Err(error) => {
            println!("refused: {error}");
            assert!(matches!(error, Error::LockLimit { limit_bytes: 65536, .. }), "{error:?}");
            println!("{:?}", report());
        }
    }
    assert!(!is_in_scope());
    // No covered scope, but the rest of the program goes on.
    assert_eq!(vec![1_u8; 100].len(), 100);
}

#[test]
fn under_a_small_limit_a_scope_works_or_says_why_not() {
    let output = run("limit");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{output:?}");
}

/// What a panic leaves in the secret heap: its payload, and little else.
fn panic_with_backtrace() {
    let caught = std::panic::catch_unwind(|| scope(|| -> u32 { panic!("with a message") }));
    let live = report().secrets().unwrap().live_bytes;
    println!("{live} bytes");
    assert!(live < 64 << 10, "{live} bytes in the secret heap after a panic with a backtrace");
    drop(caught);
}

#[test]
fn a_panic_with_a_backtrace_leaves_little_in_the_secret_heap() {
    let output = Command::new(env::current_exe().unwrap())
        .args(["child", "--exact", "--ignored", "--nocapture"])
        .env(PROGRAM, "panic")
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(message(&output).contains("stack backtrace"), "{output:?}");
}

/// Exact only while no other thread is in a scope, so in a process of its own.
fn outlive() {
    scope(|| ());
    assert_eq!(ALLOC.outliving_blocks(), 0);
    let mut kept = Vec::new();
    scope(|| kept.extend_from_slice(&[1_u8; 100]));
    assert_eq!(ALLOC.outliving_blocks(), 1);
    // Grows outside, in the secret heap, and goes home from another thread.
    kept.extend_from_slice(&[2; 10_000]);
    assert_eq!(ALLOC.outliving_blocks(), 1);
    thread::spawn(move || drop(kept)).join().unwrap();
    assert_eq!(ALLOC.outliving_blocks(), 0);
}

#[test]
fn blocks_that_outlive_their_scope_are_counted() {
    let output = run("outlive");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn what_is_covered_can_be_chosen() {
    for cover in [Cover::Heap, Cover::Everything] {
        for flush in [Flush::Immediate, Flush::Bounded, Flush::Off] {
            let kind =
                Scope::builder().cover(cover).flush(flush).pinned_bytes(16 << 10).stack_bytes(32 << 10);
            assert_eq!(kind.build().run(|| u32::from(is_in_scope())).unwrap(), 1);
        }
    }
}

#[test]
fn the_report_shows_the_stacks() {
    scope(|| ());
    let scopes = report().scopes();
    println!("{scopes}");
    assert!(scopes.stacks >= 1 && scopes.locked_bytes >= 64 << 10, "{scopes:?}");
    assert!(scopes.pinned_bytes >= 8 << 10 || scopes.not_pinned > 0, "{scopes:?}");
}

#[test]
fn a_thread_inherits_no_scope() {
    let [inherited, scoped] = scope(|| {
        let inherited = suspended(|| thread::spawn(is_in_scope).join().unwrap());
        let scoped = suspended(|| spawn_scoped(is_in_scope).unwrap().join().unwrap());
        [inherited, scoped]
    });
    assert!(!inherited);
    assert!(scoped);
}

#[test]
fn secrets_come_out_in_secret_types() {
    let tag = scope(|| SecretBox::<[u8; 32]>::new_with(|bytes| bytes.fill(7)).unwrap());
    assert_eq!(tag.expose(), &[7; 32]);
    let refused: Result<u8, Error> = scope(|| Err(Error::TooLarge));
    assert_eq!(refused, Err(Error::TooLarge));
}

#[test]
fn futures_run_on_an_executor() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    let sums = runtime.block_on(async {
        let tasks: Vec<_> = (0..20_u32)
            .map(|number| {
                let future = ScopedFuture::new(|| async move {
                    let mut kept = vec![number; 100];
                    assert!(is_in_scope());
                    for _ in 0..5 {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        assert!(is_in_scope());
                        kept.push(number);
                    }
                    kept.iter().sum::<u32>()
                });
                tokio::spawn(future.unwrap())
            })
            .collect();
        // One that is dropped while it waits.
        let waiting = tokio::spawn(ScopedFuture::new(std::future::pending::<()>).unwrap());
        tokio::time::sleep(Duration::from_millis(2)).await;
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        let mut sums = Vec::new();
        for task in tasks {
            sums.push(task.await.unwrap());
        }
        assert!(!is_in_scope());
        sums
    });
    assert_eq!(sums, (0..20).map(|number| number * 105).collect::<Vec<_>>());
}

#[test]
fn blocks_cross_between_threads_that_enter_scopes() {
    let (sender, receiver) = mpsc::channel::<Vec<u8>>();
    let maker = thread::spawn(move || {
        for number in 0..20_000_u32 {
            let mut block = Vec::new();
            scope(|| block.resize(64 + number as usize % 500, number as u8));
            sender.send(block).unwrap();
        }
    });
    let mut count = 0_u32;
    for block in receiver {
        count += scope(|| {
            let first = block[0];
            u32::from(block.iter().all(|&byte| byte == first))
        });
        scope(|| drop(block));
    }
    maker.join().unwrap();
    assert_eq!(count, 20_000);
}
