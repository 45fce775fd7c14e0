//! Zero, compiler barrier, cache flush, full fence.
//!
//! Public: [`wipe`] and [`wipe_value`]. For the rest of the crate, from the hottest to the rarest:
//!
//! | function | contents | caches |
//! |---|---|---|
//! | `zero_small_slot`, `small_slot_is_zero` | 32 to 64 bytes, no branch | untouched |
//! | `zero_short_slot`, `short_slot_is_zero` | 80 to 144 bytes, no branch | untouched |
//! | `zero_mid_slot`, `mid_slot_is_zero` | 176 to 1,040 bytes, no call | untouched |
//! | `store_marker` | four bytes, in one store | untouched |
//! | `zero_slot`, `slot_is_zero` | 16-byte granules, inlined up to 256 bytes | untouched |
//! | `write_back_line` | unchanged | one line written back, not waited for |
//! | `zero`, `is_zero` | any length and alignment | untouched |
//! | `write_back` | unchanged | every line written back, not waited for |
//! | `fence` | unchanged | waits for all of these |
//! | `zero_and_flush` | zero | zero, written back, waited for |
//!
//! "Past the CPU's caches" is what is claimed where [`reach`] says so: the zeros left every cache towards
//! memory. Where they are after that (the memory controller's queue, a module's buffer) no instruction
//! tells. Nothing here allocates, locks, panics or makes a system call, so all of it may run in an
//! allocator callback or in a signal handler.

// UNSAFETY: this module overwrites memory given by address, and issues the cache instructions that Rust
// has no functions for.
#![expect(unsafe_code, reason = "raw stores and cache instructions are what this module is for")]

mod barrier;
mod check;
#[cfg(all(target_arch = "x86_64", not(any(miri, oubliette_portable))))]
mod cpu;
mod flush;
mod zero;

#[cfg(test)]
mod tests;

use core::ptr::NonNull;

use zeroize::DefaultIsZeroes;

pub(crate) use check::{is_zero, mid_slot_is_zero, short_slot_is_zero, slot_is_zero, small_slot_is_zero};
#[allow(unused_imports, reason = "`reach` waits for `report()`")]
pub(crate) use flush::{fence, reach, write_back, write_back_line, zero_and_flush};
pub(crate) use zero::{store_marker, zero, zero_mid_slot, zero_short_slot, zero_slot, zero_small_slot};

/// An instruction that takes a line out of, or through, every cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Instruction {
    /// x86 `clwb`: writes the line back and may keep it, clean, in the cache.
    Clwb,
    /// x86 `clflushopt`: writes the line back and drops it from every cache.
    Clflushopt,
    /// x86 `clflush`: the same, one line after the other.
    Clflush,
    /// aarch64 `dc civac`: cleans and drops the line up to the point of coherency.
    DcCivac,
}

/// How far a flush gets on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Past every cache of the CPU, by this instruction.
    PastCaches(Instruction),
    /// Only into the cache: the zeros are what every program and device that is coherent with the CPU
    /// reads, but the old bytes stay in memory until the hardware evicts the line.
    CacheOnly,
}

/// Asks the processor what it can do. Until something has asked, the hot paths do without its wider registers.
pub(crate) fn prepare() {
    let _known = reach();
}

/// Fills `bytes` with zeros so that no optimiser can remove it, and sends the zeros past the CPU's caches
/// before it returns (where the CPU has an instruction for that: x86-64, and aarch64 under Linux).
///
/// ```
/// let mut key = *b"a key that is no longer in use..";
/// oubliette::wipe(&mut key);
/// assert_eq!(key, [0; 32]);
/// ```
pub fn wipe(bytes: &mut [u8]) {
    let len = bytes.len();
    // SAFETY: (valid for writes) a `&mut [u8]` is valid for reads and writes of `len` bytes and nobody else
    // has access to them while it lives; zero is a valid `u8`.
    unsafe { zero_and_flush(NonNull::from(bytes).cast(), len) };
}

/// Sets a plain value to its zero, every byte of it and the padding between its fields included, and
/// sends that past the CPU's caches like [`wipe`].
///
/// The bound is zeroize's marker for plain data, for three reasons. It implies `Copy`, so the value has no
/// destructor and owns nothing that overwriting it would leak or leave behind. It is opted into, so a
/// `&[u8]` or a raw pointer, which are `Copy` too, cannot be passed by mistake for what it points to. And
/// it implies `Default`, so the value is a valid one afterwards whatever the type: this function writes
/// the default over the zero bytes and does not rely on the marker being right.
///
/// An array of bytes goes to [`wipe`]. A type of your own opts in:
///
/// ```
/// #[derive(Clone, Copy, Default)]
/// struct RoundKeys { words: [u64; 8], rounds: u32 }
/// impl zeroize::DefaultIsZeroes for RoundKeys {}
///
/// let mut keys = RoundKeys { words: [7; 8], rounds: 10 };
/// oubliette::wipe_value(&mut keys);
/// assert_eq!((keys.words, keys.rounds), ([0; 8], 0));
/// ```
///
/// ```compile_fail,E0277
/// let mut owner = vec![1_u8, 2, 3];
/// oubliette::wipe_value(&mut owner); // would wipe the pointer and leak the bytes
/// ```
pub fn wipe_value<T: DefaultIsZeroes>(value: &mut T) {
    // Made first: if it panics, `value` is still whole.
    let blank = T::default();
    let bytes = NonNull::from(&mut *value).cast::<u8>();
    // SAFETY: (valid for writes) `value` is a `&mut T`, valid for writes of its size. Its bytes may stop
    // being a valid `T`, but nothing reads or drops it until it is assigned below, and nothing between
    // can panic; `T: Copy`, so the value that is overwritten has no destructor.
    unsafe { zero(bytes, size_of::<T>()) };
    *value = blank;
    barrier::barrier(bytes);
    // SAFETY: (mapped) as above, the bytes of a `&mut T`.
    unsafe { write_back(bytes, size_of::<T>()) };
    fence();
}
