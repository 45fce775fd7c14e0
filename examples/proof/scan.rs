//! Looking for fragments of secrets in the memory of another process.
//!
//! **Fragment.** Every run of eight consecutive bytes of a secret is one *window*: a secret of 32 bytes has
//! 25. Every address at which eight bytes equal some window of some secret is one fragment found. So a whole
//! copy of a 32-byte key counts 25, and a copy of half of it counts 9. Eight bytes of a random secret do not
//! turn up by chance: a scan of 1 GiB meets one of 200 given windows with a chance of one in 80 million.
//!
//! **What is read.** Every page of every mapping that has content, also of those that the process itself may
//! not read: `/proc/PID/mem` gives the pages of `PROT_NONE` mappings too (ptrace access overrides the
//! protection), and memory that was only made inaccessible is not memory that was wiped. A mapping without
//! read access is read where `/proc/PID/pagemap` says that a page is present.
//!
//! **Who may.** The reader must be allowed to ptrace the process (ptrace(2), "Ptrace access mode checking"):
//! a parent may read its children of the same user also where Yama restricts others. The secrets are known
//! to the reader only; the process that is read never holds them for the sake of the scan.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::maps::{Mapping, mappings_of};

/// Bytes of a window.
pub(crate) const WINDOW_BYTES: usize = 8;
const PAGE_BYTES: usize = 4096;
/// Bytes read at once; the last `WINDOW_BYTES - 1` of a chunk are carried into the next.
const CHUNK_BYTES: usize = 256 * 1024;
/// Bits 63 and 62 of a pagemap entry: present, swapped (Documentation/admin-guide/mm/pagemap.rst).
const PAGEMAP_HAS_CONTENT: u64 = 0b11 << 62;

/// The windows of all secrets that are looked for.
#[derive(Default)]
pub(crate) struct Needles {
    names: Vec<String>,
    by_window: HashMap<[u8; WINDOW_BYTES], usize>,
    /// One bit for each possible pair of leading bytes, so that most addresses cost one look-up.
    first_two: Vec<bool>,
}

/// The kind of memory a fragment was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Place {
    /// The heap of the C library, in `[heap]` or in mappings of its own, and all other anonymous memory.
    Heap,
    /// The main thread's stack.
    Stack,
    /// Memory left out of core dumps: the mappings of this crate (nothing else in these programs asks for it).
    SecretHeap,
    /// Data of the executable and of libraries.
    Image,
}

/// One fragment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hit {
    pub(crate) address: usize,
    /// Index into the names of the needles.
    pub(crate) needle: usize,
    pub(crate) place: Place,
}

/// What a scan found.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) hits: Vec<Hit>,
    pub(crate) read_bytes: usize,
}

impl Needles {
    /// Adds every window of a secret. A window that an earlier secret has as well stays with the earlier.
    /// Windows of one byte repeated are left out: such runs are everywhere.
    pub(crate) fn add(&mut self, name: &str, secret: &[u8]) {
        let index = self.names.len();
        self.names.push(name.to_owned());
        self.first_two.resize(1 << 16, false);
        for window in secret.windows(WINDOW_BYTES) {
            let window: [u8; WINDOW_BYTES] = window.try_into().expect("a window has WINDOW_BYTES bytes");
            if window.iter().any(|byte| *byte != window[0]) {
                self.first_two[usize::from(u16::from_le_bytes([window[0], window[1]]))] = true;
                self.by_window.entry(window).or_insert(index);
            }
        }
    }

    /// The names, in the order added.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Windows looked for.
    pub(crate) fn len(&self) -> usize {
        self.by_window.len()
    }

    fn find(&self, bytes: &[u8], mut found: impl FnMut(usize, usize)) {
        for (offset, window) in bytes.windows(WINDOW_BYTES).enumerate() {
            if !self.first_two[usize::from(u16::from_le_bytes([window[0], window[1]]))] {
                continue;
            }
            if let Some(needle) = self.by_window.get(window) {
                found(offset, *needle);
            }
        }
    }
}

impl Findings {
    /// Fragments of one needle.
    pub(crate) fn of_needle(&self, needle: usize) -> usize {
        self.hits.iter().filter(|hit| hit.needle == needle).count()
    }

    /// Fragments in one kind of memory.
    pub(crate) fn in_place(&self, place: Place) -> usize {
        self.hits.iter().filter(|hit| hit.place == place).count()
    }
}

/// Reads all memory of the process `who` (a process id, or `self`) and finds every fragment in it. The
/// process should be stopped, or at least quiet.
pub(crate) fn scan(who: &str, needles: &Needles) -> io::Result<Findings> {
    let memory = File::open(format!("/proc/{who}/mem"))?;
    let pagemap = File::open(format!("/proc/{who}/pagemap")).ok();
    let mut findings = Findings::default();
    for mapping in mappings_of(who)? {
        // `[vvar]` and `[vsyscall]` are the kernel's and refuse to be read.
        if mapping.name.starts_with("[v") {
            continue;
        }
        let place = place_of(&mapping);
        for run in runs_with_content(&mapping, pagemap.as_ref()) {
            findings.scan_run(&memory, run, needles, place);
        }
    }
    Ok(findings)
}

fn place_of(mapping: &Mapping) -> Place {
    if mapping.has("dd") {
        Place::SecretHeap
    } else if mapping.name == "[stack]" {
        Place::Stack
    } else if mapping.name.starts_with('/') {
        Place::Image
    } else {
        Place::Heap
    }
}

/// The parts of a mapping to read: all of it where the process may read it, else the pages with content.
fn runs_with_content(mapping: &Mapping, pagemap: Option<&File>) -> Vec<Range<usize>> {
    // `PROT_NONE` memory of which nothing is resident may be terabytes: do not look at each page.
    if !mapping.is_readable() && !mapping.is_populated() {
        return Vec::new();
    }
    let Some(pagemap) = pagemap else { return readable_only(mapping) };
    let mut entries = vec![0_u8; CHUNK_BYTES];
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut address = mapping.range.start;
    while address < mapping.range.end {
        let wanted = ((mapping.range.end - address) / PAGE_BYTES * 8).min(entries.len());
        let Ok(got) = pagemap.read_at(&mut entries[..wanted], (address / PAGE_BYTES * 8) as u64) else {
            return readable_only(mapping);
        };
        if got < 8 {
            return readable_only(mapping);
        }
        for entry in entries[..got].chunks_exact(8) {
            let entry = u64::from_le_bytes(entry.try_into().expect("a chunk of eight"));
            // Pages of a file that nobody touched are not present here, and no secret is in them.
            if entry & PAGEMAP_HAS_CONTENT != 0 {
                match runs.last_mut() {
                    Some(last) if last.end == address => last.end += PAGE_BYTES,
                    _ => runs.push(address..address + PAGE_BYTES),
                }
            }
            address += PAGE_BYTES;
        }
    }
    runs
}

fn readable_only(mapping: &Mapping) -> Vec<Range<usize>> {
    if mapping.is_readable() { vec![mapping.range.clone()] } else { Vec::new() }
}

impl Findings {
    fn scan_run(&mut self, memory: &File, run: Range<usize>, needles: &Needles, place: Place) {
        let mut buffer = vec![0_u8; CHUNK_BYTES];
        let mut carried = 0;
        let mut address = run.start;
        while address < run.end {
            let wanted = (run.end - address).min(CHUNK_BYTES - carried);
            let Ok(got @ 1..) = memory.read_at(&mut buffer[carried..carried + wanted], address as u64) else {
                // A guard page: nothing can be read, so nothing is there. On with the next page.
                address = (address / PAGE_BYTES + 1) * PAGE_BYTES;
                carried = 0;
                continue;
            };
            let base = address - carried;
            let filled = carried + got;
            needles.find(&buffer[..filled], |offset, needle| {
                self.hits.push(Hit { address: base + offset, needle, place });
            });
            self.read_bytes += got;
            carried = filled.min(WINDOW_BYTES - 1);
            buffer.copy_within(filled - carried..filled, 0);
            address += got;
        }
    }
}
