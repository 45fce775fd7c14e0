//! A whole program on the heap: every block that it frees, 16 bytes to 4 MiB, is read back from
//! `/proc/self/mem` right after the free, and at the end all memory of the process is searched from outside.
//! The control is the same program, by the same binary, on std's allocator.
#![expect(unsafe_code, reason = "a global allocator that watches another")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test may panic"
)]
#![cfg(target_os = "linux")]

mod support;

use std::alloc::{GlobalAlloc, Layout};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::mpsc;

use support::child::{self, Ended};
use support::maps::mappings_of;
use support::pages::OwnMemory;
use support::scan::{Hit, Needles, Place, scan};
use support::switch::{ALLOCATOR_VARIABLE, OUBLIETTE_VALUE, Switch};
use support::trace;

#[global_allocator]
static ALLOCATOR: Watched = Watched { inner: Switch::new(), mode: AtomicU8::new(Mode::Pass as u8) };

/// What is watched, by the process that is on trial.
static MEMORY: OnceLock<OwnMemory> = OnceLock::new();
static FREED_BLOCKS: AtomicUsize = AtomicUsize::new(0);
static FREED_BYTES: AtomicUsize = AtomicUsize::new(0);
static LARGEST_BYTES: AtomicUsize = AtomicUsize::new(0);
static MOVED_BLOCKS: AtomicUsize = AtomicUsize::new(0);
static DIRTY_BLOCKS: AtomicUsize = AtomicUsize::new(0);
/// Of the last of them: what was done, and how large it was.
static DIRTY_HOW: AtomicUsize = AtomicUsize::new(0);
static DIRTY_BYTES: AtomicUsize = AtomicUsize::new(0);

/// After so many bytes the mark that stands for a secret repeats.
const MARK_BYTES: usize = 16;

/// What stands for a secret where a block is read back.
const SOIL: u8 = 0xa5;

/// Threads that hand blocks on to each other.
const THREADS: usize = 4;

#[test]
fn nothing_freed_keeps_a_byte() {
    let ended = run_on(OUBLIETTE_VALUE.to_str().unwrap(), "program");
    assert!(ended.number("freed_blocks") > 4000, "{ended:?}");
    assert!(ended.number("largest_bytes") >= 4 << 20, "{ended:?}");
    assert!(ended.number("moved_blocks") > 100, "{ended:?}");
    assert_eq!(ended.number("dirty_blocks"), 0, "{ended:?}");
}

#[test]
fn control_stds_allocator_keeps_them() {
    let ended = run_on("system", "program");
    assert!(ended.number("freed_blocks") > 4000, "{ended:?}");
    assert!(ended.number("dirty_blocks") > 4000, "{ended:?}");
}

#[test]
fn nothing_is_left_in_any_memory_of_a_program_with_threads() {
    let left = marks_left_on(OUBLIETTE_VALUE.to_str().unwrap());
    assert!(left.is_empty(), "{left:#x?}");
}

#[test]
fn control_stds_allocator_leaves_marks() {
    assert!(marks_left_on("system").len() > 1000);
}

/// Not a test of its own: the child's part. See `support::child`.
#[test]
#[ignore = "plays the children of the other tests"]
fn role() {
    child::play(&[
        ("program", |_| {
            MEMORY.get_or_init(OwnMemory::open);
            Mode::Check.set();
            one_thread(4 << 20);
            Mode::Pass.set();
            println!("freed_blocks {}", FREED_BLOCKS.load(Ordering::Relaxed));
            println!("freed_bytes {}", FREED_BYTES.load(Ordering::Relaxed));
            println!("largest_bytes {}", LARGEST_BYTES.load(Ordering::Relaxed));
            println!("moved_blocks {}", MOVED_BLOCKS.load(Ordering::Relaxed));
            println!("dirty_blocks {}", DIRTY_BLOCKS.load(Ordering::Relaxed));
            let how = [Given::Freed, Given::Moved, Given::Shrunk][DIRTY_HOW.load(Ordering::Relaxed)];
            println!("last_dirty {how:?} {}", DIRTY_BYTES.load(Ordering::Relaxed));
        }),
        ("threads", |_| {
            tell_stack();
            Mode::Mark.set();
            one_thread(1 << 18);
            many_threads();
            Mode::Pass.set();
            trace::stop_here();
        }),
    ]);
}

#[track_caller]
fn run_on(allocator: &str, role: &str) -> Ended {
    let mut command = child::command(role, "");
    command.env(ALLOCATOR_VARIABLE.to_str().unwrap(), allocator);
    let ended = child::run_command(command);
    ended.assert_success();
    ended
}

/// Fragments of marks in a stopped process that has freed all its marked blocks.
fn marks_left_on(allocator: &str) -> Vec<Hit> {
    let mut needles = Needles::default();
    needles.add("mark", &(0..2 * MARK_BYTES).map(mark_byte).collect::<Vec<_>>());
    let mut command = child::command("threads", "");
    command.env(ALLOCATOR_VARIABLE.to_str().unwrap(), allocator);
    let child = trace::Stopped::spawn(command);
    let findings = scan(&child.id().to_string(), &needles).unwrap();
    let mappings = mappings_of(&child.id().to_string()).unwrap();
    let ended = child.resume();
    ended.assert_success();
    // The stacks are not the heap's: copies go through vector registers, which may be saved on them. That is
    // what a scope is for.
    let stacks: Vec<usize> =
        ended.stdout.lines().filter_map(|line| line.strip_prefix("stack ")?.parse().ok()).collect();
    assert_eq!(stacks.len(), 1 + THREADS, "{ended:?}");
    let is_stack = |hit: &Hit| {
        let mapping = mappings.iter().find(|mapping| mapping.range.contains(&hit.address)).unwrap();
        hit.place == Place::Stack || stacks.iter().any(|stack| mapping.range.contains(stack))
    };
    findings.hits.into_iter().filter(|hit| !is_stack(hit)).collect()
}

/// What the allocator does at a free.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Mode {
    /// Nothing.
    Pass,
    /// Fills the block with what stands for a secret first.
    Mark,
    /// That, and reads the block back after it was freed. Only while one thread runs: another one could have
    /// got the block meanwhile.
    Check,
}

impl Mode {
    fn set(self) {
        // SeqCst, as everything here: nothing depends on the speed.
        ALLOCATOR.mode.store(self as u8, Ordering::SeqCst);
    }
}

/// How memory was given back.
#[derive(Clone, Copy, Debug)]
enum Given {
    Freed,
    Moved,
    Shrunk,
}

/// The allocator under test, watched.
struct Watched {
    inner: Switch,
    mode: AtomicU8,
}

impl Watched {
    fn is(&self, mode: Mode) -> bool {
        self.mode.load(Ordering::SeqCst) >= mode as u8
    }

    /// Looks at memory that was just given back. Allocates nothing.
    fn look_at(&self, how: Given, start: usize, len: usize) {
        if !self.is(Mode::Check) {
            return;
        }
        let memory = MEMORY.get().unwrap();
        let is_clean = match how {
            Given::Freed | Given::Moved => memory.is_zero(start, len),
            // The heap's canary may stand there now, but nothing of the program's.
            Given::Shrunk => !memory.has_run_of([SOIL; 4], start, len),
        };
        if !is_clean {
            DIRTY_BLOCKS.fetch_add(1, Ordering::SeqCst);
            DIRTY_HOW.store(how as usize, Ordering::SeqCst);
            DIRTY_BYTES.store(len, Ordering::SeqCst);
        }
    }
}

// SAFETY: every block comes from and goes to `inner`, which keeps the contract. A block is written to only
// while it belongs to the caller, and only read, through the kernel, after that.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: forwarded to the caller.
        unsafe { self.inner.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: forwarded to the caller.
        unsafe { self.inner.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let address = block.addr();
        if self.is(Mode::Mark) {
            // SAFETY: the caller gives this block away, `size` bytes of it, and nobody else has it.
            let bytes = unsafe { std::slice::from_raw_parts_mut(block, layout.size()) };
            soil(bytes);
            FREED_BLOCKS.fetch_add(1, Ordering::SeqCst);
            FREED_BYTES.fetch_add(layout.size(), Ordering::SeqCst);
            LARGEST_BYTES.fetch_max(layout.size(), Ordering::SeqCst);
        }
        // SAFETY: forwarded to the caller.
        unsafe { self.inner.dealloc(block, layout) };
        self.look_at(Given::Freed, address, layout.size());
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let address = block.addr();
        if self.is(Mode::Mark) && new_size < layout.size() {
            // SAFETY: the caller gives up what lies behind the new size of its block.
            let tail = unsafe { block.add(new_size) };
            // SAFETY: as above, so nobody else has it.
            soil(unsafe { std::slice::from_raw_parts_mut(tail, layout.size() - new_size) });
        }
        // SAFETY: forwarded to the caller.
        let new_block = unsafe { self.inner.realloc(block, layout, new_size) };
        if new_block.is_null() {
            return new_block;
        }
        if new_block.addr() != address {
            MOVED_BLOCKS.fetch_add(1, Ordering::SeqCst);
            self.look_at(Given::Moved, address, layout.size());
        } else if new_size < layout.size() {
            // Shrunk in place: what it leaves behind its new end is free memory too.
            self.look_at(Given::Shrunk, address + new_size, layout.size() - new_size);
        }
        new_block
    }
}

/// Fills memory with what stands for a secret: for a scan from outside with marks, byte by byte and never from
/// a copy, so that they are nowhere else; for reading back with anything but zero.
fn soil(bytes: &mut [u8]) {
    if ALLOCATOR.is(Mode::Check) {
        return bytes.fill(SOIL);
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        // SAFETY: a reference is valid for a write. Volatile, so that it is not merged with its neighbours.
        unsafe { std::ptr::write_volatile(byte, mark_byte(index)) };
    }
}

fn mark_byte(index: usize) -> u8 {
    // Hidden from the compiler, which would put sixteen of them in a row into the program itself.
    (std::hint::black_box(index % MARK_BYTES) as u8).wrapping_mul(37) ^ 0xc3
}

/// A vector of marks that grows push by push.
fn grown(len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let start = bytes.len();
        bytes.resize((start + MARK_BYTES * 256).min(len), 0);
        soil(&mut bytes[start..]);
    }
    bytes
}

/// Text, maps, sorting, growing and shrinking vectors, and blocks of every size.
fn one_thread(largest_bytes: usize) {
    let mut lengths: HashMap<String, usize> = HashMap::new();
    let mut sorted: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for i in 0..2000_usize {
        let mut text = String::new();
        for j in 0..i % 50 {
            write!(text, "{i}/{j} ").unwrap();
        }
        sorted.entry(text.len()).or_default().push(text.clone());
        lengths.insert(text, i);
    }
    let mut keys: Vec<&String> = lengths.keys().collect();
    keys.sort();
    drop(keys);
    sorted.retain(|length, _| length % 3 != 0);
    drop((lengths, sorted));
    for size in (4..).map(|exponent| 1_usize << exponent).take_while(|size| *size <= largest_bytes) {
        for size in [size - 1, size, size + 1, size + size / 2] {
            drop(vec![0x5a_u8; size]);
            drop(vec![0_u8; size]);
        }
        let mut vector = grown(size);
        vector.truncate(size / 3);
        vector.shrink_to_fit();
        vector.reserve(size);
        drop(vector);
    }
    aligned_blocks();
}

fn aligned_blocks() {
    for align in (0..=16).map(|exponent| 1_usize << exponent) {
        for size in [1, 24, 100, 4000, 70_000] {
            let layout = support::block::layout(size, align);
            let block = support::block::allocate(&ALLOCATOR, layout);
            assert_eq!(block.addr() % align, 0);
            // SAFETY: allocated above with this layout.
            unsafe { support::block::free(&ALLOCATOR, block, layout) };
        }
    }
}

/// Prints an address on the stack of this thread.
fn tell_stack() {
    let here = 0_u8;
    println!("stack {}", (&raw const here).addr());
}

/// Threads in a ring that make vectors and hand them on, so that most are freed by another thread; and
/// threads that end while their blocks live on.
fn many_threads() {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| mpsc::channel::<Vec<u8>>()).unzip();
    let threads: Vec<_> = receivers
        .into_iter()
        .enumerate()
        .map(|(number, inbox)| {
            let next = senders[(number + 1) % THREADS].clone();
            std::thread::spawn(move || {
                tell_stack();
                let mut kept = Vec::new();
                for i in 0..1000 {
                    // The neighbour may be done and gone: then the vector is freed here.
                    let _ = next.send(grown(16 + i * 7 % 3000 + if i % 100 == 0 { 200_000 } else { 0 }));
                    kept.extend(inbox.try_recv());
                    if i % 3 == 0 {
                        kept.clear();
                    }
                }
                drop(next);
                kept
            })
        })
        .collect();
    drop(senders);
    for thread in threads {
        drop(thread.join().unwrap());
    }
}
