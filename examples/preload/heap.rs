//! What C asks of a heap, in terms of `Oubliette`: blocks of which only the address is known.
//!
//! # Foreign pointers
//!
//! A pointer in none of our heaps is left alone: freeing it does nothing, resizing it fails. Two things could be
//! done instead, and are not:
//!
//! 1. *End the process*, as for any other invalid free. But the dynamic loader has blocks of its own from before
//!    this library was there (`rtld` has a small allocator for that), and gives some of them to whatever `free` is
//!    later.
//! 2. *Hand it on to the C library's `free`.* No block of the C library's heap can get here: its functions call
//!    the `malloc` of this library, too, from the first moment on. So what would be handed on is a wild pointer, or
//!    an address that an attacker chose, and a free chunk where somebody wants it is a well-known way into that
//!    heap.
//!
//! The price is that the free of a wild pointer outside the heap is not noticed. It is counted
//! ([`foreign_pointers`]).

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicUsize, Ordering};
use core::{hint, ptr};

use oubliette::Oubliette;

use crate::choice::{Choice, DEFAULT, HEAPS, WITHOUT_FLUSH, choice, chosen};
use crate::{empty, errno};

/// What every block is aligned to: that of `max_align_t`.
pub(crate) const ALIGN: usize = 16;
/// No object is larger: a process has no more addresses, unless it asks for them by hint (mmap(2); Linux'
/// Documentation/arch/x86/x86_64/5level-paging.rst). A power of two, so that the hot path needs no constant of 64 bits.
const MOST_BYTES: usize = 1 << MOST_BITS;
const MOST_BITS: u32 = 47;

/// How often a pointer came that is of no heap here.
static FOREIGN: AtomicUsize = AtomicUsize::new(0);

/// What is allocated by the shortest way. Any other size would do: this one spares the hot path a compare, since the
/// heap has one with it as well.
const SMALL_BYTES: usize = 56;

/// Allocates a block, all zero. Null and `ENOMEM` if there is no memory.
#[inline(always)]
pub(crate) fn allocate(size: usize) -> *mut u8 {
    // One compare for both ends: 0 is below none.
    if size.wrapping_sub(1) >= SMALL_BYTES {
        // SAFETY: so it is.
        return unsafe { allocate_unusual(size) };
    }
    // SAFETY: 16 is a power of two, and the size, rounded up to it, is small.
    allocate_layout(unsafe { Layout::from_size_align_unchecked(size, ALIGN) })
}

/// # Safety
/// - `size` is 0 or above `SMALL_BYTES`.
#[inline(never)]
unsafe fn allocate_unusual(size: usize) -> *mut u8 {
    // One look for both ends, as above.
    if size.wrapping_sub(1) >> MOST_BITS != 0 {
        return if size == 0 { allocate_nothing() } else { errno::no_memory() };
    }
    // SAFETY: forwarded, and 0 was dealt with. The compiler then leaves the heap's shortest way out here.
    unsafe { hint::assert_unchecked(size > SMALL_BYTES) };
    // SAFETY: 16 is a power of two, and the size, rounded up to it, is at most `isize::MAX`.
    allocate_layout(unsafe { Layout::from_size_align_unchecked(size, ALIGN) })
}

/// A block of no bytes.
#[cold]
#[inline(never)]
fn allocate_nothing() -> *mut u8 {
    empty::allocate().unwrap_or_else(|| allocate_layout(Layout::new::<()>()))
}

/// The same with an alignment: a power of two.
pub(crate) fn allocate_aligned(size: usize, align: usize) -> *mut u8 {
    if size == 0 && align <= ALIGN {
        return allocate_nothing();
    }
    match Layout::from_size_align(size, align.max(ALIGN)) {
        Ok(layout) => allocate_layout(layout),
        Err(_) => errno::no_memory(),
    }
}

/// The heap sets `errno` where it fails, so nothing has to be done after it, and calls of it are jumps.
#[inline(always)]
fn allocate_layout(layout: Layout) -> *mut u8 {
    match choice() {
        // SAFETY: the heap serves layouts without a size as well: with a block of its own, as C wants it.
        Choice::Default | Choice::WithoutFlush => unsafe { DEFAULT.alloc(layout) },
        Choice::Other => allocate_chosen(layout),
    }
}

#[inline(never)]
fn allocate_chosen(layout: Layout) -> *mut u8 {
    // SAFETY: as in `allocate_layout`.
    unsafe { chosen().alloc(layout) }
}

/// Frees a block. Ends the process if something is wrong with it.
///
/// # Safety
/// - `ptr` is null, or a block that nobody uses any more.
#[inline(always)]
pub(crate) unsafe fn free(ptr: *mut u8) {
    // SAFETY: forwarded.
    let elsewhere = || unsafe { free_elsewhere(ptr) };
    match choice() {
        // SAFETY: forwarded; what is handed on is still a live block, if it is one.
        Choice::Default => unsafe { DEFAULT.free_or_else(ptr, elsewhere) },
        // SAFETY: as above.
        Choice::WithoutFlush => unsafe { WITHOUT_FLUSH.free_or_else(ptr, elsewhere) },
        Choice::Other => elsewhere(),
    }
}

/// The same, out of line: for any block, and null.
///
/// # Safety
/// - As for `free`.
#[inline(never)]
pub(crate) unsafe fn free_elsewhere(ptr: *mut u8) {
    if ptr.is_null() {
        return;
    }
    match owner(ptr) {
        // SAFETY: forwarded.
        Owner::Heap(heap) => unsafe { heap.free(ptr) },
        Owner::Empty => empty::free(ptr),
        Owner::Nobody => {}
    }
}

/// Frees a block of which the caller knows the size and alignment that it asked for. Ends the process if it was
/// asked for otherwise.
///
/// # Safety
/// - As for `free`.
pub(crate) unsafe fn free_layout(ptr: *mut u8, size: usize, align: usize) {
    if ptr.is_null() {
        return;
    }
    match owner(ptr) {
        Owner::Heap(heap) => {
            // A layout that cannot be is not that of the block.
            let layout = Layout::from_size_align(size, align.max(ALIGN)).unwrap_or(Layout::new::<u8>());
            // SAFETY: this heap's block, which nobody uses any more. If its layout is another one, that ends the process.
            unsafe { heap.dealloc(ptr, layout) };
        }
        Owner::Empty if size == 0 && align <= ALIGN => empty::free(ptr),
        Owner::Empty => errno::abort_with("oubliette: free with a wrong layout\n"),
        Owner::Nobody => {}
    }
}

/// Changes the size of a block, moving it if need be. Null and `ENOMEM` if there is no memory; then the block is
/// as it was.
///
/// # Safety
/// - `ptr` is a block; after success nobody uses it by its old address any more.
#[inline]
pub(crate) unsafe fn resize(ptr: *mut u8, size: usize) -> *mut u8 {
    if size > MOST_BYTES {
        return errno::no_memory();
    }
    let moved = match choice() {
        // SAFETY: forwarded.
        Choice::Default if DEFAULT.owns(ptr) => unsafe { DEFAULT.resize(ptr, size, ALIGN) },
        // SAFETY: forwarded.
        Choice::WithoutFlush if WITHOUT_FLUSH.owns(ptr) => unsafe { WITHOUT_FLUSH.resize(ptr, size, ALIGN) },
        // SAFETY: forwarded.
        _ => unsafe { resize_elsewhere(ptr, size) },
    };
    if moved.is_null() { errno::no_memory() } else { moved }
}

/// The same for a block of any heap.
///
/// # Safety
/// - As for `resize`.
#[inline(never)]
unsafe fn resize_elsewhere(ptr: *mut u8, size: usize) -> *mut u8 {
    match owner(ptr) {
        // SAFETY: forwarded.
        Owner::Heap(heap) => unsafe { heap.resize(ptr, size, ALIGN) },
        Owner::Empty => {
            let moved = allocate(size);
            if !moved.is_null() {
                empty::free(ptr);
            }
            moved
        }
        Owner::Nobody => ptr::null_mut(),
    }
}

/// The bytes of a block that may be used: exactly those asked for. 0 for null.
#[inline(always)]
pub(crate) fn usable_size(ptr: *mut u8) -> usize {
    // Programs that count their memory ask at every allocation and every free: what this thread has at hand is not
    // looked for in the other heaps first.
    let at_hand = match choice() {
        Choice::Default | Choice::WithoutFlush => DEFAULT.usable_size(ptr),
        Choice::Other => None,
    };
    at_hand.unwrap_or_else(|| usable_size_elsewhere(ptr))
}

#[cold]
#[inline(never)]
fn usable_size_elsewhere(ptr: *mut u8) -> usize {
    if ptr.is_null() {
        return 0;
    }
    match owner(ptr) {
        Owner::Heap(heap) => heap.usable_size(ptr).unwrap_or(0),
        Owner::Empty | Owner::Nobody => 0,
    }
}

/// Whose block an address is.
#[derive(Clone, Copy, Debug)]
enum Owner {
    /// A heap's: almost always the program's, or one that was in use before it was chosen.
    Heap(Oubliette),
    /// A block of no bytes.
    Empty,
    /// Foreign, and counted.
    Nobody,
}

#[inline]
fn owner(ptr: *mut u8) -> Owner {
    let usual = *chosen();
    if usual.owns(ptr) {
        return Owner::Heap(usual);
    }
    if empty::owns(ptr) {
        return Owner::Empty;
    }
    let found = HEAPS.into_iter().find(|heap| heap.owns(ptr));
    if found.is_none() {
        FOREIGN.fetch_add(1, Ordering::Relaxed);
    }
    found.map_or(Owner::Nobody, Owner::Heap)
}

/// How often a pointer came that is of no heap here.
pub(crate) fn foreign_pointers() -> usize {
    FOREIGN.load(Ordering::Relaxed)
}
