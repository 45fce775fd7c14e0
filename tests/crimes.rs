//! Crimes against the heap. Each is committed in a child process, which must die of it with the right
//! signal and, where the heap itself notices, with exactly the static message; and each has a clean twin that
//! does the same work lawfully and must pass.
#![expect(
    unsafe_code,
    reason = "these tests break the contract of GlobalAlloc on purpose, in child processes"
)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test may panic"
)]
#![cfg(target_os = "linux")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;

use oubliette::Oubliette;
use support::block::{allocate, free, layout};
use support::child;

/// The heap that the children misuse. The harness itself stays on the system's allocator.
static HEAP: Oubliette = Oubliette::new();

/// What a child does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Conduct {
    Lawful,
    Criminal,
}

use Conduct::{Criminal, Lawful};

/// How a criminal must end.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The heap noticed: SIGABRT, with this message and nothing else on standard error.
    Abort(&'static str),
    /// The processor noticed: SIGSEGV.
    Fault,
}

const OVERFLOW: End = End::Abort("oubliette: block overflow\n");
const UNDERFLOW: End = End::Abort("oubliette: block underflow\n");
const DOUBLE_FREE: End = End::Abort("oubliette: double free\n");
const INVALID_FREE: End = End::Abort("oubliette: invalid free\n");
const WRONG_LAYOUT: End = End::Abort("oubliette: free with a wrong layout\n");
const WRITE_AFTER_FREE: End = End::Abort("oubliette: write after free\n");

/// Sizes that exercise slots without slack, with a little, with much, and blocks of their own.
const SIZES: [usize; 8] = [1, 16, 24, 25, 100, 1000, 5000, 30_000];

#[test]
fn overflow_by_one_byte() {
    for size in SIZES {
        judge(OVERFLOW, "overflow_by_one_byte", size);
    }
}

#[test]
fn overflow_by_one_nul() {
    for size in SIZES {
        judge(OVERFLOW, "overflow_by_one_nul", size);
    }
}

#[test]
fn overflow_of_a_large_block_in_its_slack() {
    judge(OVERFLOW, "overflow_by_one_byte", 1_000_001);
    judge(OVERFLOW, "overflow_by_one_nul", 1_000_001);
}

#[test]
fn underflow() {
    judge(UNDERFLOW, "underflow", 24);
    judge(UNDERFLOW, "underflow", 1000);
}

#[test]
fn double_free() {
    judge(DOUBLE_FREE, "double_free", 32);
    judge(DOUBLE_FREE, "double_free", 30_000);
}

#[test]
fn double_free_of_a_large_block() {
    judge(DOUBLE_FREE, "double_free", 100_000);
    judge(DOUBLE_FREE, "double_free", 1 << 20);
}

#[test]
fn double_free_from_another_thread() {
    judge(DOUBLE_FREE, "double_free_from_another_thread", 32);
    judge(DOUBLE_FREE, "double_free_from_another_thread", 1000);
}

/// Where blocks pass between threads, slots are kept by whoever frees them, and others look for crimes.
#[test]
fn crimes_where_blocks_pass_between_threads() {
    for size in [24, 100, 1000, 5000] {
        let size_and_past = format!("{size} passed");
        for (end, crime) in [
            (OVERFLOW, "overflow_by_one_byte"),
            (DOUBLE_FREE, "double_free"),
            (DOUBLE_FREE, "double_free_from_another_thread"),
            (INVALID_FREE, "free_of_an_interior_pointer"),
            (WRITE_AFTER_FREE, "write_after_free"),
            (WRONG_LAYOUT, "free_with_a_wrong_layout"),
        ] {
            judge(end, crime, &size_and_past);
        }
    }
}

#[test]
fn free_of_an_interior_pointer() {
    judge(INVALID_FREE, "free_of_an_interior_pointer", 256);
    judge(INVALID_FREE, "free_of_an_interior_pointer", 1 << 20);
}

#[test]
fn free_of_a_foreign_pointer() {
    judge(INVALID_FREE, "free_of_a_foreign_pointer", 64);
}

#[test]
fn free_of_a_misaligned_pointer() {
    judge(INVALID_FREE, "free_of_a_misaligned_pointer", 64);
}

#[test]
fn write_after_free() {
    judge(WRITE_AFTER_FREE, "write_after_free", 32);
    judge(WRITE_AFTER_FREE, "write_after_free", 1000);
}

#[test]
fn write_after_free_of_a_large_block() {
    for size in [31_000, 65_536, 100_001, 400_000] {
        judge(WRITE_AFTER_FREE, "write_after_free_of_a_large_block", size);
    }
}

#[test]
fn write_after_free_of_a_large_block_that_is_closed_since() {
    judge(WRITE_AFTER_FREE, "write_after_free_and_others", 65_536);
    judge(WRITE_AFTER_FREE, "write_after_free_and_others", 100_001);
}

#[test]
fn write_after_free_in_front_of_a_shorter_block() {
    judge(WRITE_AFTER_FREE, "write_after_free_and_a_shorter_block", 120_000);
}

#[test]
fn read_after_free_of_a_large_block() {
    judge(End::Fault, "read_after_free_of_a_large_block", 1 << 20);
}

#[test]
fn free_with_a_wrong_layout() {
    judge(WRONG_LAYOUT, "free_with_a_wrong_layout", 1000);
    judge(WRONG_LAYOUT, "free_with_a_wrong_layout", 1 << 20);
}

#[test]
fn runaway_write_out_of_a_slab() {
    judge(End::Fault, "runaway_write", 32);
    judge(End::Fault, "runaway_write", 1000);
}

#[test]
fn runaway_write_out_of_a_large_block() {
    judge(End::Fault, "runaway_write", 1 << 20);
}

type Crime = (&'static str, fn(Conduct, usize));

const CRIMES: [Crime; 15] = [
    ("overflow_by_one_byte", |conduct, size| overflow_by_one(|byte| !byte, conduct, size)),
    ("overflow_by_one_nul", |conduct, size| overflow_by_one(|_| 0, conduct, size)),
    ("underflow", commit_underflow),
    ("double_free", commit_double_free),
    ("double_free_from_another_thread", commit_double_free_from_another_thread),
    ("free_of_an_interior_pointer", commit_interior_free),
    ("free_of_a_foreign_pointer", commit_foreign_free),
    ("free_of_a_misaligned_pointer", commit_misaligned_free),
    ("write_after_free", commit_write_after_free),
    ("write_after_free_of_a_large_block", |conduct, size| write_to_large(conduct, size, || {})),
    ("write_after_free_and_others", |conduct, size| write_to_large(conduct, size, free_others)),
    ("write_after_free_and_a_shorter_block", |conduct, size| {
        write_to_large(conduct, size, || recycle(size - 50_000));
    }),
    ("read_after_free_of_a_large_block", commit_read_after_free),
    ("free_with_a_wrong_layout", commit_wrong_layout),
    ("runaway_write", commit_runaway_write),
];

/// What the child prints right before the crime: whatever kills it comes from there on.
const CONFESSION: &str = "about to do it";

/// Not a test of its own: the child's part. See `support::child`.
#[test]
#[ignore = "plays the children of the other tests"]
fn role() {
    child::play(&[("crime", |argument| {
        let words: Vec<&str> = argument.split(' ').collect();
        let conduct = if words[1] == "criminal" { Criminal } else { Lawful };
        let (_, commit) = CRIMES.iter().find(|(name, _)| *name == words[0]).unwrap();
        let size = words[2].parse().unwrap();
        if words.get(3) == Some(&"passed") {
            pass(layout(size, 8));
        }
        commit(conduct, size);
        println!("survived");
    })]);
}

/// Sends both twins into the world and looks how they end.
#[track_caller]
fn judge(end: End, crime: &str, size: impl std::fmt::Display) {
    let clean = child::run("crime", &format!("{crime} lawful {size}"));
    clean.assert_success();
    assert!(clean.stdout.contains("survived"), "{clean:?}");
    let criminal = child::run("crime", &format!("{crime} criminal {size}"));
    assert!(criminal.stdout.contains(CONFESSION), "{crime} {size} died too early: {criminal:?}");
    match end {
        End::Abort(message) => {
            assert_eq!(criminal.signal(), Some(libc::SIGABRT), "{crime} {size}: {criminal:?}");
            assert_eq!(criminal.stderr, message, "{crime} {size}");
        }
        End::Fault => {
            assert_eq!(criminal.signal(), Some(libc::SIGSEGV), "{crime} {size}: {criminal:?}");
            assert_eq!(criminal.stderr, "", "{crime} {size}");
        }
    }
}

fn confess() {
    println!("{CONFESSION}");
    std::io::stdout().flush().unwrap();
}

/// Writes one byte, lawfully or not.
///
/// # Safety
/// A criminal breaks the contract here; `address` must at least be one that the test means.
unsafe fn write(address: *mut u8, value: u8) {
    // SAFETY: forwarded to the caller. Volatile, so that it happens though nobody reads it.
    unsafe { address.write_volatile(value) };
}

/// Makes another byte of a byte. (A fixed value would be the random one that stood there now and then.)
///
/// # Safety
/// As for `write`.
unsafe fn change(address: *mut u8, to: fn(u8) -> u8) {
    // SAFETY: forwarded to the caller.
    let byte = unsafe { address.read_volatile() };
    // SAFETY: forwarded to the caller.
    unsafe { write(address, to(byte)) };
}

fn overflow_by_one(to: fn(u8) -> u8, conduct: Conduct, size: usize) {
    let block = allocate(&HEAP, layout(size, 1));
    confess();
    let last = match conduct {
        Lawful => size - 1,
        Criminal => size,
    };
    // SAFETY: inside the block for the lawful; the byte behind it for the criminal, which is the crime.
    unsafe { change(block.wrapping_add(last), to) };
    // SAFETY: allocated above with this layout.
    unsafe { free(&HEAP, block, layout(size, 1)) };
}

/// Two neighbours, both live: the byte before the second belongs to nobody's block.
fn commit_underflow(conduct: Conduct, size: usize) {
    let layout = layout(size, 8);
    let mut blocks: Vec<*mut u8> = (0..64).map(|_| allocate(&HEAP, layout)).collect();
    blocks.sort();
    let gaps = || blocks.windows(2).map(|pair| pair[1].addr() - pair[0].addr());
    let closest = gaps().min().unwrap();
    let at = gaps().position(|gap| gap == closest).unwrap() + 1;
    let victim = blocks[at];
    confess();
    let place = match conduct {
        Lawful => victim,
        Criminal => victim.wrapping_sub(1),
    };
    // SAFETY: inside the block for the lawful; the byte before it for the criminal, which is the crime.
    unsafe { change(place, |byte| !byte) };
    // SAFETY: allocated above with this layout.
    unsafe { free(&HEAP, victim, layout) };
    blocks.remove(at);
    for block in blocks {
        // SAFETY: as above; the victim is not among them any more.
        unsafe { free(&HEAP, block, layout) };
    }
}

fn commit_double_free(conduct: Conduct, size: usize) {
    let layout = layout(size, 8);
    let block = allocate(&HEAP, layout);
    // SAFETY: allocated above with this layout.
    unsafe { free(&HEAP, block, layout) };
    confess();
    if conduct == Criminal {
        // SAFETY: none: the crime.
        unsafe { free(&HEAP, block, layout) };
    }
}

fn commit_double_free_from_another_thread(conduct: Conduct, size: usize) {
    let layout = layout(size, 8);
    let block = allocate(&HEAP, layout);
    let address = block.expose_provenance();
    let free_it = move || {
        // SAFETY: lawful the first time; the crime the second time.
        unsafe { free(&HEAP, std::ptr::with_exposed_provenance_mut(address), layout) };
    };
    std::thread::spawn(free_it).join().unwrap();
    confess();
    if conduct == Criminal {
        std::thread::spawn(free_it).join().unwrap();
        // The owner takes in what others have freed at the latest when it allocates.
        exhaust(layout);
    }
}

fn commit_interior_free(conduct: Conduct, size: usize) {
    let layout = layout(size, 8);
    let block = allocate(&HEAP, layout);
    confess();
    let start = match conduct {
        Lawful => block,
        Criminal => block.wrapping_add(size / 2),
    };
    // SAFETY: the start of the block for the lawful; its middle for the criminal, which is the crime.
    unsafe { free(&HEAP, start, layout) };
}

fn commit_foreign_free(conduct: Conduct, size: usize) {
    let layout = layout(size, 8);
    // The heap must have a block, so that it has a range to compare with.
    let own = allocate(&HEAP, layout);
    let foreign = allocate(&System, layout);
    confess();
    match conduct {
        // SAFETY: allocated above by this allocator.
        Lawful => unsafe { System.dealloc(foreign, layout) },
        // SAFETY: none: the crime.
        Criminal => unsafe { free(&HEAP, foreign, layout) },
    }
    // SAFETY: allocated above with this layout.
    unsafe { free(&HEAP, own, layout) };
}

fn commit_misaligned_free(conduct: Conduct, size: usize) {
    let layout = layout(size, 8);
    let block = allocate(&HEAP, layout);
    confess();
    let start = match conduct {
        Lawful => block,
        Criminal => block.wrapping_add(1),
    };
    // SAFETY: the start of the block for the lawful; one byte further for the criminal, which is the crime.
    unsafe { free(&HEAP, start, layout) };
}

fn commit_write_after_free(conduct: Conduct, size: usize) {
    let layout = layout(size, 8);
    let block = allocate(&HEAP, layout);
    confess();
    if conduct == Lawful {
        // SAFETY: inside the block.
        unsafe { write(block.wrapping_add(size / 2), 0x41) };
    }
    // SAFETY: allocated above with this layout.
    unsafe { free(&HEAP, block, layout) };
    if conduct == Criminal {
        // SAFETY: none: the crime.
        unsafe { write(block.wrapping_add(size / 2), 0x41) };
    }
    exhaust(layout);
}

/// Writes to the first byte of a large block, then does what comes between that and the next such block.
fn write_to_large(conduct: Conduct, size: usize, between: impl Fn()) {
    let layout = layout(size, 8);
    // One that had this place before, so that the heap knows its pages.
    recycle(size);
    let block = allocate(&HEAP, layout);
    confess();
    if conduct == Lawful {
        // SAFETY: inside the block.
        unsafe { write(block, 0x41) };
    }
    // SAFETY: allocated above with this layout.
    unsafe { free(&HEAP, block, layout) };
    if conduct == Criminal {
        // SAFETY: none: the crime.
        unsafe { write(block, 0x41) };
    }
    between();
    let again = allocate(&HEAP, layout);
    assert_eq!(again, block, "the same place");
    // SAFETY: allocated above with this layout.
    unsafe { free(&HEAP, again, layout) };
}

/// Allocates a block and frees it.
fn recycle(size: usize) {
    let layout = layout(size, 8);
    // SAFETY: allocated just now with this layout.
    unsafe { free(&HEAP, allocate(&HEAP, layout), layout) };
}

/// Has another thread free blocks until it uses their slots itself.
fn pass(layout: Layout) {
    let (sender, receiver) = std::sync::mpsc::sync_channel::<Vec<usize>>(0);
    let other = std::thread::spawn(move || {
        let mut seen = std::collections::BTreeSet::new();
        for addresses in receiver {
            for &address in &addresses {
                // SAFETY: allocated with this layout by the thread that sent it, which does not use it any more.
                unsafe { free(&HEAP, std::ptr::with_exposed_provenance_mut(address), layout) };
            }
            seen.extend(addresses);
        }
        let mine: Vec<usize> = (0..60).map(|_| allocate(&HEAP, layout).expose_provenance()).collect();
        assert!(mine.iter().any(|address| seen.contains(address)), "all slots went home");
        for address in mine {
            // SAFETY: allocated above with this layout.
            unsafe { free(&HEAP, std::ptr::with_exposed_provenance_mut(address), layout) };
        }
    });
    for _ in 0..20 {
        sender.send((0..100).map(|_| allocate(&HEAP, layout).expose_provenance()).collect()).unwrap();
    }
    drop(sender);
    other.join().unwrap();
}

/// Frees so many large blocks of another length that nothing that was freed before stays open.
fn free_others() {
    let layout = layout(200_000, 8);
    for block in [(); 12].map(|()| allocate(&HEAP, layout)) {
        // SAFETY: allocated above with this layout.
        unsafe { free(&HEAP, block, layout) };
    }
}

/// Allocates until every free slot of this size has been looked at: first in a circle, which moves a
/// quarantine on, then for keeps.
fn exhaust(layout: Layout) {
    for _ in 0..50_000 {
        let block = allocate(&HEAP, layout);
        // SAFETY: allocated above with this layout.
        unsafe { free(&HEAP, block, layout) };
    }
    for _ in 0..10_000 {
        allocate(&HEAP, layout);
    }
}

fn commit_read_after_free(conduct: Conduct, size: usize) {
    let layout = layout(size, 8);
    let block = allocate(&HEAP, layout);
    if conduct == Lawful {
        // SAFETY: inside the block.
        let _: u8 = unsafe { block.wrapping_add(size / 2).read_volatile() };
    }
    // SAFETY: allocated above with this layout.
    unsafe { free(&HEAP, block, layout) };
    confess();
    if conduct == Criminal {
        // SAFETY: none: the crime.
        let _: u8 = unsafe { block.wrapping_add(size / 2).read_volatile() };
    }
}

fn commit_wrong_layout(conduct: Conduct, size: usize) {
    let block = allocate(&HEAP, layout(size, 8));
    confess();
    let freed_as = match conduct {
        Lawful => layout(size, 8),
        Criminal => layout(size / 4, 8),
    };
    // SAFETY: the layout of the allocation for the lawful; another one for the criminal, which is the crime.
    unsafe { free(&HEAP, block, freed_as) };
}

/// A loop that does not stop at the end of its block. It must hit a guard page before it has left the slab of
/// 64 KiB, or at once behind a large block.
fn commit_runaway_write(conduct: Conduct, size: usize) {
    const SLAB_BYTES: usize = 64 * 1024;
    let layout = layout(size, 8);
    let block = allocate(&HEAP, layout);
    let end = match conduct {
        Lawful => size,
        Criminal => size + SLAB_BYTES,
    };
    confess();
    for offset in 0..end {
        // SAFETY: inside the block for the lawful; the criminal leaves it, which is the crime.
        unsafe { write(block.wrapping_add(offset), 0x41) };
    }
    // SAFETY: allocated above with this layout.
    unsafe { free(&HEAP, block, layout) };
}
