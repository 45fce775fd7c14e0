//! The scan on x86-64. The bytes are compared with zero in memory: what enters a register is which
//! double words were zero, never what they were. So a signal in the middle of a scan spills nothing, and
//! nothing has to be cleared behind it.

use core::arch::asm;
use core::ptr::NonNull;

/// See [`scan::first_used`](super::first_used): by 32 bytes a load where there is AVX2, else by 16.
///
/// # Safety
///
/// As there.
#[inline(always)]
pub(super) unsafe fn first_used(start: NonNull<u8>, len: usize) -> usize {
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: forwarded, and AVX2 is there.
        unsafe { avx2(start, len) }
    } else {
        // SAFETY: forwarded.
        unsafe { sse2(start, len) }
    }
}

/// # Safety
///
/// As for [`first_used`], and the processor has AVX2.
#[inline(always)]
unsafe fn avx2(start: NonNull<u8>, len: usize) -> usize {
    let mut offset = 0_usize;
    // SAFETY: reads `[start, start + len)` in whole blocks, as the caller promises. Five vector registers,
    // two integer registers and the flags change; nothing is written.
    unsafe {
        asm!(
            "vpxor xmm0, xmm0, xmm0",
            "2:",
            "cmp {offset}, {len}",
            "jae 3f",
            "vpcmpeqd ymm1, ymm0, ymmword ptr [{start} + {offset}]",
            "vpcmpeqd ymm2, ymm0, ymmword ptr [{start} + {offset} + 32]",
            "vpcmpeqd ymm3, ymm0, ymmword ptr [{start} + {offset} + 64]",
            "vpcmpeqd ymm4, ymm0, ymmword ptr [{start} + {offset} + 96]",
            "vpand ymm1, ymm1, ymm2",
            "vpand ymm3, ymm3, ymm4",
            "vpcmpeqd ymm2, ymm0, ymmword ptr [{start} + {offset} + 128]",
            "vpcmpeqd ymm4, ymm0, ymmword ptr [{start} + {offset} + 160]",
            "vpand ymm1, ymm1, ymm2",
            "vpand ymm3, ymm3, ymm4",
            "vpcmpeqd ymm2, ymm0, ymmword ptr [{start} + {offset} + 192]",
            "vpcmpeqd ymm4, ymm0, ymmword ptr [{start} + {offset} + 224]",
            "vpand ymm1, ymm1, ymm2",
            "vpand ymm3, ymm3, ymm4",
            "vpand ymm1, ymm1, ymm3",
            "vpmovmskb {mask:e}, ymm1",
            "cmp {mask:e}, -1",
            "jne 3f",
            "add {offset}, 256",
            "jmp 2b",
            "3:",
            "vzeroupper",
            start = in(reg) start.as_ptr(),
            len = in(reg) len,
            offset = inout(reg) offset,
            mask = out(reg) _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
            options(nostack, readonly)
        );
    }
    offset
}

/// # Safety
///
/// As for [`first_used`].
#[inline(never)]
unsafe fn sse2(start: NonNull<u8>, len: usize) -> usize {
    let mut offset = 0_usize;
    // SAFETY: reads `[start, start + len)` in whole blocks of 256, each in four steps of 64 bytes, as the
    // caller promises; a multiple of 64 is aligned for `pcmpeqd`. Five vector registers, three integer
    // registers and the flags change; nothing is written.
    unsafe {
        asm!(
            "pxor xmm0, xmm0",
            "2:",
            "cmp {offset}, {len}",
            "jae 4f",
            "mov {step}, {offset}",
            "lea {end}, [{offset} + 256]",
            "3:",
            "movdqa xmm1, xmm0",
            "movdqa xmm2, xmm0",
            "movdqa xmm3, xmm0",
            "movdqa xmm4, xmm0",
            "pcmpeqd xmm1, xmmword ptr [{start} + {step}]",
            "pcmpeqd xmm2, xmmword ptr [{start} + {step} + 16]",
            "pcmpeqd xmm3, xmmword ptr [{start} + {step} + 32]",
            "pcmpeqd xmm4, xmmword ptr [{start} + {step} + 48]",
            "pand xmm1, xmm2",
            "pand xmm3, xmm4",
            "pand xmm1, xmm3",
            "pmovmskb {mask:e}, xmm1",
            "cmp {mask:e}, 0xffff",
            "jne 4f",
            "add {step}, 64",
            "cmp {step}, {end}",
            "jb 3b",
            "mov {offset}, {end}",
            "jmp 2b",
            "4:",
            start = in(reg) start.as_ptr(),
            len = in(reg) len,
            offset = inout(reg) offset,
            step = out(reg) _,
            end = out(reg) _,
            mask = out(reg) _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
            options(nostack, readonly)
        );
    }
    offset
}

/// Every way that this processor can run, for tests.
#[cfg(test)]
pub(super) type Way = unsafe fn(NonNull<u8>, usize) -> usize;

/// Every way that this processor can run, for tests.
#[cfg(test)]
pub(super) fn all() -> Vec<(&'static str, Way)> {
    let mut list: Vec<(&'static str, Way)> = vec![("sse2", sse2)];
    if std::arch::is_x86_feature_detected!("avx2") {
        list.push(("avx2", avx2));
    }
    list
}
