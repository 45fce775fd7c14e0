//! Raw blocks of an allocator, for tests that misuse them.

use std::alloc::{GlobalAlloc, Layout};

/// A layout that is known to be valid.
pub(crate) fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("a valid layout")
}

/// Allocates, or panics.
pub(crate) fn allocate(heap: &impl GlobalAlloc, layout: Layout) -> *mut u8 {
    assert_ne!(layout.size(), 0);
    // SAFETY: the size is not zero.
    let block = unsafe { heap.alloc(layout) };
    assert!(!block.is_null(), "out of memory");
    block
}

/// Frees, lawfully or not: the caller knows.
///
/// # Safety
/// None of the contract of `GlobalAlloc::dealloc` is checked here. Tests of this crate break it on purpose, in
/// a child process, to see the heap notice.
pub(crate) unsafe fn free(heap: &impl GlobalAlloc, block: *mut u8, layout: Layout) {
    // SAFETY: forwarded to the caller.
    unsafe { heap.dealloc(block, layout) };
}
