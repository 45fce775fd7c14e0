//! What is known of each slot, in a table apart from the secrets.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::openings::Openings;
use super::pinning::Pinned;
use super::window::Window;

/// One slot. All zero: cold, never used.
///
/// # Invariants
///
/// 1. Only the owner of the slot writes: who popped it off a stack, and then who holds its `Slot`. Others
///    (purge, reports) only look.
/// 2. While the state is not cold, `window` is readable and writable, or sealed but locked, with its pages
///    in RAM; and `pin` says whether they are pinned.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Record {
    /// How many guards hold it open.
    pub(super) openings: Openings,
    /// The slot below it on a stack.
    pub(super) link: AtomicU32,
    pin: AtomicU64,
    window_page: AtomicU32,
    window_pages: AtomicU32,
    /// The regime in which it was last given mappings of its own, see `regime`.
    pub(super) regime: AtomicU32,
    state: AtomicU8,
    pin_set: AtomicU8,
    _unused: [u8; 2],
}

/// Bytes of a record.
pub(super) const RECORD_BYTES: usize = 32;
const _: () = assert!(size_of::<Record>() == RECORD_BYTES);

/// What a slot is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Free: no access, no memory, no lock of its own.
    Cold,
    /// Free: readable and writable, locked, all zero.
    Warm,
    /// Holds a secret.
    Live,
    /// Holds a secret that could not be wiped, sealed for good.
    Leaked,
}

impl Record {
    pub(super) fn state(&self) -> State {
        // SeqCst: includes Acquire, which pairs with Release in `set_state`; see also `Arena::purge`.
        match self.state.load(Ordering::SeqCst) {
            1 => State::Warm,
            2 => State::Live,
            3 => State::Leaked,
            _ => State::Cold,
        }
    }

    pub(super) fn set_state(&self, state: State) {
        let code = match state {
            State::Cold => 0,
            State::Warm => 1,
            State::Live => 2,
            State::Leaked => 3,
        };
        // SeqCst: includes Release, which pairs with Acquire in `state`: the window is seen with it.
        self.state.store(code, Ordering::SeqCst);
    }

    /// The pages that are, or were last, opened: first and number, in pages from the slot's first data page.
    #[inline]
    pub(super) fn window_pages(&self) -> (usize, usize) {
        #[expect(clippy::as_conversions, reason = "u32 to usize widens")]
        // Relaxed: only the owner writes (invariant 1); others read the state first.
        let pages = (
            self.window_page.load(Ordering::Relaxed) as usize,
            self.window_pages.load(Ordering::Relaxed) as usize,
        );
        pages
    }

    pub(super) fn set_window(&self, window: Window, page_bytes: usize) {
        let pages = |bytes: usize| {
            // A slot has at most 2^18 pages.
            u32::try_from(bytes.checked_div(page_bytes).unwrap_or(0)).unwrap_or(u32::MAX)
        };
        self.window_page.store(pages(window.start), Ordering::Relaxed);
        self.window_pages.store(pages(window.bytes), Ordering::Relaxed);
    }

    pub(super) fn set_pin(&self, pinned: Option<Pinned>) {
        let (set, bits) = pinned.map_or((0, 0), Pinned::into_bits);
        self.pin_set.store(set, Ordering::Relaxed);
        self.pin.store(bits, Ordering::Relaxed);
    }

    /// Takes the pin out of the record.
    pub(super) fn take_pin(&self) -> Option<Pinned> {
        let bits = self.pin.swap(0, Ordering::Relaxed);
        Pinned::from_bits(self.pin_set.load(Ordering::Relaxed), bits)
    }

    /// Whether it has a pin; the pin itself may be lost.
    pub(super) fn has_pin(&self) -> bool {
        self.pin.load(Ordering::Relaxed) != 0
    }
}
