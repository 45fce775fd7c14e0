//! What this x86-64 processor can do: asked once, kept in one byte.

use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// Inline assembly that ends with `vzeroupper`, which changes every vector register of AVX2: its options first, then the
/// lines and the operands, with a comma behind the last.
macro_rules! asm_avx2 {
    (options($($option:ident),*), $($part:tt)*) => {
        core::arch::asm!(
            $($part)*
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
            out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
            out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
            options($($option),*),
        )
    };
}
pub(super) use asm_avx2;

/// Invariant 1: zero, or what `detect` answers, which is the same on every call and every thread. So
/// `Relaxed` suffices: the byte publishes no other memory, and two threads that race store the same.
static FEATURES: AtomicU8 = AtomicU8::new(0);

/// The processor's features as bits; `KNOWN` is in every value but the initial one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Features(u8);

impl Features {
    const KNOWN: u8 = 1;
    const CLWB: u8 = 1 << 1;
    const CLFLUSHOPT: u8 = 1 << 2;
    const AVX2: u8 = 1 << 3;
    const FAST_AVX512: u8 = 1 << 4;

    /// All features, asking the processor only the first time.
    #[inline(always)]
    pub(super) fn get() -> Self {
        let seen = Self::seen();
        if seen.0 == 0 { Self::detect_slow() } else { seen }
    }

    /// What is known so far, in one load: nothing at all before the first `get`. For hot paths whose slow
    /// path calls `get`.
    #[inline(always)]
    pub(super) fn seen() -> Self {
        Self(FEATURES.load(Relaxed))
    }

    /// `clwb` exists.
    #[inline(always)]
    pub(super) const fn has_clwb(self) -> bool {
        self.0 & Self::CLWB != 0
    }

    /// `clflushopt` exists.
    #[inline(always)]
    pub(super) const fn has_clflushopt(self) -> bool {
        self.0 & Self::CLFLUSHOPT != 0
    }

    /// A non-temporal store takes the line out of the caches if it is there.
    ///
    /// No manual makes that architecture. Intel's says "the data in the caches is evicted", and that "some
    /// older CPU implementations (e.g., Pentium M)" updated it in place (SDM volume 1, 10.4.6.2); AMD's
    /// speak of write-combining buffers, which MFENCE empties, and not of a line that is cached. But the
    /// processors since persistent memory, which brought `clflushopt` and `clwb`, do it: Linux and PMDK
    /// trust such stores with the durability of data and flush nothing after them (`__memcpy_flushcache` in
    /// `arch/x86/lib/usercopy_64.c`). Measured on Zen 4: a dirty line is read back in 442 ticks after it, in
    /// 416 after `clflushopt`, in 104 after `clwb`, in 78 after none.
    #[inline(always)]
    pub(super) const fn has_evicting_stores(self) -> bool {
        self.0 & (Self::CLWB | Self::CLFLUSHOPT) != 0
    }

    /// AVX2 exists and the operating system saves its registers.
    #[inline(always)]
    pub(super) const fn has_avx2(self) -> bool {
        self.0 & Self::AVX2 != 0
    }

    /// AVX512F exists, the operating system saves its registers, and the processor does not slow down for a while
    /// after it has used 64 bytes at once. The first ones to have it did (Intel before Ice Lake: SDM optimization
    /// manual, *Server power and frequency*); they are those without AVX512_VBMI2, which Ice Lake and Zen 4 brought.
    #[inline(always)]
    pub(super) const fn has_fast_avx512(self) -> bool {
        self.0 & Self::FAST_AVX512 != 0
    }

    #[cold]
    #[inline(never)]
    fn detect_slow() -> Self {
        let found = Self(detect());
        FEATURES.store(found.0, Relaxed);
        found
    }
}

/// Asks the processor. `clwb` and `clflushopt` are CPUID leaf 7 (EBX bits 24 and 23; Intel SDM volume 2,
/// *CPUID*), which std's feature detection does not know.
fn detect() -> u8 {
    let mut bits = Features::KNOWN;
    if __cpuid(0).eax >= 7 {
        let leaf = __cpuid_count(7, 0).ebx;
        if leaf & (1 << 24) != 0 {
            bits |= Features::CLWB;
        }
        if leaf & (1 << 23) != 0 {
            bits |= Features::CLFLUSHOPT;
        }
    }
    // std asks XGETBV as well, whether the operating system saves the registers.
    if std::arch::is_x86_feature_detected!("avx2") {
        bits |= Features::AVX2;
    }
    if std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512vbmi2") {
        bits |= Features::FAST_AVX512;
    }
    bits
}
