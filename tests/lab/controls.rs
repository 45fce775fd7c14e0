//! Checks that must not pass. `ci/lab` runs them before all others, and fails unless each of them is noticed.

use std::time::Duration;

use crate::check::{Check, Ended, Outcome};

pub(crate) const CHECKS: &[Check] = &[
    Check::new("control_fails", || Err(Ended::Failed("as it should".to_owned()))),
    Check::new("control_panics", || panic!("as it should")),
    Check::new("control_dies", dies),
    Check::new("control_hangs", hangs).at_most(Duration::from_secs(1)),
    Check::new("control_leaves_a_secret", leaves_a_secret),
];

fn dies() -> Outcome {
    crate::support::limits::no_core_file();
    std::process::abort()
}

fn hangs() -> Outcome {
    std::thread::sleep(Duration::from_secs(600));
    Ok(())
}

/// What is said not to be in the memory of the guest is there: only the search from outside can tell.
fn leaves_a_secret() -> Outcome {
    const SEED: u64 = 0x1ab0;
    let buffer = crate::support::pages::map(1 << 20);
    // SAFETY: mapped above, and never unmapped.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, 1 << 20) };
    crate::support::pattern::fill(bytes, SEED);
    crate::report::search(
        "control_leaves_a_secret",
        SEED,
        1 << 20,
        crate::report::Copies::None,
        "a secret left",
    );
    Ok(())
}
