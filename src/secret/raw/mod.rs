//! Owning blocks of the secret heap: the only code of this folder that touches memory by pointer.
//!
//! ```text
//! SecretBox<T>  ── Value<T>   ptr ─▶ [ T ]
//! SecretVec<T>  ── Buffer<T>  ptr ─▶ [ T | T | T | 0 0 0 0 0 ]   len values, then zeros up to capacity
//! SecretString  ── Text       = Buffer<u8> of UTF-8
//! IsolatedBox<T> ─ Isolated<T>  slot ─▶ | guard | 0 0 0 canary [ T ] | guard |   sealed at rest
//! ```
//!
//! Nothing but the data lies in the block: length and capacity stay with the owner, and what the heap
//! knows of the block is in its side tables.

// UNSAFETY: takes blocks from the heap and gives them back, and makes references into them. The
// invariants that make that sound are numbered on `Value`, `Buffer` and `Text`, whose fields are private to
// their files.
#![expect(unsafe_code, reason = "owns blocks of the secret heap by pointer")]

mod buffer;
mod isolated;
mod opened;
mod text;
mod value;

use core::alloc::Layout;
use core::ptr::NonNull;

pub(super) use buffer::{Buffer, forget_vec};
pub(super) use isolated::{Isolated, Shared, Unique, relocate};
pub(super) use opened::{OpenDense, OpenDenseMut};
pub(super) use text::Text;
pub(super) use value::{Origin, Value, forget};

use super::flush::secret_flush;
use super::inline::Plain;
use super::seal;
#[cfg(feature = "allocator-api2")]
use crate::exit;
use crate::heap::{self, Heap};
use crate::keys::AllRights;
use crate::os::Access;
use crate::policy::{Flush, Policy, Seal};
use crate::{Error, Operation, os, wipe};

static HEAP: &Heap = heap::of(Policy::SECRET);
/// Where the owners' blocks are if a protection key seals them.
static SEALED: &Heap = heap::of(Policy::SECRET.with_seal(Seal::ProtectionKey));

/// A block of the secret heap that is never sealed, for callers that know of no guards: all zero bytes, aligned.
#[cfg(feature = "allocator-api2")]
#[inline]
pub(crate) fn allocate_unsealed(layout: Layout) -> Result<NonNull<u8>, Error> {
    exit::arm();
    HEAP.allocate(layout)
}

/// Gives a block back, as [`deallocate`] does.
///
/// # Safety
///
/// * As for [`deallocate`], for a block from [`allocate_unsealed`] or [`reallocate_unsealed`].
#[cfg(feature = "allocator-api2")]
#[inline]
pub(crate) unsafe fn deallocate_unsealed(ptr: NonNull<u8>, layout: Layout) {
    // SAFETY: the caller guarantees both conditions of `Heap::deallocate`, which are these.
    unsafe { HEAP.deallocate(ptr, layout, secret_flush()) }
}

/// Makes a block larger or smaller, as [`reallocate`] does.
///
/// # Safety
///
/// * As for [`reallocate`], for a block from [`allocate_unsealed`] or [`reallocate_unsealed`].
#[cfg(feature = "allocator-api2")]
pub(crate) unsafe fn reallocate_unsealed(
    ptr: NonNull<u8>,
    old: Layout,
    new_size: usize,
) -> Result<NonNull<u8>, Error> {
    // SAFETY: the caller guarantees both conditions of `Heap::reallocate`, which are these.
    unsafe { HEAP.reallocate(ptr, old, new_size, secret_flush()) }
}

/// A block of the secret heap, sealed if secrets are: all zero bytes, aligned.
#[inline]
pub(super) fn allocate(layout: Layout) -> Result<NonNull<u8>, Error> {
    if seal::in_force() != Seal::ProtectionKey {
        return HEAP.allocate(layout);
    }
    let _rights = seal::dense_rights(Access::ReadWrite);
    SEALED.allocate(layout)
}

/// Sets the heap of the owners up, and the calling thread's part of it.
pub(in crate::secret) fn warm_up() -> Result<(), Error> {
    let seal = seal::in_force();
    let _rights = AllRights::new();
    heap_of_owners(seal).warm_up(Layout::new::<[u64; 4]>())
}

/// Gets memory ready for `count` more such blocks on the calling thread.
pub(super) fn reserve(layout: Layout, count: usize) -> Result<(), Error> {
    let seal = seal::in_force();
    let _rights = AllRights::new();
    heap_of_owners(seal).reserve(layout, count)
}

/// Gives a block of the secret heap back: wiped when this returns, and flushed as the setting says.
///
/// # Safety
///
/// * `ptr` came from [`allocate`] or [`reallocate`] with this layout and was not given back since.
/// * Nothing uses the block after this call.
#[inline]
pub(super) unsafe fn deallocate(ptr: NonNull<u8>, layout: Layout) {
    if !seal::seals_dense() {
        // SAFETY: the caller guarantees both conditions of `Heap::deallocate`, which are these; the seal is the
        // same for all blocks, so this is the heap.
        return unsafe { HEAP.deallocate(ptr, layout, secret_flush()) };
    }
    let _rights = seal::dense_rights(Access::ReadWrite);
    // SAFETY: as above.
    unsafe { SEALED.deallocate(ptr, layout, secret_flush()) }
}

/// Makes a block of the secret heap larger or smaller; the bytes that are left behind are wiped, those
/// that are new are zero. On `Err` the block is as it was.
///
/// # Safety
///
/// * `ptr` came from [`allocate`] or [`reallocate`] with the layout `old` and was not given back since.
/// * Nothing uses the block by its old address after this call returned `Ok`.
pub(super) unsafe fn reallocate(
    ptr: NonNull<u8>,
    old: Layout,
    new_size: usize,
) -> Result<NonNull<u8>, Error> {
    let _rights = seal::dense_rights(Access::ReadWrite);
    // SAFETY: the caller guarantees both conditions of `Heap::reallocate`, which are these.
    unsafe { heap_of_owners(seal::secret_seal()).reallocate(ptr, old, new_size, secret_flush()) }
}

/// Where the owners' blocks are.
fn heap_of_owners(seal: Seal) -> &'static Heap {
    if seal == Seal::ProtectionKey { SEALED } else { HEAP }
}

/// Counts a block whose owner is gone for good.
fn count_leaked(layout: Layout) {
    if layout.size() > 0 {
        heap_of_owners(seal::secret_seal()).count_leaked(layout.size());
    }
}

/// Whether two runs of plain values are equal, in a time that depends on their lengths only.
pub(super) fn equal<T: Plain>(left: &[T], right: &[T]) -> bool {
    let _rights = AllRights::new();
    // SAFETY: both are valid for reads of `size_of_val` bytes, the same for both where the lengths are
    // equal, and every byte is initialised and stays as it is while it is borrowed, by `Plain`.
    left.len() == right.len()
        && unsafe { memsec::memeq(left.as_ptr().cast(), right.as_ptr().cast(), size_of_val(left)) }
}

/// Random bytes from the kernel, written where the values are.
pub(super) fn randomize<T: Plain>(values: &mut [T]) -> Result<(), Error> {
    // The kernel writes with the rights of this thread.
    let _rights = AllRights::new();
    // SAFETY: the bytes of `values`, borrowed mutably for as long as the new slice lives; they are
    // initialised and any others are valid in their place, by `Plain`.
    let bytes = unsafe { core::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) };
    os::fill_random(bytes).map_err(|errno| Error::Os { operation: Operation::Random, errno: errno.0 })
}

/// Zeroes memory that held a secret, and flushes it if the setting asks for that at once.
///
/// # Safety
///
/// * `ptr` is valid for writes of `len` bytes, for which zeros are valid values.
unsafe fn forget_bytes(ptr: NonNull<u8>, len: usize) {
    let _rights = AllRights::new();
    match secret_flush() {
        // SAFETY: valid for writes of `len` bytes, says the caller.
        Flush::Immediate => unsafe { wipe::zero_and_flush(ptr, len) },
        // SAFETY: as above.
        Flush::Bounded | Flush::Off => unsafe { wipe::zero(ptr, len) },
    }
}
