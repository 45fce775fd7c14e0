//! What the kernel is told about a whole range, and which of it took.

use super::Reservation;
use crate::os::{Errno, Hint};
use crate::{Error, Fork};

/// Whether one measure of protection is in force, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// In force.
    InForce,
    /// The policy does not ask for it.
    NotWanted,
    /// Asked for, and refused with this.
    Refused(Errno),
}

/// The measures that hold for a whole range from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hints {
    /// Kept out of core dumps.
    pub(crate) no_dump: Measure,
    /// What a child made by fork finds. [`Fork::Exclude`] also where zeros were asked for and the system has
    /// no such hint.
    pub(crate) fork: Fork,
    /// Kept out of huge pages.
    pub(crate) no_huge_page: Measure,
    /// Kept from being merged with other processes' pages.
    pub(crate) no_merge: Measure,
}

impl Hints {
    /// None was given.
    pub(crate) const NONE: Self = Self {
        no_dump: Measure::NotWanted,
        fork: Fork::Inherit,
        no_huge_page: Measure::NotWanted,
        no_merge: Measure::NotWanted,
    };

    /// How many of them the system does not know.
    pub(crate) fn refused(self) -> u32 {
        let measures = [self.no_dump, self.no_huge_page, self.no_merge];
        measures.into_iter().map(|measure| u32::from(matches!(measure, Measure::Refused(_)))).sum()
    }
}

impl Reservation {
    /// Gives the kernel every hint that the policy for children, and this crate, ask for. A hint that the
    /// system does not know is noted in the result, unless a child would then find secrets: that, and any
    /// other failure, is an error.
    pub(crate) fn hint_all(&self, fork: Fork) -> Result<Hints, Error> {
        Ok(Hints {
            no_dump: self.try_hint(Hint::DontDump)?,
            fork: self.hint_fork(fork)?,
            no_huge_page: self.try_hint(Hint::NoHugePage)?,
            no_merge: self.try_hint(Hint::Unmergeable)?,
        })
    }

    /// The same for a range of hidden memory, whose pages are never dumped, huge or merged. No child gets it.
    pub(crate) fn hint_hidden(&self) -> Result<Hints, Error> {
        self.hint(Hint::DontFork)?;
        let in_force = Measure::InForce;
        Ok(Hints { no_dump: in_force, fork: Fork::Exclude, no_huge_page: in_force, no_merge: in_force })
    }

    fn hint_fork(&self, fork: Fork) -> Result<Fork, Error> {
        if fork == Fork::Inherit {
            return Ok(Fork::Inherit);
        }
        if fork == Fork::Wipe && self.try_hint(Hint::WipeOnFork)? == Measure::InForce {
            return Ok(Fork::Wipe);
        }
        self.hint(Hint::DontFork)?;
        Ok(Fork::Exclude)
    }

    fn try_hint(&self, hint: Hint) -> Result<Measure, Error> {
        match self.hint(hint) {
            Ok(()) => Ok(Measure::InForce),
            // EINVAL also where the kernel was built without huge pages, or without merging: madvise(2).
            Err(Error::Os { errno, .. }) if Errno(errno) == Errno::INVAL || Errno(errno) == Errno::NOSYS => {
                Ok(Measure::Refused(Errno(errno)))
            }
            Err(error) => Err(error),
        }
    }
}
