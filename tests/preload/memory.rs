//! What memory holds after a free, and how little of it a program may have.

use std::os::unix::process::CommandExt;

use crate::c::{self, Block};
use crate::library::{On, command, run};
use crate::support::child;
use crate::support::limits::{self, Resource};
use crate::support::pages::OwnMemory;

const BLOCKS: usize = 500;
const BLOCK_BYTES: usize = 200;

#[test]
fn freed_blocks_are_zero() {
    let ended = run(On::Preload, "freed", "");
    ended.assert_success();
    assert_eq!(ended.number("dirty"), 0);
}

#[test]
fn control_the_c_library_leaves_them() {
    let ended = run(On::CLibrary, "freed", "");
    ended.assert_success();
    assert!(ended.number("dirty") > BLOCKS / 2);
}

/// Reads each block from outside right after it was freed.
pub(crate) fn count_what_is_left(_: &str) {
    let memory = OwnMemory::open();
    let blocks: Vec<Block> = (0..BLOCKS).map(|_| c::malloc(BLOCK_BYTES)).collect();
    let mut dirty = 0;
    for block in blocks {
        // SAFETY: just allocated with this size.
        unsafe { c::fill(block, 0xa5, BLOCK_BYTES) };
        // SAFETY: allocated above, freed once.
        unsafe { c::free(block) };
        dirty += usize::from(memory.has_run_of([0xa5; 4], block.addr(), BLOCK_BYTES));
    }
    println!("dirty {dirty}");
}

const LIMIT_KIB: u64 = 200_000;

/// `ulimit -v 200000`.
#[test]
fn a_small_limit_of_addresses() {
    for on in [On::Preload, On::CLibrary] {
        let mut command = command(on, "limit", "");
        // SAFETY: only a system call is made between fork and exec.
        unsafe { command.pre_exec(|| limits::set(Resource::AddressSpace, LIMIT_KIB * 1024)) };
        let ended = child::run_command(command);
        ended.assert_success();
        assert!(ended.number("mib") >= 30, "{on:?} {ended:?}");
    }
}

/// Allocates until there is no more, in many sizes; frees all of it; allocates again.
pub(crate) fn meet_the_limit(_: &str) {
    // As much of them as of small ones.
    let large = [100_000, 1 << 20];
    let small = [16, 100, 1000, 8000];
    let mut most = 0;
    for _ in 0..3 {
        // Of its own memory: a vector could not grow when there is none left.
        let mut blocks: Vec<(Block, usize)> = Vec::with_capacity(200_000);
        let mut bytes = 0;
        for seed in 0.. {
            let size = if bytes % 2 == 0 { small[seed % small.len()] + 1 } else { large[seed % large.len()] };
            if blocks.len() == blocks.capacity() {
                break;
            }
            c::set_errno(0);
            let block = c::malloc(size);
            if block.is_null() {
                assert_eq!(c::errno(), libc::ENOMEM);
                break;
            }
            // SAFETY: just allocated with this size.
            unsafe { c::fill(block, 1, size) };
            blocks.push((block, size));
            bytes += size;
        }
        for (block, _) in blocks {
            // SAFETY: allocated above, freed once.
            unsafe { c::free(block) };
        }
        most = bytes.max(most);
    }
    println!("mib {}", most >> 20);
}
