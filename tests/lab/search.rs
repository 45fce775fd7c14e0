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
pub(crate) struct Needle(HashSet<[u8; STEP_BYTES]>);

impl Needle {
    pub(crate) fn new(seed: u64, bytes: usize) -> Self {
        let secret = pattern::secret(seed, bytes);
        Self(secret.chunks_exact(STEP_BYTES).map(|piece| piece.try_into().expect("of this length")).collect())
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
        page.chunks_exact(STEP_BYTES).any(|piece| piece != [0; STEP_BYTES] && self.0.contains(piece))
    }
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
