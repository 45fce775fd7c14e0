//! The kernel moves pages from one memory node to another: not those of a buffer, and what it left behind of a locked
//! page is found from outside.

use std::io;
use std::time::Duration;

use oubliette::{DmaBuffer, dma::Pinning};

use crate::check::{Check, Ended, Outcome, Patience, require};
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

/// Asks the kernel to move every page of a range to a node: how many are there that were on another before.
fn move_to(node: i32, start: usize, len: usize) -> io::Result<usize> {
    let before = nodes_of(start, len)?;
    let nodes = vec![node; before.len()];
    let after = move_pages(start, Some(&nodes), before.len(), MOVE_ALL)?;
    Ok(before.iter().zip(&after).filter(|(before, after)| **before != node && **after == node).count())
}

/// The node of each page, as the kernel tells.
fn nodes_of(start: usize, len: usize) -> io::Result<Vec<i32>> {
    move_pages(start, None, len.div_ceil(PAGE), 0)
}

/// move_pages(2): moves so many pages to these nodes, or nothing without, and tells the node of each.
fn move_pages(start: usize, nodes: Option<&[i32]>, count: usize, flags: i32) -> io::Result<Vec<i32>> {
    let addresses: Vec<usize> = (0..count).map(|index| start + index * PAGE).collect();
    assert!(nodes.is_none_or(|nodes| nodes.len() == count));
    let mut status = vec![-1_i32; count];
    // SAFETY: the kernel reads the two tables, or one, and writes the third, all of them of this length. It moves
    // contents as they are (move_pages(2)).
    let code = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            count,
            addresses.as_ptr(),
            nodes.map_or(std::ptr::null(), <[i32]>::as_ptr),
            status.as_mut_ptr(),
            flags,
        )
    };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(status) }
}

/// Moves every page of a range that nothing holds for long to a node: again, for as long as something has one of them
/// just then, as a compaction that runs beside does.
fn move_all_to(node: i32, start: usize, len: usize) -> Outcome {
    let mut patience = Patience::new(Duration::from_secs(10));
    loop {
        move_to(node, start, len)?;
        let mut nodes = nodes_of(start, len)?;
        nodes.retain(|there| *there != node);
        if nodes.is_empty() {
            return Ok(());
        }
        require(patience.is_left(), || {
            format!("control: {} pages do not move to node {node}: {}", nodes.len(), nodes[0])
        })?;
    }
}

/// Stops the kernel from moving pages to where their thread runs, and from marking them for that: a page that is marked
/// and not touched since does not exist for move_pages(2) (Linux 6.1).
fn without_balancing() {
    let _ = std::fs::write("/proc/sys/kernel/numa_balancing", "0");
}

fn frames_of(start: usize, len: usize) -> Vec<u64> {
    pages::frames_of(start, len).expect("all of it is in memory, and root may ask")
}

/// A mapping that is locked, and nothing else, all of it on node 0: the thread that makes it may change nodes meanwhile.
fn locked(len: usize, seed: u64) -> Result<&'static mut [u8], Ended> {
    let start = pages::map(len);
    pages::advise(start.addr(), len, libc::MADV_NOHUGEPAGE).expect("it is ours");
    // SAFETY: mapped above.
    assert_eq!(unsafe { libc::mlock(start.cast(), len) }, 0, "root may lock");
    move_all_to(0, start.addr(), len)?;
    // SAFETY: mapped above, and never unmapped.
    let bytes = unsafe { std::slice::from_raw_parts_mut(start, len) };
    pattern::fill(bytes, seed);
    Ok(bytes)
}

/// Everything that moves pages, in turn: from node to node and back, compaction, into huge pages.
fn move_about(start: usize, len: usize) -> usize {
    let mut moved = 0;
    for node in [1, 0, 1, 0] {
        moved += move_to(node, start, len).unwrap_or(0);
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
    without_balancing();
    let mut buffer = DmaBuffer::new(LARGE)?;
    require(matches!(buffer.pinning(), Pinning::Pinned(_)), || "not pinned".to_owned())?;
    pattern::fill(&mut buffer[..FILLED], 21);
    let start = buffer.as_ptr().addr();
    let before = frames_of(start, LARGE);
    let moved = move_about(start, LARGE);
    require(frames_of(start, LARGE) == before, || format!("frames changed; {moved} pages were moved"))?;
    require(moved == 0, || format!("the kernel says that it moved {moved} pages"))?;
    require(pattern::matches(&buffer[..FILLED], 21), || "the content changed".to_owned())?;

    let control = locked(BYTES, 22)?;
    let start = control.as_ptr().addr();
    let before = frames_of(start, BYTES);
    move_all_to(1, start, BYTES)?;
    let changed =
        frames_of(start, BYTES).iter().zip(&before).filter(|(after, before)| after != before).count();
    println!("control: {changed} of {} locked pages are in other frames", before.len());
    require(changed == before.len(), || format!("control: {changed} changed"))
}

/// Moved about, then wiped: the search from outside finds no copy of a buffer, and finds those of a locked mapping.
fn copies() -> Outcome {
    const BUFFER_SEED: u64 = 0x0b0f;
    const CONTROL_SEED: u64 = 0x10c4;
    without_balancing();
    let mut buffer = DmaBuffer::new(BYTES)?;
    pattern::fill(&mut buffer, BUFFER_SEED);
    move_about(buffer.as_ptr().addr(), BYTES);
    drop(buffer);

    let control = locked(BYTES, CONTROL_SEED)?;
    move_all_to(1, control.as_ptr().addr(), BYTES)?;
    oubliette::wipe(control);

    let name = "moves_leave_no_copy_of_a_buffer";
    report::search(name, BUFFER_SEED, BYTES, Copies::None, "a DmaBuffer, moved about and wiped");
    report::search(name, CONTROL_SEED, BYTES, Copies::Some, "control: locked memory, moved and wiped");
    Ok(())
}
