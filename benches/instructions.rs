//! Loops over the hot paths, for a tool that counts instructions: `ci/instructions`.
//!
//! `instructions CASE COUNT` goes round a loop COUNT times. Run with two counts, the difference is what the rounds
//! took, whatever the program did before.

#![expect(unsafe_code, reason = "calls an allocator as the compiler's own code does")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for a script")]

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use oubliette::{Flush, Oubliette, Policy};

static OFF: Oubliette = Oubliette::with_policy(Policy::PROGRAM.with_flush(Flush::Off));
static BOUNDED: Oubliette = Oubliette::new();

/// As `__rust_alloc`, which is where the allocator is inlined: the compiler knows nothing of the layout.
#[inline(never)]
fn allocate(layout: Layout) -> *mut u8 {
    // SAFETY: no size here is zero.
    unsafe { OFF.alloc(layout) }
}

/// # Safety
/// - `block` came from `allocate` with this layout, and nobody uses it.
#[inline(never)]
unsafe fn free(block: *mut u8, layout: Layout) {
    // SAFETY: forwarded.
    unsafe { OFF.dealloc(block, layout) };
}

#[inline(never)]
fn allocate_bounded(layout: Layout) -> *mut u8 {
    // SAFETY: no size here is zero.
    unsafe { BOUNDED.alloc(layout) }
}

/// # Safety
/// - As for `free`, of `allocate_bounded`.
#[inline(never)]
unsafe fn free_bounded(block: *mut u8, layout: Layout) {
    // SAFETY: forwarded.
    unsafe { BOUNDED.dealloc(block, layout) };
}

/// # Safety
/// - As for `free`.
#[inline(never)]
unsafe fn free_by_address(block: *mut u8) {
    // SAFETY: forwarded.
    unsafe { OFF.free(block) };
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(black_box(size), black_box(8)).unwrap()
}

fn dynamic(count: usize, size: usize) {
    let layout = layout(size);
    for _ in 0..count {
        let block = allocate(layout);
        // SAFETY: allocated above.
        unsafe { free(block, layout) };
    }
}

fn constant(count: usize) {
    const LAYOUT: Layout = Layout::new::<[u64; 4]>();
    for _ in 0..count {
        // SAFETY: the size is not zero.
        let block = black_box(unsafe { OFF.alloc(LAYOUT) });
        // SAFETY: allocated above.
        unsafe { OFF.dealloc(block, LAYOUT) };
    }
}

fn by_address(count: usize, size: usize) {
    let layout = layout(size);
    for _ in 0..count {
        let block = allocate(layout);
        // SAFETY: allocated above.
        unsafe { free_by_address(block) };
    }
}

fn bounded(count: usize, size: usize) {
    let layout = layout(size);
    for _ in 0..count {
        let block = allocate_bounded(layout);
        // SAFETY: allocated above.
        unsafe { free_bounded(block, layout) };
    }
}

unsafe extern "C" {
    /// malloc(3).
    fn malloc(size: usize) -> *mut u8;
    /// free(3).
    #[link_name = "free"]
    fn c_free(block: *mut u8);
    /// malloc_usable_size(3).
    fn malloc_usable_size(block: *mut u8) -> usize;
}

/// By the names that C knows, of whoever has them: `examples/preload`, where it is preloaded.
fn as_c(count: usize, size: usize) {
    // SAFETY: any size will do.
    let block = unsafe { malloc(1) };
    // SAFETY: a live block.
    assert_eq!(unsafe { malloc_usable_size(block) }, 1, "the library is not preloaded");
    for _ in 0..count {
        // SAFETY: any size will do.
        let block = black_box(unsafe { malloc(black_box(size)) });
        // SAFETY: allocated above, freed once.
        unsafe { c_free(block) };
    }
}

/// Allocated by one thread, freed by another.
fn remote(count: usize, size: usize) {
    let layout = layout(size);
    let blocks: Vec<usize> = (0..count).map(|_| allocate(layout).expose_provenance()).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for block in &blocks {
                // SAFETY: allocated above, and freed here only.
                unsafe { free(std::ptr::with_exposed_provenance_mut(*block), layout) };
            }
        });
    });
}

/// Allocated by either of two threads, freed by the other, over and over.
fn handed_over(count: usize, size: usize) {
    const BATCH: usize = 64;
    let layout = layout(size);
    let pass = |sender: SyncSender<Vec<usize>>, receiver: Receiver<Vec<usize>>| {
        for _ in 0..count / BATCH / 2 {
            sender.send((0..BATCH).map(|_| allocate(layout).expose_provenance()).collect()).unwrap();
            for block in receiver.recv().unwrap() {
                // SAFETY: allocated by the other thread, and freed here only.
                unsafe { free(std::ptr::with_exposed_provenance_mut(block), layout) };
            }
        }
    };
    let (there, here) = (sync_channel(1), sync_channel(1));
    std::thread::scope(|scope| {
        scope.spawn(|| pass(there.0, here.1));
        scope.spawn(|| pass(here.0, there.1));
    });
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [case, count] = arguments.as_slice() else {
        println!("instructions CASE COUNT, as in ci/instructions.bounds");
        return;
    };
    let count = count.parse().unwrap();
    match case.as_str() {
        "dynamic_32" => dynamic(count, 32),
        "dynamic_128" => dynamic(count, 128),
        "dynamic_256" => dynamic(count, 256),
        "dynamic_1000" => dynamic(count, 1000),
        "dynamic_4096" => dynamic(count, 4096),
        "constant_32" => constant(count),
        "by_address_32" => by_address(count, 32),
        "by_address_256" => by_address(count, 256),
        "bounded_32" => bounded(count, 32),
        "remote_32" => remote(count, 32),
        "handed_over_32" => handed_over(count, 32),
        "handed_over_256" => handed_over(count, 256),
        "preload_32" => as_c(count, 32),
        "preload_256" => as_c(count, 256),
        _ => panic!("no such case: {case}"),
    }
}
