//! Tables in Markdown.

use std::fmt::Write;

/// A table under construction.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<'a>(head: impl IntoIterator<Item = &'a str>) -> Self {
        Self { rows: vec![head.into_iter().map(str::to_owned).collect()] }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub fn print(&self, text: &mut String) {
        for (i, row) in self.rows.iter().enumerate() {
            writeln!(text, "| {} |", row.join(" | ")).unwrap();
            if i == 0 {
                writeln!(text, "|---|{}", "---:|".repeat(row.len() - 1)).unwrap();
            }
        }
        text.push('\n');
    }
}

/// Three digits or so.
pub fn number(value: f64) -> String {
    match value {
        _ if value < 10.0 => format!("{value:.2}"),
        _ if value < 100.0 => format!("{value:.1}"),
        _ if value < 1e5 => format!("{value:.0}"),
        _ if value < 1e8 => format!("{:.0},000", value / 1e3),
        _ => format!("{:.0},000,000", value / 1e6),
    }
}

pub fn ratio(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.2}"))
}
