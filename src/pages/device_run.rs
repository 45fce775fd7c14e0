//! Whole pages for a device: between guards, locked, and left alone by everything that moves pages, so that a
//! pin can hold what the device writes to.
//!
//! ```text
//! 0            data_start                              data_end     total
//! |    front guard    |        data: whole pages          | tail guard |
//!      at least 1 page                                        1 page
//! ```

// UNSAFETY: hands out memory that it maps itself, and wipes it by address.
#![expect(unsafe_code, reason = "owns a mapping and lends its address, see UNSAFETY above")]

use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use super::run::lock_data;
use super::{GuardKind, PageBytes, Reservation};
use crate::os::{self, Errno, Hint};
use crate::{Error, Fork, Operation, wipe};

/// What size of pages a run ([`GuardedPages`](crate::GuardedPages)) or a buffer for devices is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HugePages {
    /// Pages of the usual size, 4 KiB on most machines.
    Off,
    /// Huge pages where the kernel finds some (transparent huge pages), gathered before the memory is pinned.
    /// Where it finds none the buffer has usual ones.
    Transparent,
    /// Huge pages of the system's pool (`vm.nr_hugepages`), of 2 MiB; an error where it has too few.
    Explicit,
}

/// A run of whole pages, all zero at first, locked. Dropping it unlocks and unmaps; whoever owns it wipes it
/// before ([`wipe`](Self::wipe)) and ends every pin.
///
/// # Invariants
///
/// 1. `range` is mapped until the drop; under `Fork::Exclude` only in the process `owner`.
/// 2. `[data_start, data_start + data_bytes)` lies in it and is readable and writable. No access to it is ever
///    taken away, and its pages are replaced by nothing.
#[derive(Debug)]
pub(crate) struct DeviceRun {
    range: ManuallyDrop<Reservation>,
    data_start: PageBytes,
    data_bytes: PageBytes,
    owner: u32,
    fork: Fork,
    pages: HugePages,
}

impl DeviceRun {
    /// Maps a run for at least this many bytes, and locks it. With huge pages it is rounded up to whole ones.
    pub(crate) fn new(bytes: usize, wanted: HugePages) -> Result<Self, Error> {
        let page = PageBytes::one();
        let unit = match wanted {
            HugePages::Off => page,
            HugePages::Transparent | HugePages::Explicit => {
                PageBytes::round_down(os::HUGE_PAGE_BYTES).max(page)
            }
        };
        let data_bytes = bytes.max(1).checked_next_multiple_of(unit.get()).map(PageBytes::round_down);
        let data_bytes = data_bytes.ok_or(Error::TooLarge)?;
        let total = unit.checked_add(data_bytes).and_then(|end| end.checked_add(page));
        let total = total.filter(|total| total.get() <= isize::MAX.unsigned_abs()).ok_or(Error::TooLarge)?;
        let range = Reservation::new_aligned(total, total, unit)?;
        let prepared = match wanted {
            HugePages::Explicit => explicit(&range, unit, data_bytes),
            HugePages::Off | HugePages::Transparent => small(&range, unit, data_bytes, wanted),
        };
        match prepared {
            Ok((fork, pages)) => Ok(Self {
                range: ManuallyDrop::new(range),
                data_start: unit,
                data_bytes,
                owner: os::incarnation(),
                fork,
                pages,
            }),
            Err(error) => {
                // SAFETY: reserved above, never pinned, and nothing knows its addresses.
                let _ = unsafe { range.release() };
                Err(error)
            }
        }
    }

    /// The pages: the first byte, and how many bytes.
    pub(crate) fn data(&self) -> (NonNull<u8>, usize) {
        // SAFETY: the data lies within the range (invariant 2).
        let start = unsafe { self.range.base().add(self.data_start.get()) };
        (start, self.data_bytes.get())
    }

    /// What its pages are: for [`HugePages::Transparent`] all of them were huge when it was made.
    pub(crate) const fn pages(&self) -> HugePages {
        self.pages
    }

    /// Whether this process has the run: a child may have no such mapping, and by now something else there.
    pub(crate) fn is_mapped_here(&self) -> bool {
        self.fork != Fork::Exclude || self.owner == os::incarnation()
    }

    /// Turns all of it to zeros, past the CPU's caches.
    pub(crate) fn wipe(&mut self) {
        if self.is_mapped_here() {
            let (data, bytes) = self.data();
            // SAFETY: mapped here and writable (invariants 1 and 2), and `&mut self` keeps everybody else out.
            unsafe { wipe::zero_and_flush(data, bytes) };
        }
    }
}

impl Drop for DeviceRun {
    fn drop(&mut self) {
        if !self.is_mapped_here() {
            return;
        }
        // Unmapping would end the lock too. This is the order that is promised, and huge pages have no lock.
        let _ = self.range.unlock(self.data_start, self.data_bytes);
        // SAFETY: a value is dropped once, and nothing below uses the field.
        let range = unsafe { ManuallyDrop::take(&mut self.range) };
        // After a failure the pages stay, wiped and guarded.
        // SAFETY: the owner of the run has ended every pin and lends nothing out any more.
        let _ = unsafe { range.release() };
    }
}

/// Hints, guards, access, lock, in the order that the kernel needs. Tells what children find, and the pages.
fn small(
    range: &Reservation,
    start: PageBytes,
    bytes: PageBytes,
    wanted: HugePages,
) -> Result<(Fork, HugePages), Error> {
    let page = PageBytes::one();
    let front = start.saturating_sub(page);
    let fork = range.hint_all(Fork::Wipe)?.fork;
    if wanted == HugePages::Transparent {
        // A kernel without them has usual pages only, which is what this choice falls back to.
        let _ = range.hint_part(start, bytes, Hint::HugePage);
    }
    let to_tail = bytes.checked_add(page).ok_or(Error::TooLarge)?;
    // SAFETY: nothing refers to the range yet.
    let guards = unsafe { range.guard_each(front, page, to_tail, 2) }?;
    let mapping = match guards {
        GuardKind::Marker => (front, range.len().saturating_sub(front)),
        GuardKind::NoAccess => (start, bytes),
    };
    range.commit(mapping.0, mapping.1)?;
    lock_data(range, (start, bytes), mapping)?;
    let mut pages = HugePages::Off;
    if wanted == HugePages::Transparent {
        // Before the pin: a pinned page is not moved, so what is small then stays small.
        let _ = range.hint_part(start, bytes, Hint::PopulateWrite);
        if range.hint_part(start, bytes, Hint::Collapse).is_ok() {
            pages = HugePages::Transparent;
        }
    }
    Ok((fork, pages))
}

/// Huge pages of the pool between the reserved addresses, which stay without access. They are never swapped, so
/// need no lock, and a child gets none of them, since the kernel cannot give it zeros there.
fn explicit(range: &Reservation, start: PageBytes, bytes: PageBytes) -> Result<(Fork, HugePages), Error> {
    map_explicit(range, start, bytes)?;
    range.hint_part(start, bytes, Hint::DontDump)?;
    range.hint_part(start, bytes, Hint::DontFork)?;
    Ok((Fork::Exclude, HugePages::Explicit))
}

/// Puts huge pages of the pool in the place of reserved addresses, of which nobody knows yet.
pub(super) fn map_explicit(range: &Reservation, start: PageBytes, bytes: PageBytes) -> Result<(), Error> {
    if start.get() & os::HUGE_PAGE_BYTES.wrapping_sub(1) != 0 {
        return Err(Error::Os { operation: Operation::Reserve, errno: Errno::NOSYS.0 });
    }
    // SAFETY: `start` is within the range.
    let data = unsafe { range.base().add(start.get()) };
    // SAFETY: reserved, nobody knows its addresses, and both are whole huge pages: the range is aligned to one.
    unsafe { os::map_huge(data, bytes.get()) }.map_err(|errno| match errno {
        Errno::NOMEM => Error::HugePages { needed_bytes: bytes.get() },
        errno => Error::Os { operation: Operation::Reserve, errno: errno.0 },
    })
}
