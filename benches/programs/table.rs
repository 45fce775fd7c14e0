//! The results, for people.

use std::fmt::Write as _;

use crate::allocators::Allocator;
use crate::measure::Cost;
use crate::ratios::{Field, Row, Spread, means, spread};

const SECONDS: Field = |cost: &Cost| cost.seconds;
const RESIDENT: Field = |cost: &Cost| cost.resident_kib;
const FAULTS: Field = |cost: &Cost| cost.faults;

/// One program in one line: ratios with their quartiles, and medians.
pub(crate) fn line(row: &Row, allocators: &[Allocator]) -> String {
    let median = |allocator, field| spread(row.values(allocator, field)).median;
    let ratios = |field| {
        let others = allocators.iter().enumerate().skip(1);
        let each = others.map(|(i, other)| format!("{} {}", other.name, cell(spread(row.ratios(i, field)))));
        each.collect::<Vec<_>>().join(" / ")
    };
    let faults: Vec<String> = (0..allocators.len()).map(|i| format!("{:.0}", median(i, FAULTS))).collect();
    format!(
        "{:14} {:7.3} s   cpu {}   rss {} of {:.0} KiB   faults {}",
        row.name,
        median(0, SECONDS),
        ratios(SECONDS),
        ratios(RESIDENT),
        median(0, RESIDENT),
        faults.join(" / "),
    )
}

/// All programs of a suite as a table of ratios, with the geometric means.
pub(crate) fn markdown(rows: &[Row], allocators: &[Allocator], rounds: usize) -> String {
    let mut text = format!("{}, medians of {rounds} rounds (quartiles)\n\n", processor());
    text.push_str("| program | C library, s |");
    let others = 1..allocators.len();
    for what in ["CPU", "memory"] {
        for other in &allocators[1..] {
            let _ = write!(text, " {what}, {} |", other.name);
        }
    }
    let _ = writeln!(text, "\n|---|---|{}", "---|".repeat(2 * others.len()));
    for row in rows {
        let _ = write!(text, "| {} | {:.2} |", row.name, spread(row.values(0, SECONDS)).median);
        for i in others.clone() {
            let _ = write!(text, " {} |", cell(spread(row.ratios(i, SECONDS))));
        }
        for i in others.clone() {
            let _ = write!(text, " {:.2} |", spread(row.ratios(i, RESIDENT)).median);
        }
        text.push('\n');
    }
    text.push_str("| **geometric mean** | |");
    for i in others.clone() {
        let _ = write!(text, " **{}** |", cell(spread(means(rows, i, SECONDS))));
    }
    for i in others {
        let _ = write!(text, " **{:.2}** |", spread(means(rows, i, RESIDENT)).median);
    }
    text.push('\n');
    text
}

/// A ratio and between what half of its rounds are.
fn cell(ratio: Spread) -> String {
    format!("{:.2} ({:.2}-{:.2})", ratio.median, ratio.lower, ratio.upper)
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or("an unknown processor", |(_, name)| name).to_owned()
}
