//! The results, for people.

use std::fmt::Write as _;

use crate::measure::{Cost, Row};

/// One program in one line.
pub(crate) fn line(row: &Row) -> String {
    let [plain, usual, off] = row.costs;
    format!(
        "{:10} {:7.3} s   cpu {:.2} / off {:.2}   rss {:.2} / off {:.2} of {:.0} KiB   faults {:.0} / {:.0} / {:.0}",
        row.name,
        plain.cpu_seconds,
        usual.cpu_seconds / plain.cpu_seconds,
        off.cpu_seconds / plain.cpu_seconds,
        usual.resident_kib / plain.resident_kib,
        off.resident_kib / plain.resident_kib,
        plain.resident_kib,
        plain.faults,
        usual.faults,
        off.faults,
    )
}

/// All of them as a table of ratios, with the geometric means.
pub(crate) fn markdown(rows: &[Row], rounds: usize) -> String {
    let mut text = format!("{}, medians of {rounds} rounds\n\n", processor());
    text.push_str(
        "| program | C library, s | CPU, default | CPU, flush off | memory, default | memory, flush off |\n",
    );
    text.push_str("|---|---|---|---|---|---|\n");
    let ratios = |row: &Row| {
        let [plain, usual, off] = row.costs;
        let of = |field: fn(&Cost) -> f64| [field(&usual) / field(&plain), field(&off) / field(&plain)];
        let ([a, b], [c, d]) = (of(|cost| cost.cpu_seconds), of(|cost| cost.resident_kib));
        [a, b, c, d]
    };
    for row in rows {
        let [a, b, c, d] = ratios(row);
        let _ = writeln!(
            text,
            "| {} | {:.2} | {a:.2} | {b:.2} | {c:.2} | {d:.2} |",
            row.name, row.costs[0].cpu_seconds
        );
    }
    let mean = |i: usize| {
        let sum: f64 = rows.iter().map(|row| ratios(row)[i].ln()).sum();
        (sum / rows.len().max(1) as f64).exp()
    };
    let _ = writeln!(
        text,
        "| **geometric mean** | | **{:.2}** | **{:.2}** | **{:.2}** | **{:.2}** |",
        mean(0),
        mean(1),
        mean(2),
        mean(3)
    );
    text
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or("an unknown processor", |(_, name)| name).to_owned()
}
