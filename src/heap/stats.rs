//! Counting what is there, for reports.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "sums of sizes in ranges of at most 2^38 bytes"
)]

use core::sync::atomic::Ordering;

use super::class::CLASSES;
use super::facade::Heap;
use super::geometry::{GUARD_BYTES, PAYLOAD_BYTES};
use super::shadow;
use super::shared::{Shared, pages};
use crate::Policy;

/// The figures of one heap at about one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    pub(crate) reserved_bytes: usize,
    pub(crate) metadata_reserved_bytes: usize,
    pub(crate) committed_bytes: usize,
    pub(crate) resident_bytes: usize,
    pub(crate) locked_bytes: usize,
    pub(crate) pinned_bytes: usize,
    pub(crate) live_blocks: usize,
    pub(crate) live_bytes: usize,
    pub(crate) in_use_bytes: usize,
    pub(crate) peak_bytes: usize,
    pub(crate) leaked_blocks: usize,
    pub(crate) leaked_bytes: usize,
    pub(crate) pending_lines: usize,
    pub(crate) lock_refused: usize,
    pub(crate) unlocked_bytes: usize,
    pub(crate) pin_refused: usize,
    pub(crate) pin_errno: i32,
    pub(crate) guards_by_mprotect: usize,
    pub(crate) hints_refused: u32,
    pub(crate) inherited_frees: usize,
    pub(crate) is_pin_lost: bool,
    pub(crate) thread_heaps: usize,
}

impl Heap {
    /// The figures of this heap; `None` if nothing was ever allocated from it. Costs a pass over its
    /// metadata and one system call for each 2 MiB; touches no page of a block.
    pub(crate) fn stats(&self) -> Option<(Policy, Stats)> {
        let shared = self.shared()?;
        shared.notice_fork();
        Some((shared.policy, shared.stats()))
    }
}

impl Shared {
    pub(crate) fn stats(&self) -> Stats {
        let counters = &self.counters;
        let get = |counter: &core::sync::atomic::AtomicUsize| counter.load(Ordering::Relaxed);
        let mut stats = Stats {
            reserved_bytes: self.memory.len().get(),
            metadata_reserved_bytes: self.metadata.len().get(),
            committed_bytes: get(&counters.committed_bytes),
            locked_bytes: get(&counters.locked_bytes),
            pinned_bytes: get(&counters.pinned_bytes),
            in_use_bytes: get(&counters.in_use_bytes),
            peak_bytes: get(&counters.peak_bytes),
            leaked_blocks: get(&counters.leaked_blocks),
            leaked_bytes: get(&counters.leaked_bytes),
            lock_refused: get(&counters.lock_refused),
            unlocked_bytes: get(&counters.unlocked_bytes),
            pin_refused: get(&counters.pin_refused),
            pin_errno: counters.pin_errno.load(Ordering::Relaxed).cast_signed(),
            guards_by_mprotect: get(&counters.guards_by_mprotect),
            hints_refused: self.hints_refused.load(Ordering::Relaxed),
            inherited_frees: get(&counters.inherited_frees),
            is_pin_lost: !self.pins.is_alive(),
            ..Stats::default()
        };
        for number in 1..self.units.watermark() {
            self.count_unit(number, &mut stats);
        }
        self.visit_large(|offset, bytes, size| {
            stats.live_blocks += 1;
            stats.live_bytes += size;
            stats.resident_bytes += self.resident_bytes(offset, bytes);
        });
        self.visit_kept(|offset, bytes| stats.resident_bytes += self.resident_bytes(offset, bytes));
        self.visit_pending(|pending| {
            stats.thread_heaps += 1;
            stats.pending_lines += pending.len();
        });
        stats
    }

    fn count_unit(&self, number: u32, stats: &mut Stats) {
        let Some(unit) = self.unit(number) else { return };
        stats.resident_bytes += self.resident_bytes(unit.offset(), PAYLOAD_BYTES);
        let owner_class = self.tables.header(unit).owner_class.load(Ordering::Acquire);
        if owner_class == 0 || self.is_inherited(unit) {
            return;
        }
        let Some(class) = CLASSES.get((owner_class & 0xff) as usize) else { return };
        for i in 0..class.nr_slots {
            let granule = unit.granule((class.first_bytes_in(number) + i * class.slot_bytes) as usize);
            let byte = |n| self.tables.shadow(granule.within_unit(n)).load(Ordering::Relaxed);
            let state = byte(0);
            if shadow::is_live(state) {
                let usable = class.usable_bytes();
                let size = shadow::size_of(usable, state)
                    .unwrap_or_else(|| usable.wrapping_sub(shadow::decode_long([byte(1), byte(2), byte(3)])));
                stats.live_blocks += 1;
                stats.live_bytes += size.min(usable);
            }
        }
    }

    /// Bytes of a part that are in memory, as the kernel says.
    fn resident_bytes(&self, offset: usize, bytes: usize) -> usize {
        const WINDOW_BYTES: usize = 512 * GUARD_BYTES;
        let mut sum = 0;
        let mut done = 0;
        while done < bytes {
            let window = (bytes - done).min(WINDOW_BYTES);
            let mut map = [0; WINDOW_BYTES / GUARD_BYTES];
            if let (Ok(offset), Ok(len)) = (pages(offset + done), pages(window))
                && self.memory.resident(offset, len, &mut map).is_ok()
            {
                sum += map.iter().filter(|&&page| page & 1 != 0).count() * GUARD_BYTES;
            }
            done += window;
        }
        sum
    }
}
