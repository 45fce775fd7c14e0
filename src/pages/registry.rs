//! Where the secret runs of the process are, so that `purge` finds them. Beside them, not in them.

// UNSAFETY: wipes memory that is in use, on purpose.
#![expect(unsafe_code, reason = "purge overwrites live secrets by address")]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::slot_map;
use crate::{os, wipe};

/// As many runs as fit in the mappings of a process, at two each (`vm.max_map_count`).
const MOST: u32 = 32_768;
#[expect(clippy::as_conversions, reason = "u32 to usize widens")]
static ENTRIES: [Entry; MOST as usize] = [const { Entry::new() }; MOST as usize];
#[expect(clippy::as_conversions, reason = "u32 to usize widens")]
static TAKEN: [AtomicU64; (MOST / u64::BITS) as usize] =
    [const { AtomicU64::new(0) }; (MOST / u64::BITS) as usize];
static LEAKED_RUNS: AtomicUsize = AtomicUsize::new(0);
static LEAKED_BYTES: AtomicUsize = AtomicUsize::new(0);

/// The data of one run.
///
/// # Invariants
///
/// 1. While the state is `LIVE` or `PURGING`, in the process `owner`, `[data, data + bytes)` is mapped, readable
///    and writable.
/// 2. Only who took the entry's bit in [`TAKEN`] writes `data`, `bytes` and `owner`, while the state is `FREE`.
struct Entry {
    state: AtomicU8,
    kind: AtomicU8,
    owner: AtomicU32,
    data: AtomicPtr<u8>,
    bytes: AtomicUsize,
}

const FREE: u8 = 0;
const LIVE: u8 = 1;
const PURGING: u8 = 2;

impl Entry {
    const fn new() -> Self {
        Self {
            state: AtomicU8::new(FREE),
            kind: AtomicU8::new(0),
            owner: AtomicU32::new(0),
            data: AtomicPtr::new(core::ptr::null_mut()),
            bytes: AtomicUsize::new(0),
        }
    }
}

/// What is registered. Tells figures apart, nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Guarded pages.
    Guarded,
    /// A buffer for devices, locked, and pinned by the table of pins.
    PinnedBuffer,
    /// The same, pinned by a ring that runs its transfers.
    #[allow(dead_code, reason = "for rings, which are a feature")]
    RingBuffer,
    /// A buffer for devices, locked only.
    LockedBuffer,
}

impl Owner {
    const fn code(self) -> u8 {
        match self {
            Self::Guarded => 0,
            Self::PinnedBuffer => 1,
            Self::LockedBuffer => 2,
            Self::RingBuffer => 3,
        }
    }
}

/// A place in the registry.
#[derive(Debug)]
pub(crate) struct Registered(u32);

impl Registered {
    /// Notes a run; `None` if there are too many.
    ///
    /// # Safety
    ///
    /// - `[data, data + bytes)` stays mapped, readable and writable until [`end`](Self::end), where this process
    ///   has it at all.
    pub(crate) unsafe fn new(data: NonNull<u8>, bytes: usize, kind: Owner) -> Option<Self> {
        let number = slot_map::claim(&TAKEN, MOST)?;
        let entry = entry(number)?;
        // Relaxed: made known by the store of the state.
        entry.data.store(data.as_ptr(), Ordering::Relaxed);
        entry.bytes.store(bytes, Ordering::Relaxed);
        entry.kind.store(kind.code(), Ordering::Relaxed);
        entry.owner.store(os::incarnation(), Ordering::Relaxed);
        // Release pairs with Acquire in `purge`.
        entry.state.store(LIVE, Ordering::Release);
        Some(Self(number))
    }

    /// Changes what it counts as.
    #[allow(dead_code, reason = "for rings, which are a feature")]
    pub(crate) fn note(&self, kind: Owner) {
        if let Some(entry) = entry(self.0) {
            entry.kind.store(kind.code(), Ordering::Relaxed);
        }
    }

    /// Takes the run out, before it is unmapped. Waits for a purge that is at it.
    pub(crate) fn end(self) {
        let Some(entry) = entry(self.0) else { return };
        // Acquire pairs with Release in `purge`: what it did to the run is done.
        while entry.state.compare_exchange(LIVE, FREE, Ordering::Acquire, Ordering::Relaxed).is_err() {
            if entry.owner.load(Ordering::Relaxed) != os::incarnation() {
                // A thread of the parent was at it when this child was forked; here is none.
                entry.state.store(FREE, Ordering::Relaxed);
                break;
            }
            std::thread::yield_now();
        }
        slot_map::release(&TAKEN, self.0);
    }

    /// Leaves the run to the process for good. It stays registered.
    pub(crate) fn leak(self) {
        if let Some(entry) = entry(self.0) {
            LEAKED_RUNS.fetch_add(1, Ordering::Relaxed);
            LEAKED_BYTES.fetch_add(entry.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

fn entry(number: u32) -> Option<&'static Entry> {
    ENTRIES.get(usize::try_from(number).ok()?)
}

/// The figures of all secret runs, and of the buffers for devices, which are counted apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    pub(crate) runs: usize,
    pub(crate) bytes: usize,
    pub(crate) leaked_runs: usize,
    pub(crate) leaked_bytes: usize,
    pub(crate) buffers: usize,
    pub(crate) buffer_bytes: usize,
    pub(crate) pinned_buffer_bytes: usize,
    pub(crate) ring_buffer_bytes: usize,
}

/// The figures of all secret runs at about one moment.
pub(crate) fn stats() -> Stats {
    let mut stats = Stats {
        // Relaxed: figures for reports.
        leaked_runs: LEAKED_RUNS.load(Ordering::Relaxed),
        leaked_bytes: LEAKED_BYTES.load(Ordering::Relaxed),
        ..Stats::default()
    };
    for_each(|entry| {
        let bytes = entry.bytes.load(Ordering::Relaxed);
        let kind = entry.kind.load(Ordering::Relaxed);
        if kind == Owner::Guarded.code() {
            stats.runs = stats.runs.saturating_add(1);
            stats.bytes = stats.bytes.saturating_add(bytes);
            return;
        }
        stats.buffers = stats.buffers.saturating_add(1);
        stats.buffer_bytes = stats.buffer_bytes.saturating_add(bytes);
        if kind == Owner::PinnedBuffer.code() {
            stats.pinned_buffer_bytes = stats.pinned_buffer_bytes.saturating_add(bytes);
        } else if kind == Owner::RingBuffer.code() {
            stats.ring_buffer_bytes = stats.ring_buffer_bytes.saturating_add(bytes);
        }
    });
    stats
}

/// Wipes every secret run of this process. Waits for nobody and allocates nothing: safe in a signal handler.
pub(crate) fn purge() {
    for_each(|entry| {
        // Acquire pairs with Release in `Registered::new`. Whoever else is at it, or has ended it, saves us this.
        if entry.state.compare_exchange(LIVE, PURGING, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            if let Some(data) = NonNull::new(entry.data.load(Ordering::Relaxed)) {
                // SAFETY: mapped and writable (`Entry` 1), and not unmapped while we are at it, since `end` waits; to
                // be wiped whoever uses it.
                unsafe { wipe::zero_and_flush(data, entry.bytes.load(Ordering::Relaxed)) };
            }
            // Release pairs with Acquire in `end`.
            entry.state.store(LIVE, Ordering::Release);
        }
    });
}

/// Every run that is alive in this process.
fn for_each(mut visit: impl FnMut(&Entry)) {
    let here = os::incarnation();
    for (word, entries) in TAKEN.iter().zip(ENTRIES.chunks(64)) {
        // Relaxed: the state of each entry decides.
        if word.load(Ordering::Relaxed) != 0 {
            let alive = |entry: &&Entry| {
                entry.state.load(Ordering::Acquire) != FREE && entry.owner.load(Ordering::Relaxed) == here
            };
            entries.iter().filter(alive).for_each(&mut visit);
        }
    }
}
