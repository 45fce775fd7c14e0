//! What makes a guarded run safe, in the order that the kernel needs.

// UNSAFETY: makes guards in, hides and pins memory by address.
#![expect(unsafe_code, reason = "acts on a range that nobody knows yet")]

use super::Kind;
use crate::os::{self, Access, Errno, Hint};
use crate::pages::device_run::map_explicit;
use crate::pages::hints::{Hints, Measure};
use crate::pages::layout::RunLayout;
use crate::pages::{GuardKind, HugePages, PageBytes, PinId, Reservation, pins};
use crate::{Backing, Error, Fork, Lock, Refusal};

/// What a guarded run got of what its policy asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Protection {
    /// What its guards are made of.
    pub(crate) guards: GuardKind,
    /// Locked in RAM.
    pub(crate) locked: Measure,
    /// Pinned to its frames.
    pub(crate) pinned: Measure,
    /// The rest.
    pub(crate) hints: Hints,
}

/// Hints, access, guards, lock and pin, in the order that the kernel needs.
pub(super) fn protect(
    range: &Reservation,
    layout: RunLayout,
    kind: Kind,
    pages: HugePages,
) -> Result<(Protection, Option<PinId>), Error> {
    let policy = kind.policy();
    let page = PageBytes::one();
    let data_start = PageBytes::round_down(layout.data_start);
    let data_end = PageBytes::round_down(layout.data_end);
    let front = data_start.saturating_sub(page);
    let data_bytes = data_end.saturating_sub(data_start);

    let is_hidden = policy.backing() == Backing::Hidden;
    let data = (data_start, data_bytes);
    let hints = match kind {
        Kind::Secret(_) if is_hidden && pages != HugePages::Off => {
            return Err(Error::Refused(Refusal::Hidden));
        }
        Kind::Secret(_) if is_hidden => range.hint_hidden()?,
        Kind::Secret(_) => range.hint_all(policy.fork())?,
        Kind::Ordinary => Hints::NONE,
    };
    let hints = match pages {
        HugePages::Off => hints,
        HugePages::Transparent => {
            // After the hint against them, which was for all of the range.
            range.hint_part(data.0, data.1, Hint::HugePage).map_err(|_| Error::Refused(Refusal::Unknown))?;
            Hints { no_huge_page: Measure::NotWanted, ..hints }
        }
        HugePages::Explicit => {
            map_explicit(range, data.0, data.1)?;
            hint_explicit(range, data, kind, hints)?
        }
    };
    // SAFETY: nothing refers to the range yet.
    let guards = unsafe { range.guard_each(front, page, data_end.saturating_sub(front), 2) }?;
    // Markers keep guarding with access given to them, so that all of it is one mapping.
    let (start, len) = match guards {
        GuardKind::Marker if pages != HugePages::Explicit => {
            (front, data_end.saturating_sub(front).checked_add(page).ok_or(Error::TooLarge)?)
        }
        GuardKind::Marker => data,
        GuardKind::NoAccess => data,
    };
    if is_hidden {
        // SAFETY: nothing refers to the range yet.
        unsafe { range.hide(data_start, data_bytes, Access::None) }?;
    } else {
        range.commit(start, len)?;
    }
    let locked = match policy.lock() {
        // By nature: they are never swapped, and take no lock.
        _ if is_hidden || pages == HugePages::Explicit => Measure::InForce,
        Lock::Off => Measure::NotWanted,
        lock => match lock_data(range, data, (start, len)) {
            Ok(()) => Measure::InForce,
            Err(error) if lock == Lock::Required => return Err(error),
            Err(error) => Measure::Refused(reason(error)),
        },
    };
    if pages == HugePages::Transparent && kind != Kind::Ordinary {
        // Before the pin: a pinned page is not moved, so what is small then stays small. Where the kernel finds no
        // huge pages they are small.
        let _ = range.hint_part(data.0, data.1, Hint::PopulateWrite);
        let _ = range.hint_part(data.0, data.1, Hint::Collapse);
    }
    let (pinned, pin) = match policy.backing() {
        Backing::Locked | Backing::Hidden => (Measure::NotWanted, None),
        Backing::Auto => {
            // SAFETY: `data_start` lies within the range.
            let data = unsafe { range.base().add(data_start.get()) };
            // SAFETY: the data is reserved, and unpinned before it is released.
            match unsafe { pins().pin(data, data_bytes.get()) } {
                Ok(pin) => (Measure::InForce, Some(pin)),
                Err(errno) => (Measure::Refused(errno), None),
            }
        }
    };
    Ok((Protection { guards, locked, pinned, hints }, pin))
}

/// What is said of huge pages of the pool: they are a mapping of their own, without the hints of the range.
fn hint_explicit(
    range: &Reservation,
    data: (PageBytes, PageBytes),
    kind: Kind,
    hints: Hints,
) -> Result<Hints, Error> {
    if kind == Kind::Ordinary {
        return Ok(hints);
    }
    range.hint_part(data.0, data.1, Hint::DontDump)?;
    // The kernel gives no child zeros there (`MADV_WIPEONFORK`), so it gives none of it.
    range.hint_part(data.0, data.1, Hint::DontFork)?;
    Ok(Hints { fork: Fork::Exclude, no_huge_page: Measure::NotWanted, ..hints })
}

/// Locks the data of a run, and where no limit counts them the guards too: the run is one mapping then, not three.
pub(in crate::pages) fn lock_data(
    range: &Reservation,
    data: (PageBytes, PageBytes),
    mapping: (PageBytes, PageBytes),
) -> Result<(), Error> {
    if os::memlock_limit().soft.is_none() && range.lock(mapping.0, mapping.1).is_ok() {
        return Ok(());
    }
    range.lock(data.0, data.1)
}

/// The system's word for a lock that failed.
const fn reason(error: Error) -> Errno {
    match error {
        Error::Os { errno, .. } => Errno(errno),
        _ => Errno::NOMEM,
    }
}
