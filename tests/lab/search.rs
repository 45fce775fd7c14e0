//! The host's side: looks for a secret in the memory that a guest left behind.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};

use crate::support::pattern;

const PAGE_BYTES: usize = 4096;
/// Runs of the secret that are looked for begin at multiples of this, in the secret and in memory: a page that
/// was moved, copied or swapped keeps that.
const STEP_BYTES: usize = 16;

/// The secret that is looked for, in pieces.
pub(crate) struct Needle {
    pieces: HashSet<[u8; STEP_BYTES]>,
    /// Whether a piece begins with these three bytes, so that most places cost one look.
    starts: Vec<bool>,
}

impl Needle {
    pub(crate) fn new(seed: u64, bytes: usize) -> Self {
        let secret = pattern::secret(seed, bytes);
        let pieces = secret.chunks_exact(STEP_BYTES).map(|piece| piece.try_into().expect("of this length"));
        let pieces: HashSet<[u8; STEP_BYTES]> = pieces.collect();
        let mut starts = vec![false; 1 << 24];
        for piece in &pieces {
            starts[start_of(piece)] = true;
        }
        Self { pieces, starts }
    }

    /// How many pages of a file hold a piece of the secret.
    pub(crate) fn pages_in(&self, path: &str) -> io::Result<usize> {
        let mut file = File::open(path)?;
        let mut chunk = vec![0; PAGE_BYTES << 8];
        let mut pages = 0;
        loop {
            let got = read_full(&mut file, &mut chunk)?;
            if got == 0 {
                return Ok(pages);
            }
            pages += chunk[..got].chunks(PAGE_BYTES).filter(|page| self.is_in(page)).count();
        }
    }

    fn is_in(&self, page: &[u8]) -> bool {
        const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
        let mut pieces = page.chunks_exact(STEP_BYTES);
        *page != ZEROS[..page.len()]
            && pieces.any(|piece| self.starts[start_of(piece)] && self.pieces.contains(piece))
    }
}

fn start_of(piece: &[u8]) -> usize {
    usize::from(piece[0]) | usize::from(piece[1]) << 8 | usize::from(piece[2]) << 16
}

fn read_full(file: &mut File, chunk: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < chunk.len() {
        match file.read(&mut chunk[got..])? {
            0 => break,
            more => got += more,
        }
    }
    Ok(got)
}
