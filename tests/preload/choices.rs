//! The environment chooses.

use std::fs;

use crate::c::{self, Block};
use crate::library::{On, command};
use crate::support::child;

#[test]
fn the_environment_chooses_the_heap() {
    for (flush, lock, expected) in [
        (None, None, "Bounded BestEffort"),
        (Some("bounded"), Some("best-effort"), "Bounded BestEffort"),
        (Some("off"), None, "Off BestEffort"),
        (Some("immediate"), None, "Immediate BestEffort"),
        (None, Some("off"), "Bounded Off"),
        (Some("off"), Some("off"), "Off Off"),
        (Some("immediate"), Some("off"), "Immediate Off"),
        (Some("nonsense"), Some(""), "Bounded BestEffort"),
    ] {
        let line = report_of(flush, lock);
        assert!(line.contains(&format!("policy {expected} ")), "{flush:?} {lock:?}: {line}");
        let locked = number(&line, "locked");
        if lock == Some("off") {
            assert_eq!(locked, 0, "{line}");
        } else {
            assert!(locked > 0, "{line}");
        }
        assert!(number(&line, "peak") > 1 << 20, "{line}");
        assert_eq!(number(&line, "foreign"), 0, "{line}");
    }
}

fn number(line: &str, key: &str) -> usize {
    let mut words = line.split_whitespace();
    words.find(|word| *word == key).unwrap();
    words.next().unwrap().parse().unwrap()
}

/// Runs a program and gives the line that it leaves.
fn report_of(flush: Option<&str>, lock: Option<&str>) -> String {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("oubliette-report-{}-{number}", std::process::id()));
    let mut command = command(On::Preload, "choice", "");
    for (name, value) in [("OUBLIETTE_FLUSH", flush), ("OUBLIETTE_LOCK", lock)] {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.env("OUBLIETTE_REPORT", &path);
    child::run_command(command).assert_success();
    let text = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

/// Some megabytes, so that the heap has something to report.
pub(crate) fn allocate_a_little(_: &str) {
    let blocks: Vec<Block> = (0..2000).map(|_| c::malloc(1000)).collect();
    for block in blocks {
        // SAFETY: allocated above, freed once.
        unsafe { c::free(block) };
    }
}
