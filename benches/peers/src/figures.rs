//! Where a run's figures go: lines of tab-separated text, from which `performance` makes the document.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

/// One point of a figure.
#[derive(Clone, Debug)]
pub struct Point {
    pub figure: String,
    pub series: String,
    pub x: f64,
    pub y: f64,
}

/// The file of this run: `PERFORMANCE_FIGURES`, set by `benches/peers/run`; none if a bench is run alone.
fn path() -> Option<PathBuf> {
    std::env::var_os("PERFORMANCE_FIGURES").map(PathBuf::from)
}

/// Prints a point, and keeps it if this is part of a whole run.
pub fn record(figure: &str, series: &str, x: f64, y: f64) {
    println!("{figure}: {series}, {x}: {y:.2}");
    let Some(path) = path() else { return };
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let outcome = file.and_then(|mut file| writeln!(file, "{figure}\t{series}\t{x}\t{y}"));
    outcome.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Reads what was recorded.
pub fn read(text: &str) -> Vec<Point> {
    text.lines()
        .filter_map(|line| {
            let mut parts = line.split('\t');
            let (figure, series) = (parts.next()?.to_owned(), parts.next()?.to_owned());
            let (x, y) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            Some(Point { figure, series, x, y })
        })
        .collect()
}
