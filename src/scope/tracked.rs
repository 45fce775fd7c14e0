//! Which pages of a stack were written? Told without a system call, whatever wrote them.
//!
//! ```text
//!  file in memory      | word e | word e | word e |      written through `control`, a shared mapping
//!                          |        |        |
//!  private mapping     | word e | word e |  ????  |      seen by the stack
//!                       untouched untouched written: a copy, which no longer follows the file
//! ```
//!
//! The deep part of a stack is a private mapping of a file in memory. Until a page of it is written it *is*
//! the page of the file; the first write, by an instruction or by the kernel (a `read(2)` into a buffer, a
//! signal frame), makes it a copy. So: put a new number into one word of each page of the file, and look
//! for it in the same word of the private pages. Where it appears, the page was not written since it was
//! last discarded; where it does not, it was. A page in the middle that was not touched hides nothing,
//! since every page answers for itself.
//!
//! The number comes after the closure has ended and is not one that it can have seen, so a written page
//! shows it only by chance, of 2^-64.
//!
//! No page of the stack holds a reference that the compiler knows of, and the words are compared in memory
//! (x86-64): a written page's word belongs to whatever was on the stack, and must not enter a register.

// UNSAFETY: reads and writes memory by address that another mapping shares.
#![expect(unsafe_code, reason = "compares two mappings of the same pages, see UNSAFETY above")]

use core::cell::Cell;
use core::ptr::NonNull;

use crate::os::{self, Errno, stacks};

/// The pages of one range, and what was written to their file last.
///
/// # Invariants
///
/// 1. `[base, base + pages * page)` was made by `map_tracked`, and `control` is the same pages, shared.
/// 2. `control` is written by this value alone.
#[derive(Debug)]
pub(super) struct Tracked {
    base: NonNull<u8>,
    control: NonNull<u8>,
    pages: usize,
    page_bytes: usize,
    number: Cell<u64>,
}

/// Cache lines a page: the word of page `i` is in line `i` modulo this, so that the words of neighbouring
/// pages do not compete for one set of the first-level cache.
const LINE_BYTES: usize = 64;

impl Tracked {
    /// Turns reserved pages into tracked ones, readable and writable, all zero. Nothing, and the pages as
    /// they were, where the system does not offer what it takes: no files in memory (a sandbox, an old
    /// kernel), or private pages that do not follow them.
    ///
    /// # Safety
    ///
    /// - The whole range is part of a reservation, is not committed, and nothing else uses it.
    pub(super) unsafe fn new(base: NonNull<u8>, pages: usize) -> os::Result<Option<Self>> {
        let page_bytes = os::page_size();
        let len = pages.checked_mul(page_bytes).ok_or(Errno::INVAL)?;
        let mut seed = [0; 8];
        os::fill_random(&mut seed)?;
        // SAFETY: forwarded: reserved, and nothing uses it.
        let Ok(control) = (unsafe { stacks::map_tracked(base, len) }) else { return Ok(None) };
        let tracked = Self { base, control, pages, page_bytes, number: Cell::new(u64::from_ne_bytes(seed)) };
        // A forked child has neither mapping: it must not see what is on the stack, and must not write the
        // file that its parent looks at.
        let is_private = [base, control].into_iter().all(|start| {
            // SAFETY: both were mapped by this function (invariant 1).
            unsafe { os::advise(start, len, os::Hint::DontFork) }.is_ok()
        });
        // The one thing that the manual does not promise and Linux does: see `map_tracked`.
        if is_private && tracked.first_written(pages).is_none() {
            return Ok(Some(tracked));
        }
        // SAFETY: mapped by this function, and `tracked` is not used any more.
        unsafe { stacks::unmap_tracked(base, len, control) }?;
        Ok(None)
    }

    /// The lowest of the first `count` pages that was written since it was last discarded.
    #[inline]
    pub(super) fn first_written(&self, count: usize) -> Option<usize> {
        let count = count.min(self.pages);
        // A step of a full-period generator (Knuth, TAOCP 2, 3.2.1.2): 2^64 numbers before one comes again.
        let number =
            self.number.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.number.set(number);
        for page in 0..count {
            let word = self.word(self.control, page);
            // SAFETY: inside the shared mapping (`word`), aligned, and written by nobody else (invariant
            // 2). Volatile: it is read through the other mapping, which the compiler does not know of.
            unsafe { word.write_volatile(number) };
        }
        // SAFETY: as above, the pages are mapped and readable.
        (0..count).find(|&page| unsafe { differs(self.word(self.base, page), number) })
    }

    /// The word of a page in one of the two mappings: inside it for every page of the range.
    #[inline]
    fn word(&self, mapping: NonNull<u8>, page: usize) -> NonNull<u64> {
        debug_assert!(page < self.pages, "a page of the range");
        let start = page.wrapping_mul(self.page_bytes);
        let line = page.wrapping_mul(LINE_BYTES) & self.page_bytes.wrapping_sub(1);
        // SAFETY: `page < pages` and `line < page_bytes`, so the sum is inside the mapping (invariant 1).
        unsafe { mapping.add(start.wrapping_add(line)) }.cast()
    }

    /// Unmaps the shared pages. The private ones belong to the reservation around them.
    pub(super) fn release(self) {
        // SAFETY: mapped by `map_tracked` (invariant 1), and `self` is gone. A failure leaves pages mapped
        // that hold no secret.
        let _ = unsafe { os::release(self.control, self.pages.wrapping_mul(self.page_bytes)) };
    }
}

/// Whether the word in memory is another one, without loading it.
///
/// # Safety
///
/// - `word` is readable.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn differs(word: NonNull<u64>, number: u64) -> bool {
    let differs: u8;
    // SAFETY: the caller promises that the word is readable; one byte of a register and the flags change.
    unsafe {
        core::arch::asm!(
            "cmp qword ptr [{word}], {number}",
            "setne {differs}",
            word = in(reg) word.as_ptr(),
            number = in(reg) number,
            differs = lateout(reg_byte) differs,
            options(nostack, readonly)
        );
    }
    differs != 0
}

/// Whether the word in memory is another one.
///
/// # Safety
///
/// - `word` is readable.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
unsafe fn differs(word: NonNull<u64>, number: u64) -> bool {
    // SAFETY: the caller promises that the word is readable and aligned. Volatile: see `first_written`.
    unsafe { word.read_volatile() != number }
}
