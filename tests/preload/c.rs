//! The C functions by their names, called so that the compiler cannot reason about them: it knows what `malloc`
//! and `free` mean, and would leave out most of these tests.

use std::ffi::{CStr, c_int, c_void};
use std::hint::black_box;

/// A place for the pointer to a block, as C sees it.
pub(crate) type Block = *mut u8;

unsafe extern "C" {
    fn pvalloc(size: usize) -> *mut c_void;
    fn valloc(size: usize) -> *mut c_void;
}

pub(crate) fn malloc(size: usize) -> Block {
    // SAFETY: any size will do (malloc(3)).
    black_box(unsafe { libc::malloc(black_box(size)) }).cast()
}

pub(crate) fn calloc(count: usize, size: usize) -> Block {
    // SAFETY: any numbers will do (malloc(3)).
    black_box(unsafe { libc::calloc(black_box(count), black_box(size)) }).cast()
}

/// # Safety
/// - As for realloc(3). A criminal breaks that on purpose.
pub(crate) unsafe fn realloc(block: Block, size: usize) -> Block {
    // SAFETY: forwarded.
    black_box(unsafe { libc::realloc(black_box(block).cast(), black_box(size)) }).cast()
}

/// # Safety
/// - As for reallocarray(3).
pub(crate) unsafe fn reallocarray(block: Block, count: usize, size: usize) -> Block {
    // SAFETY: forwarded.
    black_box(unsafe { libc::reallocarray(black_box(block).cast(), black_box(count), black_box(size)) })
        .cast()
}

/// # Safety
/// - As for free(3). A criminal breaks that on purpose.
pub(crate) unsafe fn free(block: Block) {
    // SAFETY: forwarded.
    unsafe { libc::free(black_box(block).cast()) }
}

pub(crate) fn aligned_alloc(align: usize, size: usize) -> Block {
    // SAFETY: any numbers will do (posix_memalign(3)).
    black_box(unsafe { libc::aligned_alloc(black_box(align), black_box(size)) }).cast()
}

pub(crate) fn memalign(align: usize, size: usize) -> Block {
    // SAFETY: any numbers will do (posix_memalign(3)).
    black_box(unsafe { libc::memalign(black_box(align), black_box(size)) }).cast()
}

pub(crate) fn posix_memalign(align: usize, size: usize) -> (c_int, Block) {
    let mut place = std::ptr::dangling_mut::<c_void>();
    // SAFETY: the place is valid for a write (posix_memalign(3)).
    let error = unsafe { libc::posix_memalign(&raw mut place, black_box(align), black_box(size)) };
    (error, black_box(place).cast())
}

pub(crate) fn page_aligned(size: usize) -> Block {
    // SAFETY: any size will do (valloc(3)).
    black_box(unsafe { valloc(black_box(size)) }).cast()
}

pub(crate) fn pages(size: usize) -> Block {
    // SAFETY: any size will do (pvalloc(3)).
    black_box(unsafe { pvalloc(black_box(size)) }).cast()
}

/// # Safety
/// - As for malloc_usable_size(3).
pub(crate) unsafe fn usable_size(block: Block) -> usize {
    // SAFETY: forwarded.
    unsafe { libc::malloc_usable_size(black_box(block).cast()) }
}

/// The address of a function that this C library may not have.
pub(crate) fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name ends with a NUL (dlsym(3)).
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

pub(crate) fn errno() -> c_int {
    // SAFETY: always callable (errno(3)).
    let place = unsafe { libc::__errno_location() };
    // SAFETY: this thread's own errno.
    unsafe { place.read() }
}

pub(crate) fn set_errno(value: c_int) {
    // SAFETY: always callable (errno(3)).
    let place = unsafe { libc::__errno_location() };
    // SAFETY: this thread's own errno.
    unsafe { place.write(value) }
}

/// Fills a block.
///
/// # Safety
/// - The block has that many bytes.
pub(crate) unsafe fn fill(block: Block, byte: u8, size: usize) {
    // SAFETY: within the block (memset(3)).
    black_box(unsafe { libc::memset(black_box(block).cast(), byte.into(), size) });
}

/// Whether the block holds nothing else.
///
/// # Safety
/// - The block has that many bytes.
pub(crate) unsafe fn is_full_of(block: Block, byte: u8, size: usize) -> bool {
    if size == 0 {
        return true;
    }
    // SAFETY: the first byte of the block.
    let first = unsafe { block.read_volatile() };
    // Each byte is as the one before it.
    let rest = block.wrapping_add(1);
    // SAFETY: the block without its last byte, and without its first (memcmp(3)).
    first == byte && unsafe { libc::memcmp(block.cast(), rest.cast(), size - 1) } == 0
}
