//! Needles, and the search for every eight-byte run of them.

use std::collections::HashMap;
use std::fmt;

/// What was found at one stop.
#[derive(Default)]
pub(crate) struct Found {
    hits: Vec<Hit>,
}

/// A run of positions that match.
struct Hit {
    place: String,
    address: u64,
    len: usize,
    label: String,
    is_locked: bool,
}

impl Found {
    /// Separate places.
    pub(crate) fn fragments(&self) -> usize {
        self.hits.len()
    }

    /// Those in memory that is not locked, or in registers.
    pub(crate) fn outside_the_heap(&self) -> usize {
        self.hits.iter().filter(|hit| !hit.is_locked).count()
    }

    fn bytes(&self) -> usize {
        self.hits.iter().map(|hit| hit.len).sum()
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} fragments of {} bytes", self.fragments(), self.bytes())
    }
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        for hit in self.hits.iter().take(20) {
            write!(f, "\n  {} bytes of {} at {:#x} in {}", hit.len, hit.label, hit.address, hit.place)?;
        }
        Ok(())
    }
}

/// All eight-byte runs to look for.
#[derive(Default)]
pub(crate) struct Needles {
    runs: HashMap<u64, usize>,
    labels: Vec<String>,
    filter: Vec<u64>,
}

const FILTER_BITS: u32 = 20;

impl Needles {
    /// Adds every run of `bytes` that is not too plain to mean anything: one with fewer than six different
    /// values may be found in any memory.
    pub(crate) fn add(&mut self, label: String, bytes: &[u8]) {
        self.filter.resize(1 << (FILTER_BITS - 6), 0);
        for run in bytes.windows(8) {
            let mut values = run.to_vec();
            values.sort_unstable();
            values.dedup();
            if values.len() >= 6 {
                let run = u64::from_ne_bytes(run.try_into().unwrap());
                let bit = bit_of(run);
                self.filter[bit >> 6] |= 1 << (bit & 63);
                self.runs.entry(run).or_insert(self.labels.len());
            }
        }
        self.labels.push(label);
    }

    /// Looks through `bytes`, which begin at `address`.
    pub(crate) fn search(&self, bytes: &[u8], address: u64, place: &str, is_locked: bool, found: &mut Found) {
        if self.runs.is_empty() || bytes.len() < 8 {
            return;
        }
        let mut last = usize::MAX - 1;
        let mut run = u64::from_ne_bytes(bytes[..8].try_into().unwrap());
        for at in 0..=bytes.len() - 8 {
            if at > 0 {
                // Little endian: the next byte comes in at the top.
                run = (run >> 8) | (u64::from(bytes[at + 7]) << 56);
            }
            let bit = bit_of(run);
            if self.filter[bit >> 6] & (1 << (bit & 63)) == 0 {
                continue;
            }
            let Some(&label) = self.runs.get(&run) else { continue };
            match found.hits.last_mut() {
                Some(hit) if last + 1 == at => hit.len += 1,
                _ => found.hits.push(Hit {
                    place: place.to_owned(),
                    address: address + at as u64,
                    len: 8,
                    label: self.labels[label].clone(),
                    is_locked,
                }),
            }
            last = at;
        }
    }
}

fn bit_of(run: u64) -> usize {
    (run.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - FILTER_BITS)) as usize
}
