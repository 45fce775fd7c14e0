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

/// Whether each check of the selection passed, or was skipped, in a guest that came to its end, and whether the
/// memory that it left behind holds what it should.
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
        println!("WRONG: {what}");
    }
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How a check ended, as the guest told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Passed,
    Failed,
    Skipped,
}

/// What is wrong, a line each.
fn wrong(selection: &str, said: &str, ram: &[&str]) -> Vec<String> {
    let wanted = match check::selected(selection) {
        Ok(wanted) => wanted,
        Err(error) => return vec![error],
    };
    let mut wrong = Vec::new();
    let mut ends: BTreeMap<&str, Vec<End>> = BTreeMap::new();
    let mut is_begun = false;
    let mut told = None;
    for line in said.lines() {
        match parse(line) {
            Line::Begin { .. } => is_begun = true,
            Line::Passed { name } => ends.entry(name).or_default().push(End::Passed),
            Line::Skipped { name, .. } => ends.entry(name).or_default().push(End::Skipped),
            Line::Failed { name, reason } => {
                ends.entry(name).or_default().push(End::Failed);
                wrong.push(format!("{name} failed: {reason}"));
            }
            Line::Search { name, seed, bytes, copies, what } => {
                wrong.extend(search(name, &Needle::new(seed, bytes), copies, what, ram));
            }
            Line::Done { count } => told = Some(count),
            Line::Other => {}
        }
    }
    if !is_begun {
        wrong.push("the guest never began".to_owned());
    }
    match told {
        Some(count) if count == wanted.len() => {}
        Some(count) => wrong.push(format!("the guest ran {count} checks, not {}", wanted.len())),
        None => wrong.push("the guest never came to its end".to_owned()),
    }
    for check in wanted {
        match ends.get(check.name).map_or(0, Vec::len) {
            1 => {}
            0 => wrong.push(format!("{} told nothing", check.name)),
            more => wrong.push(format!("{} told how it ended {more} times", check.name)),
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
