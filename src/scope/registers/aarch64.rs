//! aarch64: v0 to v31, the SVE predicates and first-fault register where there are any, and the integer
//! registers.
//!
//! Registers by the AAPCS64 (2024Q3, 6.1): preserved are x19 to x29, sp and the low 64 bits of v8 to v15.
//! x18 belongs to the platform (a shadow stack on Android), so it is left alone. A write to a vector
//! register by an instruction of the base set zeroes the rest of its SVE register (Arm ARM, B1.2.2), so no
//! vector register needs SVE to be cleared, of whatever length.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use super::{Clear, Registers};

/// Invariant 1: zero, or what `detect` answers, which is the same on every call and every thread; so
/// `Relaxed` suffices.
static LEVEL: AtomicU8 = AtomicU8::new(UNKNOWN);

const UNKNOWN: u8 = 0;
const NEON: u8 = 1;
const SVE: u8 = 2;

/// The routine for this processor.
#[inline(always)]
pub(super) fn clear() -> Clear {
    match LEVEL.load(Relaxed) {
        NEON => neon,
        SVE => sve,
        _ => detect_slow(),
    }
}

/// What it clears.
pub(super) fn level() -> Registers {
    clear();
    if LEVEL.load(Relaxed) == SVE { Registers::Sve } else { Registers::Neon }
}

#[cold]
#[inline(never)]
fn detect_slow() -> Clear {
    let level = if std::arch::is_aarch64_feature_detected!("sve") { SVE } else { NEON };
    LEVEL.store(level, Relaxed);
    if level == SVE { sve } else { neon }
}

/// The vector registers: v8 to v15 keep their low 64 bits, which hold the caller's values again, and lose
/// the rest (`fmov d, d` zeroes it). Then the integer registers that are not preserved, the flags, and the
/// return.
macro_rules! finish {
    () => {
        "movi v0.2d, #0
         movi v1.2d, #0
         movi v2.2d, #0
         movi v3.2d, #0
         movi v4.2d, #0
         movi v5.2d, #0
         movi v6.2d, #0
         movi v7.2d, #0
         fmov d8, d8
         fmov d9, d9
         fmov d10, d10
         fmov d11, d11
         fmov d12, d12
         fmov d13, d13
         fmov d14, d14
         fmov d15, d15
         movi v16.2d, #0
         movi v17.2d, #0
         movi v18.2d, #0
         movi v19.2d, #0
         movi v20.2d, #0
         movi v21.2d, #0
         movi v22.2d, #0
         movi v23.2d, #0
         movi v24.2d, #0
         movi v25.2d, #0
         movi v26.2d, #0
         movi v27.2d, #0
         movi v28.2d, #0
         movi v29.2d, #0
         movi v30.2d, #0
         movi v31.2d, #0
         mov x0, #0
         mov x1, #0
         mov x2, #0
         mov x3, #0
         mov x4, #0
         mov x5, #0
         mov x6, #0
         mov x7, #0
         mov x8, #0
         mov x9, #0
         mov x10, #0
         mov x11, #0
         mov x12, #0
         mov x13, #0
         mov x14, #0
         mov x15, #0
         mov x16, #0
         mov x17, #0
         cmp xzr, xzr
         msr fpsr, xzr
         ret
         .cfi_endproc"
    };
}

/// v0 to v31.
#[unsafe(naked)]
unsafe extern "C" fn neon() {
    naked_asm!(".cfi_startproc", finish!())
}

/// The same, with p0 to p15 and the first-fault register. The instructions are switched on for this
/// function alone.
#[unsafe(naked)]
unsafe extern "C" fn sve() {
    naked_asm!(
        ".cfi_startproc",
        ".arch_extension sve",
        "pfalse p0.b
         wrffr p0.b
         pfalse p1.b
         pfalse p2.b
         pfalse p3.b
         pfalse p4.b
         pfalse p5.b
         pfalse p6.b
         pfalse p7.b
         pfalse p8.b
         pfalse p9.b
         pfalse p10.b
         pfalse p11.b
         pfalse p12.b
         pfalse p13.b
         pfalse p14.b
         pfalse p15.b",
        ".arch_extension nosve",
        finish!(),
    )
}

/// Every routine that this processor can run, for tests.
#[cfg(test)]
pub(super) fn all() -> Vec<(&'static str, Clear)> {
    let mut list: Vec<(&'static str, Clear)> = vec![("neon", neon)];
    if std::arch::is_aarch64_feature_detected!("sve") {
        list.push(("sve", sve));
    }
    list
}
