//! Tests that cannot run here say so, and fail in CI where they could have run.

use std::io::Write;

/// Prints `skipped: <why>` for something that this kind of machine cannot do: an older kernel, another
/// processor.
pub(crate) fn impossible(why: &str) {
    // Not `eprintln!`: the test harness keeps that for itself as long as the test passes.
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// Prints `skipped: <why>` for something that this machine could do if it were set up for it: a missing
/// privilege, a limit. Fails where `CI` is `true`, which promises that set-up.
#[track_caller]
pub(crate) fn not_set_up(why: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "skipped in CI: {why}");
    impossible(why);
}
