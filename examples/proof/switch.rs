//! One global allocator for programs that need to run on either of two: decided once, before the first block
//! is handed out. Used by the example `proof` and by the integration tests.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::CStr;
use std::sync::atomic::{AtomicU8, Ordering};

use oubliette::Oubliette;

/// The environment variable that chooses, and the value that chooses `Oubliette`. Anything else is `System`.
pub(crate) const ALLOCATOR_VARIABLE: &CStr = c"OUBLIETTE_SWITCH";
pub(crate) const OUBLIETTE_VALUE: &CStr = c"oubliette";

const UNDECIDED: u8 = 0;
const ON_SYSTEM: u8 = 1;
const ON_OUBLIETTE: u8 = 2;

/// Hands every call to `System` or to `Oubliette`.
///
/// Invariant 1: once `decided` is not `UNDECIDED` it never changes, and it is decided before the first block
/// is handed out. So every block goes back to the allocator that it came from.
pub(crate) struct Switch {
    oubliette: Oubliette,
    decided: AtomicU8,
}

impl Switch {
    pub(crate) const fn new() -> Self {
        Self { oubliette: Oubliette::new(), decided: AtomicU8::new(UNDECIDED) }
    }

    fn chosen(&self) -> &dyn GlobalAlloc {
        // Relaxed: the answer depends on nothing but the environment, so two threads cannot decide differently.
        let decided = match self.decided.load(Ordering::Relaxed) {
            UNDECIDED => self.decide(),
            decided => decided,
        };
        if decided == ON_OUBLIETTE { &self.oubliette } else { &System }
    }

    /// Reads the environment without allocating. `std::env::var` would allocate, and so come back here.
    #[cold]
    fn decide(&self) -> u8 {
        // SAFETY: the name ends in NUL; nothing in these programs changes the environment (getenv(3)).
        let value = unsafe { libc::getenv(ALLOCATOR_VARIABLE.as_ptr()) };
        // SAFETY: not null, so a NUL-terminated string of the environment, which never changes here.
        let is_oubliette = !value.is_null() && unsafe { CStr::from_ptr(value) } == OUBLIETTE_VALUE;
        let decided = if is_oubliette { ON_OUBLIETTE } else { ON_SYSTEM };
        self.decided.store(decided, Ordering::Relaxed);
        decided
    }
}

// SAFETY: every method hands its arguments unchanged to one allocator, by invariant 1 the same one for each
// block at every time, and that one keeps the contract.
unsafe impl GlobalAlloc for Switch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that the callee asks for.
        unsafe { self.chosen().alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        unsafe { self.chosen().alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`; the block came from the same allocator (invariant 1).
        unsafe { self.chosen().dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as in `dealloc`.
        unsafe { self.chosen().realloc(block, layout, new_size) }
    }
}
