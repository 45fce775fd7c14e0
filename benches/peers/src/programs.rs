//! Small programs as people write them, to be run on one allocator or another.

mod echo;
mod json;
mod parser;
mod search;
mod sort;

/// Every program with its name.
pub const ALL: [(&str, fn()); 5] = [
    ("serde_json", json::run),
    ("regex", search::run),
    ("tokio echo", echo::run),
    ("rayon sort", sort::run),
    ("nom parser", parser::run),
];

/// Runs the program that the first argument names.
pub fn main() {
    let name = std::env::args().nth(1).expect("usage: on-ALLOCATOR PROGRAM");
    let program = ALL.iter().find(|(other, _)| *other == name).expect("no such program");
    program.1();
}
