//! Blocks without a byte: `malloc(0)` gives an address that nothing can be read from or written to.
//!
//! A program that takes such a block for a longer one reads its neighbour otherwise, which is a way that secrets get out.
//! OpenBSD's malloc(3) and hardened_malloc stop it alike. The addresses are of a range that is never accessible, so a
//! block costs no memory but a bit that tells whether it is in use, and an access is a fault.
//!
//! Two ways were weighed:
//!
//! 1. A class of slots in the heap itself, on slabs that are never made accessible. All that acts on a slot would have to
//!    know of slots that have no canary and must not be looked at, on the hot paths too.
//! 2. A range of this library's own, since only C asks for blocks of no bytes: Rust's `GlobalAlloc` never does.
//!
//! The second wins. When all [`NR_BLOCKS`] are in use, or there are no addresses for them, a block of no bytes is one of
//! the heap: a write to it ends the process when it is freed, and only a read is not noticed.
//!
//! No lock is taken, so a fork at any moment leaves a child whose blocks are those of its parent.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "numbers of blocks, below NR_BLOCKS, and of words and bits"
)]

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use crate::errno;
use crate::heap::ALIGN;

const NR_BLOCKS: usize = 32_768;
const RANGE_BYTES: usize = NR_BLOCKS * ALIGN;
const WORD_BITS: usize = 64;
const NR_WORDS: usize = NR_BLOCKS / WORD_BITS;

/// Where the range is; null before the first block.
static RANGE: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
/// A bit for each address of the range: whether it is in use.
static IN_USE: [AtomicU64; NR_WORDS] = [const { AtomicU64::new(0) }; NR_WORDS];
/// Where the next block is looked for, so that no address is used again soon. Counts on for ever.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// An address of its own without access. `None` if all are in use, or if there is no range. `errno` stays as it was.
#[cold]
pub(crate) fn allocate() -> Option<*mut u8> {
    let range = range()?;
    let start = NEXT.fetch_add(1, Ordering::Relaxed) % NR_BLOCKS;
    // The first word comes twice: from its middle on, and whole at the end.
    for step in 0..=NR_WORDS {
        let number = (start / WORD_BITS + step) % NR_WORDS;
        let Some(word) = IN_USE.get(number) else { continue };
        let below = if step == 0 { (1 << (start % WORD_BITS)) - 1 } else { 0 };
        let mut free = !(word.load(Ordering::Relaxed) | below);
        while free != 0 {
            let bit = free & free.wrapping_neg();
            // Acquire pairs with Release in `free`: nothing about the block is older than its last free.
            if word.fetch_or(bit, Ordering::Acquire) & bit == 0 {
                let index = number * WORD_BITS + bit.trailing_zeros() as usize;
                return Some(range.wrapping_add(index * ALIGN));
            }
            free &= !bit;
        }
    }
    None
}

/// Whether an address is of the range.
pub(crate) fn owns(ptr: *const u8) -> bool {
    let range = RANGE.load(Ordering::Acquire);
    !range.is_null() && ptr.addr().wrapping_sub(range.addr()) < RANGE_BYTES
}

/// Frees a block of the range. Ends the process if none in use is there.
pub(crate) fn free(ptr: *const u8) {
    let offset = ptr.addr().wrapping_sub(RANGE.load(Ordering::Acquire).addr());
    let index = offset / ALIGN;
    let bit = 1 << (index % WORD_BITS);
    match IN_USE.get(index / WORD_BITS) {
        Some(word) if offset.is_multiple_of(ALIGN) => {
            // Release pairs with Acquire in `allocate`.
            if word.fetch_and(!bit, Ordering::Release) & bit == 0 {
                errno::abort_with("oubliette: double free\n");
            }
        }
        _ => errno::abort_with("oubliette: invalid free\n"),
    }
}

/// The range, which the first one to ask maps.
fn range() -> Option<*mut u8> {
    let known = RANGE.load(Ordering::Acquire);
    if !known.is_null() {
        return Some(known);
    }
    errno::preserved(|| {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping, at an address that the kernel chooses (mmap(2)).
        let mapped = unsafe { libc::mmap(ptr::null_mut(), RANGE_BYTES, libc::PROT_NONE, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return None;
        }
        let none = ptr::null_mut();
        match RANGE.compare_exchange(none, mapped.cast(), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Some(mapped.cast()),
            Err(others) => {
                // SAFETY: mapped above, and known to nobody (munmap(2)).
                let _ = unsafe { libc::munmap(mapped, RANGE_BYTES) };
                Some(others)
            }
        }
    })
}
