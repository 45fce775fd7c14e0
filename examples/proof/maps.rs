//! What a process has mapped, as `/proc/PID/smaps` tells it (proc(5)).
//!
//! Used by the example `proof` and by the integration tests.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::ops::Range;

/// One mapping of a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mapping {
    /// Addresses.
    pub(crate) range: Range<usize>,
    /// `r`, `w`, `x`, `p`/`s`, as in `rw-p`.
    pub(crate) access: String,
    /// A path, `[heap]`, `[stack]`, or nothing for anonymous memory.
    pub(crate) name: String,
    /// The two-letter codes of `VmFlags:`, such as `lo` (locked), `dd` (not in core dumps) and `wf`
    /// (zeros after a fork).
    pub(crate) flags: Vec<String>,
    /// Every figure in KiB, by its name.
    pub(crate) figures: HashMap<String, usize>,
}

impl Mapping {
    /// Whether `VmFlags:` has this two-letter code.
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|f| f == flag)
    }

    /// Whether the process itself may read it.
    pub(crate) fn is_readable(&self) -> bool {
        self.access.starts_with('r')
    }

    /// Whether any page of it holds content of its own, in memory or in swap.
    pub(crate) fn is_populated(&self) -> bool {
        self.kib("Rss") > 0 || self.kib("Swap") > 0
    }

    /// A figure in KiB; 0 where the kernel does not give it.
    pub(crate) fn kib(&self, name: &str) -> usize {
        self.figures.get(name).copied().unwrap_or(0)
    }
}

/// All mappings of a process, in order of address. `who` is a process id or `self`.
pub(crate) fn mappings_of(who: &str) -> io::Result<Vec<Mapping>> {
    Ok(parse(&fs::read_to_string(format!("/proc/{who}/smaps"))?))
}

fn parse(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let first = line.split_ascii_whitespace().next().unwrap_or_default();
        if let Some(key) = first.strip_suffix(':') {
            let Some(mapping) = mappings.last_mut() else { continue };
            let mut values = line.split_ascii_whitespace().skip(1);
            if key == "VmFlags" {
                mapping.flags = values.map(str::to_owned).collect();
            } else if line.ends_with(" kB") {
                mapping.figures.insert(key.to_owned(), kib(values.next()));
            }
        } else if let Some(mapping) = header(line) {
            mappings.push(mapping);
        }
    }
    mappings
}

fn kib(text: Option<&str>) -> usize {
    text.and_then(|t| t.parse().ok()).unwrap_or(0)
}

/// `7f00-7f10 rw-p 00000000 00:00 0    [stack]`
fn header(line: &str) -> Option<Mapping> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    let access = words.next()?.to_owned();
    let name = words.skip(3).collect::<Vec<_>>().join(" ");
    Some(Mapping { range, access, name, ..Mapping::default() })
}
