//! What this thread holds, by `thread_local!`: for any system.

use core::cell::Cell;

use super::super::NR_HEAPS;
use super::super::thread::{NONE, ThreadHeap};

thread_local! {
    static HELD: [Cell<&'static ThreadHeap>; NR_HEAPS] = const { [const { Cell::new(NONE.get()) }; NR_HEAPS] };
}

/// What this thread holds of heap `index`.
#[inline(always)]
pub(crate) fn get(index: usize) -> &'static ThreadHeap {
    HELD.with(|held| match held.get(index) {
        Some(cell) => cell.get(),
        None => NONE.get(),
    })
}

/// Sets what this thread holds of heap `index`, and gives what it held before.
pub(crate) fn replace(index: usize, new: &'static ThreadHeap) -> &'static ThreadHeap {
    HELD.with(|held| match held.get(index) {
        Some(cell) => cell.replace(new),
        None => NONE.get(),
    })
}
