//! The host's side: reads what a guest told and says whether all is well.

use std::collections::BTreeMap;
use std::fs;
use std::process::ExitCode;

use crate::check;
use crate::report::{Copies, Line, parse};
use crate::search::Needle;

/// Prints the checks of a selection.
pub(crate) fn list(selection: &str) -> ExitCode {
    match check::selected(selection) {
        Ok(checks) => {
            checks.iter().for_each(|check| println!("{}", check.name));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The status for a guest that was cut short: its end is missing, and nothing that it told until then is wrong.
const CUT_SHORT: u8 = 3;

/// Whether each check of the selection passed, or was skipped, in a guest that came to its end, and whether the
/// memory that it left behind holds what it should.
///
/// A guest that was cut short has a status of its own: its kernel died or hung, not a check of ours, which would have
/// told so. `ci/lab` boots it a second time.
pub(crate) fn judge(selection: &str, results: &str, ram: &[&str]) -> ExitCode {
    let said = match fs::read(results) {
        Ok(said) => String::from_utf8_lossy(&said).replace('\r', ""),
        Err(error) => {
            eprintln!("{results}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let wrong = wrong(selection, &said, ram);
    for what in &wrong {
        let (Wrong::Told(what) | Wrong::Missing(what)) = what;
        println!("WRONG: {what}");
    }
    match &wrong[..] {
        [] => ExitCode::SUCCESS,
        all if all.iter().all(|what| matches!(what, Wrong::Missing(_))) => ExitCode::from(CUT_SHORT),
        _ => ExitCode::FAILURE,
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wrong {
    /// By what the guest told, or left in its memory.
    Told(String),
    /// By what it did not tell.
    Missing(String),
}

/// How a check ended, as the guest told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Passed,
    Failed,
    Skipped,
}

/// What is wrong, a line each.
fn wrong(selection: &str, said: &str, ram: &[&str]) -> Vec<Wrong> {
    use Wrong::{Missing, Told};

    let wanted = match check::selected(selection) {
        Ok(wanted) => wanted,
        Err(error) => return vec![Told(error)],
    };
    let mut wrong = Vec::new();
    let mut ends: BTreeMap<&str, Vec<End>> = BTreeMap::new();
    let mut is_begun = false;
    let mut count_at_end = None;
    for line in said.lines() {
        match parse(line) {
            Line::Begin { .. } => is_begun = true,
            Line::Passed { name } => ends.entry(name).or_default().push(End::Passed),
            Line::Skipped { name, .. } => ends.entry(name).or_default().push(End::Skipped),
            Line::Failed { name, reason } => {
                ends.entry(name).or_default().push(End::Failed);
                wrong.push(Told(format!("{name} failed: {reason}")));
            }
            Line::Search { name, seed, bytes, copies, what } => {
                wrong.extend(search(name, &Needle::new(seed, bytes), copies, what, ram).map(Told));
            }
            Line::Done { count } => count_at_end = Some(count),
            Line::RunnerEnded { status: "0" } | Line::Other => {}
            Line::RunnerEnded { status } => {
                wrong.push(Told(format!("what runs the checks ended with status {status}")));
            }
        }
    }
    if !is_begun {
        wrong.push(Missing("the guest never began".to_owned()));
    }
    match count_at_end {
        Some(count) if count == wanted.len() => {}
        Some(count) => wrong.push(Told(format!("the guest ran {count} checks, not {}", wanted.len()))),
        None => wrong.push(Missing("the guest never came to its end".to_owned())),
    }
    for check in wanted {
        match ends.get(check.name).map_or(0, Vec::len) {
            1 => {}
            // One that is missing in a guest that came to its end is no matter of the end.
            0 if count_at_end.is_some() => wrong.push(Told(format!("{} told nothing", check.name))),
            0 => wrong.push(Missing(format!("{} told nothing", check.name))),
            more => wrong.push(Told(format!("{} told how it ended {more} times", check.name))),
        }
    }
    wrong
}

/// Looks for a secret in the memory that the guest left behind.
fn search(name: &str, needle: &Needle, copies: Copies, what: &str, ram: &[&str]) -> Option<String> {
    if ram.is_empty() {
        return Some(format!("{name}: no memory to search"));
    }
    let mut pages = 0;
    for path in ram {
        match needle.pages_in(path) {
            Ok(more) => pages += more,
            Err(error) => return Some(format!("{path}: {error}")),
        }
    }
    println!("searched: {name}: {what}: {pages} pages with copies in the guest's memory");
    match copies {
        Copies::None if pages > 0 => Some(format!("{name}: {what}: {pages} pages with copies")),
        Copies::Some if pages == 0 => Some(format!("{name}: {what}: no copy, so the search sees nothing")),
        _ => None,
    }
}
