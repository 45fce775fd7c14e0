//! What a check is, and the table of all.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::{controls, iommu, keys, late, moves, packets, refusals, secrets};

/// How a check ended, if it did not panic.
pub(crate) type Outcome = Result<(), Ended>;

/// Why a check did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It does not hold.
    Failed(String),
    /// This kernel cannot do what it is about. `ci/lab` fails where that is so on all of its kernels.
    Skipped(String),
}

/// One check.
#[derive(Clone, Copy)]
pub(crate) struct Check {
    /// Its name: letters, digits, underscores.
    pub(crate) name: &'static str,
    /// How long it may take before it is ended.
    pub(crate) longest: Duration,
    pub(crate) run: fn() -> Outcome,
}

impl Check {
    /// A check that is given the usual time.
    pub(crate) const fn new(name: &'static str, run: fn() -> Outcome) -> Self {
        Self { name, longest: Duration::from_secs(120), run }
    }

    pub(crate) const fn at_most(self, longest: Duration) -> Self {
        Self { longest, ..self }
    }
}

/// Every group, in the order in which they run.
pub(crate) const GROUPS: &[(&str, &[Check])] = &[
    ("controls", controls::CHECKS),
    ("secrets", secrets::CHECKS),
    ("iommu", iommu::CHECKS),
    ("keys", keys::CHECKS),
    ("key_costs", keys::COSTS),
    ("refusals", refusals::CHECKS),
    ("late", late::CHECKS),
    ("packets", packets::CHECKS),
    // Last, so that nothing takes the frames that it leaves behind.
    ("moves", moves::CHECKS),
];

/// The group that has to fail: run alone, to see that the lab notices.
pub(crate) const CONTROLS: &str = "controls";

/// Groups that `all` leaves out: those that have to fail, and those that `ci/keys` runs in a guest of another kind.
const ASIDE: [&str; 2] = [CONTROLS, "key_costs"];

/// The checks of a selection: names of checks and groups with commas between, or `all`.
pub(crate) fn selected(selection: &str) -> Result<Vec<Check>, String> {
    let words: Vec<&str> = selection.split(',').collect();
    let is_chosen = |group: &str, check: &Check| {
        words.contains(&group)
            || words.contains(&check.name)
            || (words.contains(&"all") && !ASIDE.contains(&group))
    };
    for word in &words {
        let is_known = *word == "all"
            || GROUPS
                .iter()
                .any(|(group, checks)| group == word || checks.iter().any(|check| check.name == *word));
        if !is_known {
            return Err(format!("there is no check and no group {word:?}"));
        }
    }
    let mut chosen = Vec::new();
    for (group, checks) in GROUPS {
        chosen.extend(checks.iter().filter(|check| is_chosen(group, check)));
    }
    Ok(chosen)
}

/// An `Err` with the text, unless the condition holds.
pub(crate) fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(Ended::Failed(otherwise())) }
}

/// How long to wait for what the emulator or the kernel does in its own time, between one look and the next.
///
/// It is over after a time *and* as many looks as fit in half of it: the emulator may stand still for seconds, in which
/// the guest's clock goes on and nothing else does.
pub(crate) struct Patience {
    end: Instant,
    looks_left: u128,
}

impl Patience {
    const LOOK_EVERY: Duration = Duration::from_millis(1);

    pub(crate) fn new(longest: Duration) -> Self {
        Self { end: Instant::now() + longest, looks_left: longest.as_millis() / 2 }
    }

    /// Sleeps for a millisecond if there is reason to look again.
    pub(crate) fn is_left(&mut self) -> bool {
        self.looks_left = self.looks_left.saturating_sub(1);
        let is_left = self.looks_left > 0 || Instant::now() < self.end;
        if is_left {
            sleep(Self::LOOK_EVERY);
        }
        is_left
    }
}

impl<E: std::error::Error> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}
