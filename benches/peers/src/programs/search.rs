//! Compiles patterns and counts what they find in a text.

use std::collections::HashMap;
use std::fmt::Write;
use std::hint::black_box;

use regex::Regex;

const PATTERNS: [&str; 6] = [
    r"(?P<user>[a-z0-9._]+)@(?P<host>[a-z0-9.]+\.[a-z]{2,})",
    r"\b(\d{1,3}\.){3}\d{1,3}\b",
    r"(?i)error|warning|fatal",
    r"\b[A-Z][a-z]+ [A-Z][a-z]+\b",
    r"(\d{4})-(\d{2})-(\d{2})T(\d{2}):(\d{2})",
    r"\p{Greek}+|\p{Cyrillic}+",
];

pub fn run() {
    let mut text = String::new();
    for i in 0..3000 {
        writeln!(
            text,
            "2026-{:02}-{:02}T{:02}:00 host{} user.{i}@example{}.org from 10.{}.{}.7 Warning: Ada Lovelace αβγ",
            i % 12 + 1,
            i % 28 + 1,
            i % 24,
            i % 50,
            i % 9,
            i % 200,
            i % 250
        )
        .unwrap();
    }
    for _ in 0..12 {
        let mut counts: HashMap<String, usize> = HashMap::new();
        for pattern in PATTERNS {
            let pattern = Regex::new(pattern).unwrap();
            for found in pattern.captures_iter(&text) {
                *counts.entry(found[0].to_owned()).or_default() += 1;
            }
        }
        black_box(counts);
    }
}
