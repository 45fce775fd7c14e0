//! What is done to all isolated secrets at once: wiped, counted, prepared ahead.

// UNSAFETY: wipes memory that is in use, on purpose.
#![expect(unsafe_code, reason = "purge overwrites live secrets by address")]
#![expect(clippy::arithmetic_side_effects, reason = "sums of sizes within the arenas")]

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::time::Instant;

use super::arena::Arena;
use super::record::{Record, State};
use super::{openings, pinning};
use crate::os::Access;
use crate::pages::PageBytes;
use crate::{Seal, wipe};

/// How long purge waits for another thread to be done with its system call: longer than it takes until a thread that
/// was interrupted in the middle of it gets its turn again, on a machine with a hundred others that want theirs.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same in a signal handler that interrupted a thread in the middle of one: it may be the one waited for.
const PATIENCE_WITHIN: Duration = Duration::from_millis(50);

/// The figures of all arenas at about one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    pub(crate) reserved_bytes: usize,
    pub(crate) records_reserved_bytes: usize,
    pub(crate) resident_bytes: usize,
    pub(crate) live: usize,
    pub(crate) live_bytes: usize,
    pub(crate) ready: usize,
    pub(crate) locked_bytes: usize,
    pub(crate) pinned_bytes: usize,
    pub(crate) leaked: usize,
    pub(crate) pin_refused: usize,
    pub(crate) pin_errno: i32,
    pub(crate) is_pin_lost: bool,
    pub(crate) guards_without_marker: usize,
    pub(crate) hints_refused: u32,
}

/// The figures of all arenas. Touches no page of a secret, and makes no system call for one, but one for each 2 MiB of
/// addresses that were ever in use.
pub(crate) fn stats() -> Stats {
    let mut stats = Stats { is_pin_lost: !pinning::are_alive(), ..Stats::default() };
    for arena in Arena::all() {
        // Relaxed: figures for reports.
        let get = |counter: &core::sync::atomic::AtomicUsize| counter.load(Ordering::Relaxed);
        let counters = &arena.counters;
        let (memory, records) = arena.reserved_bytes();
        stats.reserved_bytes += memory;
        stats.records_reserved_bytes += records;
        stats.resident_bytes += arena.resident_bytes();
        stats.live += get(&counters.live);
        stats.live_bytes += get(&counters.live_bytes);
        stats.ready += get(&counters.warm);
        stats.locked_bytes += get(&counters.locked_bytes);
        stats.pinned_bytes += get(&counters.pinned_bytes);
        stats.leaked += get(&counters.leaked);
        stats.pin_refused += get(&counters.pin_refused);
        let errno = counters.pin_errno.load(Ordering::Relaxed);
        if errno != 0 {
            stats.pin_errno = i32::try_from(errno).unwrap_or(0);
        }
        stats.guards_without_marker += get(&counters.guards_without_marker);
        stats.hints_refused += arena.hints_refused;
    }
    stats
}

/// Gives back what is kept ready, but for what was asked for.
pub(crate) fn trim() {
    for arena in Arena::all() {
        arena.trim();
    }
}

/// Wipes every isolated secret, leaked ones included. Takes no lock and allocates nothing: safe in a signal
/// handler. The secrets are left open until they are opened and closed the next time.
pub(crate) fn purge() {
    for arena in Arena::all() {
        arena.purge();
    }
}

impl Arena {
    /// Bytes of data pages that are in memory, as the kernel says. Guards are left out: what the kernel says of
    /// them is not the same for each kind.
    fn resident_bytes(&self) -> usize {
        const WINDOW_PAGES: usize = 512;
        let page_bytes = self.page_bytes;
        let pages_a_slot = self.data_bytes / page_bytes + 1;
        let nr_pages = self.prepared_bytes().get() / page_bytes;
        let mut pages = 0;
        for first in (0..nr_pages).step_by(WINDOW_PAGES) {
            let mut map = [0; WINDOW_PAGES];
            let count = WINDOW_PAGES.min(nr_pages - first);
            let (offset, len) =
                (PageBytes::round_down(first * page_bytes), PageBytes::round_down(count * page_bytes));
            if self.memory.resident(offset, len, &mut map).is_ok() {
                let is_data = |&(at, page): &(usize, &u8)| page & 1 != 0 && (first + at) % pages_a_slot != 0;
                pages += map.iter().take(count).enumerate().filter(is_data).count();
            }
        }
        pages * page_bytes
    }

    fn trim(&self) {
        let link = |number: u32| &self.record(number).link;
        // Relaxed: another thread may take or give slots meanwhile; then a few more or fewer are kept.
        while self.counters.warm.load(Ordering::Relaxed) > self.counters.reserved.load(Ordering::Relaxed) {
            let Some(number) = self.warm.pop(link) else { return };
            if self.is_purging() {
                // It may be at this one.
                return self.warm.push(number, link);
            }
            self.counters.warm.fetch_sub(1, Ordering::Relaxed);
            self.chill(number, self.record(number));
            self.cold.push(number, link);
        }
    }

    /// Wipes the window of every slot that holds a secret.
    ///
    /// Other threads go on opening and sealing meanwhile, and a page that lost its access under our hands would
    /// be a fault. So `purging` is set first; whoever changes the access sets its record busy first and
    /// then looks at `purging`. Either it sees that, and takes no access away, or we see that it is
    /// busy, and wait until it is done (both sides SeqCst). A thread that this signal handler interrupted
    /// in the middle of such a change does not go on while we wait, so we do not wait for ever.
    fn purge(&self) {
        self.purging.fetch_add(1, Ordering::SeqCst);
        self.counters.is_purged.store(true, Ordering::SeqCst);
        // Guards that have markers keep guarding, so one call opens everything.
        let all_marked = self.counters.guards_without_marker.load(Ordering::SeqCst) == 0;
        let is_open = self.seal != Seal::Pages
            || (all_marked && self.memory.commit(PageBytes::ZERO, self.prepared_bytes()).is_ok());
        for number in 1..=u32::try_from(self.prepared_slots()).unwrap_or(0) {
            let record = self.record(number);
            if holds_a_secret(record) {
                self.purge_slot(number, record, is_open);
            }
        }
        self.purging.fetch_sub(1, Ordering::SeqCst);
    }

    fn purge_slot(&self, number: u32, record: &Record, is_open: bool) {
        let was_busy = record.openings.is_busy();
        if was_busy {
            let since = Instant::now();
            let patience = if openings::is_changing_here() { PATIENCE_WITHIN } else { PATIENCE };
            while record.openings.is_busy() && since.elapsed() < patience {
                crate::sync::yield_now();
            }
        }
        if !holds_a_secret(record) {
            return;
        }
        let (offset, len) = self.window(number, record);
        if !is_open || was_busy {
            // SAFETY: gives all the access there is.
            if unsafe { self.memory.set_access(offset, len, Access::ReadWrite) }.is_err() {
                // At the limit of mappings. Merging may make room.
                self.merge();
                // SAFETY: as above.
                if unsafe { self.memory.set_access(offset, len, Access::ReadWrite) }.is_err() {
                    return;
                }
            }
        }
        // SAFETY: within the memory.
        let start = unsafe { self.memory.base().add(offset.get()) };
        // SAFETY: opened above, and nobody takes the access away now; to be wiped whoever uses it. If its owner
        // gives it back at this very moment, it is wiped by that.
        unsafe { wipe::zero_and_flush(start, len.get()) };
    }
}

fn holds_a_secret(record: &Record) -> bool {
    matches!(record.state(), State::Live | State::Leaked)
}
