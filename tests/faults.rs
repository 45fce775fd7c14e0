//! Every system call of the crate, failing in turn: at the first use of the heaps, in a new process for each,
//! and in the midst of work. Whatever fails, there is the promised `Error` or a step down, no panic, nothing
//! lost, and no unwiped byte; and when it no longer fails, everything works.
//!
//! Needs the feature `fault-injection`.
#![expect(unsafe_code, reason = "uses the allocator directly")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test may panic"
)]
#![cfg(target_os = "linux")]

mod support;

use std::alloc::GlobalAlloc;

use oubliette::fault::{self, Call};
use oubliette::{Error, Oubliette, SecretBox, SecretVec, report};
use support::block::{free, layout};
use support::child;
use support::pages::{OwnMemory, mapping_at};
use support::pattern;

static HEAP: Oubliette = Oubliette::new();

const KINDS: [Call; 13] = [
    Call::Reserve,
    Call::Release,
    Call::Protect,
    Call::InstallGuard,
    Call::Lock,
    Call::Unlock,
    Call::Advise,
    Call::Discard,
    Call::Resident,
    Call::Random,
    Call::RingSetup,
    Call::RingRegister,
    Call::RingUnregister,
];

const ERRNOS: [i32; 4] = [libc::ENOMEM, libc::EAGAIN, libc::EPERM, libc::EINVAL];

#[test]
fn every_call_fails_once_from_the_first_use_on() {
    if !support::limits::allow_secrets() {
        return;
    }
    let clean = child::run("count", "");
    clean.assert_success();
    let mut runs = 0;
    for (index, kind) in KINDS.iter().enumerate() {
        let count = clean.number(&format!("{kind:?}"));
        // Calls of one kind are alike after the first few: those are about the heaps' beginnings.
        for nth in (0..count.min(12)).chain(count.saturating_sub(2).max(12)..count) {
            child::run("fail_once", &format!("{index} {nth} {}", ERRNOS[0])).assert_success();
            runs += 1;
        }
    }
    println!("{runs} calls failed in turn");
    assert!(runs > 40, "{runs}: {clean:?}");
}

#[test]
fn every_kind_of_call_fails_always() {
    if !support::limits::allow_secrets() {
        return;
    }
    for (index, _) in KINDS.iter().enumerate() {
        for errno in ERRNOS {
            child::run("fail_always", &format!("{index} 0 {errno}")).assert_success();
        }
    }
}

#[test]
fn every_call_fails_in_the_midst_of_work() {
    if !support::limits::allow_secrets() {
        return;
    }
    child::run("in_turn", "").assert_success();
}

/// Where there are no huge pages, the records of a large heap lie on small ones, and the report has a note.
#[test]
fn a_large_heap_does_without_huge_pages() {
    child::run("large_heap", "").assert_success();
}

fn fill_a_large_heap() {
    let notes = || -> u32 { report().heaps().map(|heap| heap.steps_down.hints_refused).sum() };
    let layout = layout(1000, 16);
    // SAFETY: the size is not zero.
    let blocks_of = |count: usize| (0..count).map(|_| unsafe { HEAP.alloc(layout) }).collect::<Vec<_>>();
    let mut blocks = blocks_of(1);
    assert_eq!(notes(), 0);
    let before = fault::count(Call::Advise);
    let fault = fault::fail_always(Call::Advise, libc::EINVAL);
    blocks.extend(blocks_of(100 << 10));
    let after = fault::count(Call::Advise);
    drop(fault);
    // Of 100 MiB: two huge pages, the first one, and that to be gathered at once.
    println!("{} calls refused, {} notes", after - before, notes());
    assert!(notes() >= 3 && after > before, "{} calls refused, {} notes", after - before, notes());
    for block in blocks {
        assert!(!block.is_null());
        // SAFETY: allocated above with this layout.
        unsafe { free(&HEAP, block, layout) };
    }
    let live: usize = report().heaps().map(|heap| heap.live_blocks).sum();
    assert_eq!(live, 0);
}

/// Not a test of its own: the child's part. See `support::child`.
#[test]
#[ignore = "plays the children of the other tests"]
fn role() {
    child::play(&[
        ("count", |_| {
            work().unwrap();
            for kind in KINDS {
                println!("{kind:?} {}", fault::count(kind));
            }
        }),
        ("fail_once", |argument| {
            let [kind, nth, errno] = numbers(argument);
            let fault = fault::fail(KINDS[kind], nth, errno as i32);
            let outcome = work();
            drop(fault);
            println!("{outcome:?}");
            work().unwrap();
        }),
        ("fail_always", |argument| {
            let [kind, _, errno] = numbers(argument);
            let fault = fault::fail_always(KINDS[kind], errno as i32);
            // More than once: a failure must not wear anything out.
            let outcomes: Vec<_> = (0..5).map(|_| work()).collect();
            drop(fault);
            println!("{outcomes:?}");
            if KINDS[kind] == Call::Lock {
                assert!(outcomes.iter().all(Result::is_err), "secrets without a lock");
            }
            work().unwrap();
        }),
        ("large_heap", |_| fill_a_large_heap()),
        ("in_turn", |_| {
            work().unwrap();
            let runs = fault::every_call_in_turn(libc::ENOMEM, |_| {
                let _ = work();
            });
            println!("runs {runs}");
            work().unwrap();
        }),
    ]);
}

fn numbers<const N: usize>(argument: &str) -> [usize; N] {
    argument.split(' ').map(|word| word.parse().unwrap()).collect::<Vec<_>>().try_into().unwrap()
}

/// Uses everything a little. All secrets that were made must be whole and locked, all freed blocks zero,
/// whatever else failed.
fn work() -> Result<(), Error> {
    let program = work_on_the_program_heap();
    let secrets = work_on_secrets();
    for heap in report().heaps() {
        assert_eq!((heap.live_blocks, heap.live_bytes), (0, 0), "lost: {heap:?}");
    }
    program.and(secrets)
}

fn work_on_secrets() -> Result<(), Error> {
    let mut failed = Ok(());
    let mut keys = Vec::with_capacity(1500);
    for number in 0..1500 {
        match SecretBox::<[u8; 32]>::new_with(|bytes| pattern::fill(bytes, number)) {
            Ok(key) => keys.push((number, key)),
            Err(error) => failed = Err(error),
        }
    }
    let mut grown = SecretVec::<u8>::new();
    let mut expected = Vec::new();
    for step in 0..12 {
        let piece = pattern::secret(step, 1000 << (step / 2));
        match grown.extend_from_slice(&piece) {
            Ok(()) => expected.extend(piece),
            Err(error) => failed = Err(error),
        }
    }
    assert_eq!(grown.expose(), expected, "a failed growth must leave what was there");
    assert!(keys.iter().all(|(number, key)| pattern::matches(key.expose(), *number)));
    if let Some((_, key)) = keys.first() {
        assert!(mapping_at(key.expose().as_ptr().addr()).has("lo"));
    }
    if !grown.is_empty() {
        assert!(mapping_at(grown.expose().as_ptr().addr()).has("lo"));
    }
    failed
}

fn work_on_the_program_heap() -> Result<(), Error> {
    let memory = OwnMemory::open();
    let mut has_failed = false;
    for size in [16, 1000, 30_000, 300_000] {
        let layout = layout(size, 16);
        // SAFETY: the size is not zero.
        let block = unsafe { HEAP.alloc(layout) };
        if block.is_null() {
            has_failed = true;
            continue;
        }
        // SAFETY: allocated above, `size` bytes, used by nobody else.
        pattern::fill(unsafe { std::slice::from_raw_parts_mut(block, size.min(10_000)) }, 5);
        // SAFETY: allocated with this layout; the new size is not zero.
        let moved = unsafe { HEAP.realloc(block, layout, size * 3) };
        let (block, size) = if moved.is_null() {
            has_failed = true;
            (block, size)
        } else {
            assert!(moved == block || memory.is_zero(block.addr(), size), "{size} bytes left by realloc");
            (moved, size * 3)
        };
        let kept = size.min(10_000).min(if moved.is_null() { size } else { size / 3 });
        // SAFETY: the first bytes of a live block, written above.
        assert!(pattern::matches(unsafe { std::slice::from_raw_parts(block, kept) }, 5));
        // SAFETY: allocated above with this layout.
        unsafe { free(&HEAP, block, support::block::layout(size, 16)) };
        assert!(memory.is_zero(block.addr(), size), "{size} bytes keep something");
    }
    if has_failed { Err(Error::TooLarge) } else { Ok(()) }
}
