//! x86-64: SSE, AVX or AVX-512 with its masks, always with x87/MMX, and AMX tiles where they are in use.
//!
//! Registers by the System V ABI (AMD64 supplement 1.0, 3.2.1): preserved are rbx, rsp, rbp and r12 to r15,
//! the control bits of mxcsr and the x87 control word. Everything else is cleared here.

use core::arch::naked_asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use super::{Clear, Registers};

/// Invariant 1: zero, or what `detect` answers, which is the same on every call and every thread; so
/// `Relaxed` suffices.
static LEVEL: AtomicU8 = AtomicU8::new(UNKNOWN);

const UNKNOWN: u8 = 0;
const SSE: u8 = 1;
const AVX: u8 = 2;
const AVX512: u8 = 3;
const AMX: u8 = 4;

/// The routine for this processor.
#[inline(always)]
pub(super) fn clear() -> Clear {
    match LEVEL.load(Relaxed) {
        AVX512 => avx512,
        AVX => avx,
        other => rare(other),
    }
}

#[cold]
#[inline(never)]
fn rare(level: u8) -> Clear {
    match level {
        SSE => sse,
        AMX => amx,
        _ => {
            LEVEL.store(detect(), Relaxed);
            clear()
        }
    }
}

/// What it clears.
pub(super) fn level() -> Registers {
    clear();
    match LEVEL.load(Relaxed) {
        AMX => Registers::Amx,
        AVX512 => Registers::Avx512,
        AVX => Registers::Avx,
        _ => Registers::Sse,
    }
}

/// Asks the processor, and through std (XGETBV) whether the operating system saves the registers.
fn detect() -> u8 {
    if has_amx() {
        AMX
    } else if std::arch::is_x86_feature_detected!("avx512f") {
        AVX512
    } else if std::arch::is_x86_feature_detected!("avx") {
        AVX
    } else {
        SSE
    }
}

/// AMX tiles exist (CPUID leaf 7, EDX bit 24), the system saves them (XCR0 bits 17 and 18), and XGETBV can
/// tell whether they are in use (CPUID leaf 13, subleaf 1, EAX bit 2). Intel SDM volume 2, *CPUID*.
fn has_amx() -> bool {
    if __cpuid(0).eax < 13 || !std::arch::is_x86_feature_detected!("avx512f") {
        return false;
    }
    let tiles = __cpuid_count(7, 0).edx & (1 << 24) != 0;
    let enabled = __cpuid_count(13, 0).eax & (0b11 << 17) == 0b11 << 17;
    let in_use_known = __cpuid_count(13, 1).eax & (1 << 2) != 0;
    tiles && enabled && in_use_known && tiles_saved()
}

/// XCR0 bits 17 and 18.
fn tiles_saved() -> bool {
    let low: u32;
    // SAFETY: XGETBV with ECX = 0 reads XCR0; it exists where the operating system saves AVX registers
    // (OSXSAVE), which std checked before it said that AVX-512 is there. No memory is touched.
    unsafe {
        core::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack, preserves_flags));
    };
    low & (0b11 << 17) == 0b11 << 17
}

/// What every level ends with: the eight x87/MMX registers (their 64 data bits are zeroed through MMX,
/// which sets the other sixteen to ones, and `emms` marks them empty again), the integer registers that
/// are not preserved, the flags, and the return.
macro_rules! finish {
    () => {
        "pxor mm0, mm0
         pxor mm1, mm1
         pxor mm2, mm2
         pxor mm3, mm3
         pxor mm4, mm4
         pxor mm5, mm5
         pxor mm6, mm6
         pxor mm7, mm7
         emms
         xor eax, eax
         xor ecx, ecx
         xor edx, edx
         xor esi, esi
         xor edi, edi
         xor r8d, r8d
         xor r9d, r9d
         xor r10d, r10d
         xor r11d, r11d
         ret
         .cfi_endproc"
    };
}

/// zmm0 to zmm31 and k0 to k7. `vzeroall` does the first sixteen up to the widest vector (Intel SDM volume
/// 2, *VZEROALL*: bits MAXVL-1:0) and leaves no dirty upper half behind, which would slow SSE code down;
/// `kxorw` zeroes a mask register up to its full width (*KXORW*: bits MAX_KL-1:16 are set to zero).
macro_rules! vectors_512 {
    () => {
        "vzeroall
         vpxord zmm16, zmm16, zmm16
         vpxord zmm17, zmm17, zmm17
         vpxord zmm18, zmm18, zmm18
         vpxord zmm19, zmm19, zmm19
         vpxord zmm20, zmm20, zmm20
         vpxord zmm21, zmm21, zmm21
         vpxord zmm22, zmm22, zmm22
         vpxord zmm23, zmm23, zmm23
         vpxord zmm24, zmm24, zmm24
         vpxord zmm25, zmm25, zmm25
         vpxord zmm26, zmm26, zmm26
         vpxord zmm27, zmm27, zmm27
         vpxord zmm28, zmm28, zmm28
         vpxord zmm29, zmm29, zmm29
         vpxord zmm30, zmm30, zmm30
         vpxord zmm31, zmm31, zmm31
         kxorw k0, k0, k0
         kxorw k1, k1, k1
         kxorw k2, k2, k2
         kxorw k3, k3, k3
         kxorw k4, k4, k4
         kxorw k5, k5, k5
         kxorw k6, k6, k6
         kxorw k7, k7, k7"
    };
}

/// xmm0 to xmm15.
#[unsafe(naked)]
unsafe extern "C" fn sse() {
    naked_asm!(
        ".cfi_startproc",
        "xorps xmm0, xmm0
         xorps xmm1, xmm1
         xorps xmm2, xmm2
         xorps xmm3, xmm3
         xorps xmm4, xmm4
         xorps xmm5, xmm5
         xorps xmm6, xmm6
         xorps xmm7, xmm7
         xorps xmm8, xmm8
         xorps xmm9, xmm9
         xorps xmm10, xmm10
         xorps xmm11, xmm11
         xorps xmm12, xmm12
         xorps xmm13, xmm13
         xorps xmm14, xmm14
         xorps xmm15, xmm15",
        finish!(),
    )
}

/// ymm0 to ymm15.
#[unsafe(naked)]
unsafe extern "C" fn avx() {
    naked_asm!(".cfi_startproc", "vzeroall", finish!())
}

/// zmm0 to zmm31 and k0 to k7.
#[unsafe(naked)]
unsafe extern "C" fn avx512() {
    naked_asm!(".cfi_startproc", vectors_512!(), finish!())
}

/// The same, and the tiles if they are in use (XGETBV with ECX = 1, bit 18: Intel SDM volume 1, 13.6). Only
/// then: where no thread asked for them, the kernel keeps them disabled.
#[unsafe(naked)]
unsafe extern "C" fn amx() {
    naked_asm!(
        ".cfi_startproc",
        "mov ecx, 1
         xgetbv
         test eax, 0x40000
         jz 2f
         tilerelease
         2:",
        vectors_512!(),
        finish!(),
    )
}

/// Every routine that this processor can run, for tests.
#[cfg(test)]
pub(super) fn all() -> Vec<(&'static str, Clear)> {
    let mut list: Vec<(&'static str, Clear)> = vec![("sse", sse)];
    if std::arch::is_x86_feature_detected!("avx") {
        list.push(("avx", avx));
    }
    if std::arch::is_x86_feature_detected!("avx512f") {
        list.push(("avx512", avx512));
    }
    if has_amx() {
        list.push(("amx", amx));
    }
    list
}
