//! aarch64 under Linux: `dc civac` on every line, then `dsb sy`, which waits for them.
//!
//! `dc civac` cleans and invalidates to the point of *coherency*, which is memory for every observer; `dc
//! cvau` would stop at the point of unification, inside the caches. Linux lets user space execute it
//! (SCTLR_EL1.UCI) and read CTR_EL0 (SCTLR_EL1.UCT), emulating either where an erratum forbids it
//! (Documentation/arch/arm64/, arch/arm64/kernel/traps.c).

#![expect(
    clippy::arithmetic_side_effects,
    reason = "line sizes are powers of two up to 128 KiB, and offsets stay below a length"
)]

use core::arch::asm;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::wipe::{Instruction, Reach, zero};

/// The unit of `write_back_line`, the same on all processors; real lines are smaller or larger.
const LINE_BYTES: usize = 64;

/// Zeroed, then flushed, before the next: while it is still in the first-level cache, and so that the flushes
/// run under the stores that follow.
const STEP_BYTES: usize = 4096;

/// How far a flush gets.
#[allow(dead_code, reason = "waits for `report()`")]
pub(crate) fn reach() -> Reach {
    Reach::PastCaches(Instruction::DcCivac)
}

/// Zeroes `len` bytes at `ptr`, flushes their lines and waits for it.
///
/// # Safety
/// * (valid for writes) `ptr` is valid for writes of `len` bytes, and nobody else accesses them meanwhile.
pub(crate) unsafe fn zero_and_flush(ptr: NonNull<u8>, len: usize) {
    let mut done = 0;
    while done < len {
        let step = STEP_BYTES.min(len - done);
        // SAFETY: `done < len`.
        let at = unsafe { ptr.add(done) };
        // SAFETY: (valid for writes): `step` bytes from here are inside.
        unsafe { zero(at, step) };
        // SAFETY: bytes that are valid for writes are mapped.
        unsafe { write_back(at, step) };
        done += step;
    }
    fence();
}

/// Writes back the aligned block of 64 bytes that holds `ptr`; `fence` waits for it.
///
/// # Safety
/// * (mapped) that block, and the lines that it is in, are mapped and readable.
#[inline(always)]
pub(crate) unsafe fn write_back_line(ptr: NonNull<u8>) {
    let block = ptr.map_addr(|addr| {
        // A block is never at address zero: `ptr` is mapped, and page zero is not.
        core::num::NonZero::new(addr.get() & !(LINE_BYTES - 1)).unwrap_or(addr)
    });
    // SAFETY: (mapped) is forwarded for the whole block.
    unsafe { write_back(block, LINE_BYTES) };
}

/// Writes back every line that holds one of the `len` bytes at `ptr`; `fence` waits for it.
///
/// # Safety
/// * (mapped) `ptr` is valid for reads of `len` bytes.
#[inline]
pub(crate) unsafe fn write_back(ptr: NonNull<u8>, len: usize) {
    let line = line_bytes();
    let end = ptr.as_ptr().addr().wrapping_add(len);
    let mut at = ptr.as_ptr().map_addr(|addr| addr & !(line - 1));
    if len == 0 {
        return;
    }
    while at.addr() < end {
        // SAFETY: the line holds at least one of the bytes, so it is mapped; `dc civac` changes no byte.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) };
        at = at.wrapping_add(line);
    }
}

/// Waits until every flush before it has left the caches.
#[inline(always)]
pub(crate) fn fence() {
    // SAFETY: a barrier changes nothing.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// The smallest line of all data caches: CTR_EL0.DminLine, bits 19..16, is the logarithm of its words.
#[inline(always)]
fn line_bytes() -> usize {
    /// Zero until read. Every thread stores the same, and nothing else is published by it: `Relaxed`.
    static SEEN: AtomicUsize = AtomicUsize::new(0);
    let seen = SEEN.load(Relaxed);
    if seen != 0 {
        return seen;
    }
    let register: usize;
    // SAFETY: Linux lets user space read it.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) register, options(nomem, nostack, preserves_flags)) };
    let line = 4 << ((register >> 16) & 0xF);
    SEEN.store(line, Relaxed);
    line
}
