//! Transfers that are dropped while they are under way, on kernels that end them differently: up to 6.12 unregistering
//! a buffer waits for its transfers, on 6.18 it returns at once.

use std::path::Path;
use std::time::Duration;

use crate::check::{Check, Outcome, require};
use crate::late_io;

pub(crate) const CHECKS: &[Check] = &[
    Check::new("late_io_is_seen_where_it_happens", control),
    Check::new("late_io_writes_to_no_dropped_buffer", nothing_late).at_most(Duration::from_secs(240)),
];

const TRANSFERS: usize = 10_000;

fn told(error: Box<dyn std::error::Error>) -> crate::check::Ended {
    crate::check::Ended::Failed(error.to_string())
}

fn control() -> Outcome {
    let is_seen = late_io::control().map_err(told)?;
    require(is_seen, || "a forgotten transfer wrote nothing: late writes would not be seen".to_owned())
}

/// On a disk of the guest, so that reading it takes a while.
fn nothing_late() -> Outcome {
    let outcome = late_io::run(TRANSFERS, Path::new("/disk"), 0x1a7e).map_err(told)?;
    println!("{outcome:?}");
    require(outcome.dropped.iter().sum::<usize>() >= TRANSFERS, || format!("{outcome:?}"))?;
    require(outcome.dropped.iter().all(|dropped| *dropped > TRANSFERS / 10), || format!("{outcome:?}"))?;
    require(outcome.has_direct_files, || "files were read through the page cache".to_owned())?;
    require(outcome.late_writes == 0 && outcome.late_reads == 0, || format!("{outcome:?}"))?;
    require(outcome.quarantined == 0, || format!("{outcome:?}"))
}
