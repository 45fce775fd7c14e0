//! Fill every register, clear, look: with nothing compiled in between.
#![allow(
    clippy::indexing_slicing,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "tests"
)]

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use core::arch::asm;

    use crate::scope::registers::{Clear, machine};

    #[repr(C, align(64))]
    struct Dump {
        vectors: [[u64; 8]; 32],
        masks: [u64; 8],
        floats: [[u8; 16]; 8],
        integers: [u64; 9],
    }

    /// Fills all registers with ones, clears them and stores them.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn fill_and_clear(clear: Clear, dump: &mut Dump) {
        unsafe {
            asm!(
                "vpternlogd zmm0, zmm0, zmm0, 0xff",
                "vmovdqa64 zmm1, zmm0", "vmovdqa64 zmm7, zmm0", "vmovdqa64 zmm15, zmm0",
                "vmovdqa64 zmm16, zmm0", "vmovdqa64 zmm20, zmm0", "vmovdqa64 zmm30, zmm0",
                "vmovdqa64 zmm31, zmm0",
                "kxnorq k0, k0, k0", "kxnorq k1, k1, k1", "kxnorq k5, k5, k5", "kxnorq k7, k7, k7",
                "pcmpeqd mm0, mm0", "pcmpeqd mm3, mm3", "pcmpeqd mm7, mm7", "emms",
                "mov rax, -1", "mov rcx, -1", "mov rdx, -1", "mov rsi, -1", "mov rdi, -1",
                "mov r8, -1", "mov r9, -1", "mov r10, -1", "mov r11, -1",
                "call r12",
                "mov [r13 + 2240], rax", "mov [r13 + 2248], rcx", "mov [r13 + 2256], rdx",
                "mov [r13 + 2264], rsi", "mov [r13 + 2272], rdi", "mov [r13 + 2280], r8",
                "mov [r13 + 2288], r9", "mov [r13 + 2296], r10", "mov [r13 + 2304], r11",
                "vmovdqa64 [r13 + 0x000], zmm0", "vmovdqa64 [r13 + 0x040], zmm1",
                "vmovdqa64 [r13 + 0x1c0], zmm7", "vmovdqa64 [r13 + 0x3c0], zmm15",
                "vmovdqa64 [r13 + 0x400], zmm16", "vmovdqa64 [r13 + 0x500], zmm20",
                "vmovdqa64 [r13 + 0x780], zmm30", "vmovdqa64 [r13 + 0x7c0], zmm31",
                "kmovq [r13 + 2048], k0", "kmovq [r13 + 2056], k1", "kmovq [r13 + 2088], k5",
                "kmovq [r13 + 2104], k7",
                "movq [r13 + 2112], mm0", "movq [r13 + 2160], mm3", "movq [r13 + 2224], mm7", "emms",
                in("r12") clear,
                in("r13") dump,
                clobber_abi("C"),
            );
        }
    }

    #[test]
    fn every_level_clears_what_it_names() {
        if !(is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")) {
            return;
        }
        assert_eq!(core::mem::offset_of!(Dump, masks), 2048, "the offsets of the assembly");
        assert_eq!(core::mem::offset_of!(Dump, floats), 2112, "the offsets of the assembly");
        assert_eq!(core::mem::offset_of!(Dump, integers), 2240, "the offsets of the assembly");
        for (name, clear) in machine::all() {
            let mut dump =
                Dump { vectors: [[0; 8]; 32], masks: [0; 8], floats: [[0; 16]; 8], integers: [0; 9] };
            unsafe { fill_and_clear(clear, &mut dump) };
            let low_lanes = match name {
                "sse" => 2,
                _ => 8,
            };
            for vector in &dump.vectors[..16] {
                assert!(vector[..low_lanes].iter().all(|&lane| lane == 0), "{name}: low vectors");
            }
            if name == "avx512" || name == "amx" {
                assert!(dump.vectors.iter().flatten().all(|&lane| lane == 0), "{name}: all vectors");
                assert!(dump.masks.iter().all(|&mask| mask == 0), "{name}: masks");
            }
            for register in &dump.floats {
                assert!(register[..8].iter().all(|&byte| byte == 0), "{name}: x87");
            }
            assert_eq!(dump.integers, [0; 9], "{name}: integers");
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use core::arch::asm;

    use crate::scope::registers::{Clear, machine};

    /// Fills registers with ones, clears them, and ors together what is left of each kind: vectors that
    /// need not be preserved, the upper halves of those whose lower halves must be, integers.
    unsafe fn fill_and_clear(clear: Clear) -> [u64; 4] {
        let mut left = [0_u64; 4];
        unsafe {
            asm!(
                "movi v0.16b, #0xff", "movi v7.16b, #0xff", "movi v8.16b, #0xff", "movi v15.16b, #0xff",
                "movi v16.16b, #0xff", "movi v31.16b, #0xff",
                "mov x0, #-1", "mov x8, #-1", "mov x9, #-1", "mov x17, #-1",
                "blr x20",
                "stp x0, x9, [sp, #-16]!",
                "orr x9, x8, x17",
                "str x9, [x21, #16]",
                "ldp x0, x9, [sp], #16",
                "ldr x8, [x21, #16]", "orr x8, x8, x0", "orr x8, x8, x9", "str x8, [x21, #16]",
                "orr v0.16b, v0.16b, v7.16b", "orr v0.16b, v0.16b, v16.16b", "orr v0.16b, v0.16b, v31.16b",
                "mov x9, v0.d[0]", "mov x10, v0.d[1]", "orr x9, x9, x10", "str x9, [x21]",
                "mov x9, v8.d[1]", "mov x10, v15.d[1]", "orr x9, x9, x10", "str x9, [x21, #8]",
                "mov x9, v8.d[0]", "mov x10, v15.d[0]", "and x9, x9, x10", "str x9, [x21, #24]",
                in("x20") clear,
                in("x21") &raw mut left,
                clobber_abi("C"),
                out("v8") _, out("v15") _,
            );
        }
        left
    }

    /// Fills predicates, the first-fault register and whole SVE registers, clears, and ors them together.
    unsafe fn fill_and_clear_sve(clear: Clear) -> u64 {
        let mut left = [0_u64; 64];
        unsafe {
            asm!(
                ".arch_extension sve",
                "ptrue p0.b", "ptrue p3.b", "ptrue p7.b", "ptrue p15.b", "setffr",
                "dup z0.b, #-1", "dup z17.b, #-1", "dup z31.b, #-1",
                "blr x20",
                "str p0, [x21]", "str p3, [x21, #1, mul vl]", "str p7, [x21, #2, mul vl]",
                "str p15, [x21, #3, mul vl]",
                "rdffr p1.b", "str p1, [x21, #4, mul vl]",
                "orr z0.d, z0.d, z17.d", "orr z0.d, z0.d, z31.d", "str z0, [x21, #1, mul vl]",
                ".arch_extension nosve",
                in("x20") clear,
                in("x21") &raw mut left,
                clobber_abi("C"),
            );
        }
        // The longest vector is 256 bytes, a predicate an eighth of that: p15 and the flags may share
        // words with z0, and all must be zero.
        left.iter().fold(0, |sum, word| sum | word)
    }

    #[test]
    fn every_level_clears_what_it_names() {
        for (name, clear) in machine::all() {
            let [vectors, upper, integers, lower] = unsafe { fill_and_clear(clear) };
            assert_eq!([vectors, upper, integers], [0; 3], "{name}");
            assert_eq!(lower, u64::MAX, "{name}: the lower halves of v8 to v15 are preserved");
            if name == "sve" {
                assert_eq!(unsafe { fill_and_clear_sve(clear) }, 0, "{name}");
            }
        }
    }
}
