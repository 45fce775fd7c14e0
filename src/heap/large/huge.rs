//! Huge pages for blocks of megabytes.
//!
//! The pages of a block of 16 MiB are 4,096 faults, and a page table of as many entries that every change of access goes
//! through: 8 ms of faults, and 0.6 ms to close and open it, where wiping takes 1 ms. On huge pages the same take 2 ms and
//! 0.01 ms.
//!
//! Two designs were weighed:
//!
//! 1. `MADV_HUGEPAGE` for as long as the block lives: the first touch of each 2 MiB brings a huge page. But where none is
//!    to be had at that moment small ones come, which `khugepaged` moves into a huge one later. The frames that they leave
//!    keep what they held, and nobody wipes them.
//! 2. All of it at once, before the block has an owner (`MADV_POPULATE_WRITE`), and `MADV_NOHUGEPAGE` again behind it:
//!    whatever the kernel moves until then is zero. That takes memory that the block may never touch.
//!
//! The second wins, in a run whose last block was locked and in memory to its last page: so a program has no more than it
//! had before. (Of what is not locked all is wiped, and so in memory when a block is freed, whatever was touched.)
//! What a block touches that was populated cannot be told, so after [`TURNS`] of them one is not, and is looked at. It is
//! for heaps of whole programs, which have blocks of that size. Where the kernel has no huge page, the same call brings
//! small ones, in less time than faults do.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "offsets in a range of at most 2^38 bytes; addresses of it below 2^48; turns are above 0 where one is taken"
)]

use core::sync::atomic::Ordering;

use super::Run;
use super::entry::Entry;
use super::place::Place;
use crate::heap::shared::{Shared, pages};
use crate::os::{Errno, HUGE_PAGE_BYTES, Hint};
use crate::{Backing, Error};

/// Blocks from here on: of two huge pages one fits in wherever it begins.
const LEAST_BYTES: usize = 2 * HUGE_PAGE_BYTES;
/// How often the pages of a run are made at once before they are not.
const TURNS: u8 = 16;
/// In [`Entry::huge`], above the turns that are left: the pages that the run has were made at once.
const POPULATED: u8 = 0x80;
/// The same: the kernel was asked for huge pages and not yet asked for none any more.
const ASKED: u8 = 0x40;

const _: () = assert!(TURNS < ASKED);

impl Entry {
    /// Notes that a block of the run was freed, and whether all of it was in memory.
    pub(super) fn note_fullness(&self, is_full: bool) {
        let huge = self.huge.load(Ordering::Relaxed);
        if huge & POPULATED == 0 {
            self.huge.store(huge & ASKED | if is_full { TURNS } else { 0 }, Ordering::Relaxed);
        }
    }
}

impl Shared {
    /// Makes the pages of a block, huge ones where they fit, if the last block in its run was in memory as a whole. They
    /// are usable, and there are none yet. An error if the kernel could move them later.
    pub(super) fn populate(&self, run: Run, place: Place) -> Result<(), Error> {
        let entry = self.entry(run.number);
        let turns = entry.huge.load(Ordering::Relaxed) & !(POPULATED | ASKED);
        let is_wanted = turns > 0
            && place.data_bytes() >= LEAST_BYTES
            && self.is_of_a_program()
            && self.policy.backing() == Backing::Locked;
        if !is_wanted {
            entry.huge.store(turns, Ordering::Relaxed);
            return Ok(());
        }
        let address = self.large_address(place.data_start).addr().get();
        let first = address.next_multiple_of(HUGE_PAGE_BYTES);
        let end = (address + place.data_bytes()) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
        let offset = pages(self.geometry.slab_bytes + place.data_start + (first - address))?;
        let bytes = pages(end - first)?;
        entry.huge.store((turns - 1) | POPULATED | ASKED, Ordering::Relaxed);
        // What is refused here costs time: the pages come by faults.
        match self.memory.hint_part(offset, bytes, Hint::HugePage) {
            Ok(()) => {
                let _ = self.memory.hint_part(offset, bytes, Hint::PopulateWrite);
            }
            // madvise(2): built without huge pages.
            Err(Error::Os { errno, .. }) if errno == Errno::INVAL.0 => {
                entry.huge.store(turns - 1, Ordering::Relaxed);
                return Ok(());
            }
            Err(_) => {}
        }
        self.end_asking(run)
    }

    /// Has the kernel move no pages of a run into huge ones any more, if it was asked to and not yet told otherwise.
    pub(super) fn end_asking(&self, run: Run) -> Result<(), Error> {
        if self.entry(run.number).huge.load(Ordering::Relaxed) & ASKED == 0 {
            return Ok(());
        }
        let start = self.geometry.slab_bytes + run.offset();
        self.memory.hint_part(pages(start)?, pages(run.bytes)?, Hint::NoHugePage)?;
        self.entry(run.number).huge.fetch_and(!ASKED, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(all(test, target_os = "linux", not(any(miri, loom, oubliette_portable))))]
mod tests;
