//! The kernel moves pages from one memory node to another: not those of a buffer, and what it left behind of a locked
//! page is found from outside.

use std::io;

use oubliette::{DmaBuffer, dma::Pinning};

use crate::check::{Check, Outcome, require};
use crate::report::{self, Copies};
use crate::support::{pages, pattern};

pub(crate) const CHECKS: &[Check] = &[
    Check::new("moves_leave_a_buffer_in_its_frames", frames),
    Check::new("moves_leave_no_copy_of_a_buffer", copies),
];

const PAGE: usize = pages::PAGE_BYTES;
const BYTES: usize = 1 << 20;
/// `MPOL_MF_MOVE_ALL`, linux/mempolicy.h: also what others have mapped.
const MOVE_ALL: i32 = 1 << 2;

/// Asks the kernel to move every page of a range to a node: how many it says it moved there.
fn move_to(node: i32, start: usize, len: usize) -> io::Result<usize> {
    let addresses: Vec<usize> = (start..start + len).step_by(PAGE).collect();
    let nodes = vec![node; addresses.len()];
    let mut status = vec![-1_i32; addresses.len()];
    // SAFETY: the kernel reads the two tables and writes the third, all of them of this length. It moves contents as
    // they are (move_pages(2)).
    let code = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            addresses.len(),
            addresses.as_ptr(),
            nodes.as_ptr(),
            status.as_mut_ptr(),
            MOVE_ALL,
        )
    };
    if code < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(status.iter().filter(|there| **there == node).count())
}

/// The node of a page, as the kernel tells.
fn node_of(address: usize) -> i32 {
    let mut status = -1_i32;
    // SAFETY: the kernel reads one address and writes one number; without nodes it moves nothing (move_pages(2)).
    unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            1,
            &raw const address,
            std::ptr::null::<i32>(),
            &raw mut status,
            0,
        )
    };
    status
}

fn frames_of(start: usize, len: usize) -> Vec<u64> {
    pages::frames_of(start, len).expect("all of it is in memory, and root may ask")
}

/// A mapping that is locked, and nothing else.
fn locked(len: usize, seed: u64) -> &'static mut [u8] {
    let start = pages::map(len);
    pages::advise(start.addr(), len, libc::MADV_NOHUGEPAGE).expect("it is ours");
    // SAFETY: mapped above.
    assert_eq!(unsafe { libc::mlock(start.cast(), len) }, 0, "root may lock");
    // SAFETY: mapped above, and never unmapped.
    let bytes = unsafe { std::slice::from_raw_parts_mut(start, len) };
    pattern::fill(bytes, seed);
    bytes
}

/// Everything that moves pages, in turn: from node to node and back, compaction, into huge pages.
fn move_about(start: usize, len: usize) -> usize {
    let mut moved = 0;
    for _ in 0..3 {
        let away = 1 - node_of(start);
        moved += move_to(away, start, len).unwrap_or(0);
        let _ = std::fs::write("/proc/sys/vm/compact_memory", "1");
    }
    if let Some(huge) = pages::huge_page_in(&(start..start + len)) {
        let _ = pages::collapse(huge, pages::HUGE_PAGE_BYTES);
    }
    moved
}

fn frames() -> Outcome {
    /// So that a huge page fits, aligned.
    const LARGE: usize = 4 << 20;
    const FILLED: usize = 64 << 10;
    let mut buffer = DmaBuffer::new(LARGE)?;
    require(matches!(buffer.pinning(), Pinning::Pinned(_)), || "not pinned".to_owned())?;
    pattern::fill(&mut buffer[..FILLED], 21);
    let start = buffer.as_ptr().addr();
    let before = frames_of(start, LARGE);
    let moved = move_about(start, LARGE);
    require(frames_of(start, LARGE) == before, || format!("frames changed; {moved} pages were moved"))?;
    require(moved == 0, || format!("the kernel says that it moved {moved} pages"))?;
    require(pattern::matches(&buffer[..FILLED], 21), || "the content changed".to_owned())?;

    let control = locked(BYTES, 22);
    let start = control.as_ptr().addr();
    let (before, node) = (frames_of(start, BYTES), node_of(start));
    let moved = move_to(1 - node, start, BYTES)?;
    let changed =
        frames_of(start, BYTES).iter().zip(&before).filter(|(after, before)| after != before).count();
    println!("control: {changed} of {} locked pages are in other frames", before.len());
    require(moved == before.len() && changed == before.len(), || {
        format!("control: {moved} moved, {changed} changed")
    })
}

/// Moved about, then wiped: the search from outside finds no copy of a buffer, and finds those of a locked mapping.
fn copies() -> Outcome {
    const BUFFER_SEED: u64 = 0x0b0f;
    const CONTROL_SEED: u64 = 0x10c4;
    let mut buffer = DmaBuffer::new(BYTES)?;
    pattern::fill(&mut buffer, BUFFER_SEED);
    move_about(buffer.as_ptr().addr(), BYTES);
    drop(buffer);

    let control = locked(BYTES, CONTROL_SEED);
    let start = control.as_ptr().addr();
    let moved = move_to(1 - node_of(start), start, BYTES)?;
    require(moved == BYTES / PAGE, || format!("control: {moved} pages moved"))?;
    oubliette::wipe(control);

    let name = "moves_leave_no_copy_of_a_buffer";
    report::search(name, BUFFER_SEED, BYTES, Copies::None, "a DmaBuffer, moved about and wiped");
    report::search(name, CONTROL_SEED, BYTES, Copies::Some, "control: locked memory, moved and wiped");
    Ok(())
}
