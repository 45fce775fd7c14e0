//! The frames of a buffer stay the same, whatever makes the kernel move memory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oubliette::dma::HugePages;
use oubliette::{DmaBuffer, Error};

use crate::support::child::{self, Role};
use crate::support::fork::{ChildEnd, in_child};
use crate::support::machine::{alone, beside_others};
use crate::support::pages::{
    HUGE_PAGE_BYTES, PAGE_BYTES, advise, collapse, collapse_in_time, frame_of, map, mapping_at,
};
use crate::support::{limits, skip};

pub(super) const ROLES: &[Role] =
    &[("dma memory pressure", under_pressure), ("dma explicit huge pages", explicit_huge_pages)];

const BYTES: usize = 2 * HUGE_PAGE_BYTES;

/// The frames of a range; nothing without the right to see them.
fn frames(start: usize) -> Option<Vec<u64>> {
    (0..BYTES / PAGE_BYTES).map(|page| frame_of(start + page * PAGE_BYTES)).collect()
}

/// A pinned buffer that holds something, and its frames; says so where that cannot be had.
fn pinned() -> Option<(DmaBuffer, Vec<u64>)> {
    let mut buffer = match DmaBuffer::new(BYTES) {
        Ok(buffer) => buffer,
        Err(error) => {
            skip::not_set_up(&format!("no pinned buffer: {error}"));
            return None;
        }
    };
    buffer.fill(7);
    let Some(frames) = frames(buffer.as_ptr().addr()) else {
        skip::not_set_up("frame numbers are for root");
        return None;
    };
    Some((buffer, frames))
}

#[track_caller]
fn assert_unmoved(buffer: &DmaBuffer, before: &[u64]) {
    let after = frames(buffer.as_ptr().addr()).unwrap();
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    assert_eq!(moved, 0, "pages moved");
    assert!(buffer.iter().all(|byte| *byte == 7));
}

/// Memory that is locked and filled, not pinned: in small pages that may become a huge one.
fn locked() -> usize {
    let start = map(2 * BYTES).addr().next_multiple_of(HUGE_PAGE_BYTES);
    advise(start, BYTES, libc::MADV_NOHUGEPAGE).unwrap();
    // SAFETY: this range was mapped above.
    assert_eq!(unsafe { libc::mlock(start as *const libc::c_void, BYTES) }, 0);
    // SAFETY: as above; writable and this function's own.
    unsafe { std::slice::from_raw_parts_mut(start as *mut u8, BYTES) }.fill(7);
    start
}

/// The aligned huge pages of a range: where, and how many bytes.
fn huge_pages_in(start: usize) -> (usize, usize) {
    let first = start.next_multiple_of(HUGE_PAGE_BYTES);
    (first, (start + BYTES - first) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES)
}

#[test]
fn collapse_moves_locked_memory_and_no_buffer() {
    let _alone = alone();
    let Some((buffer, before)) = pinned() else { return };
    let control = locked();
    let control_before = frames(control).unwrap();
    let (start, len) = huge_pages_in(control);
    match collapse_in_time(start, len) {
        Ok(()) => assert_ne!(frames(control).unwrap(), control_before, "control: locked memory moves"),
        Err(error) => skip::not_set_up(&format!("no huge page to be had for the control: {error}")),
    }
    let (start, len) = huge_pages_in(buffer.as_ptr().addr());
    // More than once: EAGAIN can be chance.
    for _ in 0..10 {
        let refused = collapse(start, len).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EAGAIN), "pinned: {refused}");
    }
    assert_unmoved(&buffer, &before);
}

#[test]
fn compaction() {
    let _alone = alone();
    let Some((buffer, before)) = pinned() else { return };
    for _ in 0..3 {
        if let Err(error) = fs::write("/proc/sys/vm/compact_memory", "1") {
            return skip::not_set_up(&format!("compact_memory: {error}"));
        }
        assert_unmoved(&buffer, &before);
    }
}

/// A setting of the system, put back when this is dropped.
struct Setting(PathBuf, String);

impl Setting {
    fn set(path: &str, value: &str) -> io::Result<Self> {
        let before = fs::read_to_string(path)?;
        fs::write(path, value)?;
        Ok(Self(path.into(), before))
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(&self.0, self.1.trim_end());
    }
}

#[test]
fn merging_of_equal_pages() {
    const KSM: &str = "/sys/kernel/mm/ksm";
    let _alone = alone();
    let Some((buffer, before)) = pinned() else { return };
    let eager = Setting::set(&format!("{KSM}/pages_to_scan"), "20000");
    let running = Setting::set(&format!("{KSM}/run"), "1");
    let (Ok(_eager), Ok(_running)) = (eager, running) else {
        return skip::impossible("no KSM");
    };
    // All pages are alike, so nothing but the pin and the hint keeps them from being merged.
    advise(buffer.as_ptr().addr(), BYTES, libc::MADV_MERGEABLE).unwrap();
    let control = locked();
    // SAFETY: this range is the control's own.
    unsafe { libc::munlock(control as *const libc::c_void, BYTES) };
    advise(control, BYTES, libc::MADV_MERGEABLE).unwrap();
    let distinct = |start| {
        let mut frames = frames(start).unwrap();
        frames.sort_unstable();
        frames.dedup();
        frames.len()
    };
    let end = Instant::now() + Duration::from_secs(60);
    while distinct(control) > BYTES / PAGE_BYTES / 4 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(distinct(control) <= BYTES / PAGE_BYTES / 4, "control: equal pages are merged");
    assert_unmoved(&buffer, &before);
    advise(control, BYTES, libc::MADV_UNMERGEABLE).unwrap();
    advise(buffer.as_ptr().addr(), BYTES, libc::MADV_UNMERGEABLE).unwrap();
}

#[test]
fn a_child_while_the_parent_writes() {
    let _beside = beside_others();
    let Some((mut buffer, before)) = pinned() else { return };
    let (mut from, to) = io::pipe().unwrap();
    let (mut done, finish) = io::pipe().unwrap();
    let mut ends = Some((to, done.try_clone().unwrap()));
    let writer = std::thread::scope(|scope| {
        let child = scope.spawn(|| {
            in_child(|| {
                let (mut to, mut done) = ends.take().unwrap();
                std::io::Write::write_all(&mut to, b".").unwrap();
                // Alive until the parent has written.
                let _ = std::io::Read::read(&mut done, &mut [0]);
            })
        });
        std::io::Read::read_exact(&mut from, &mut [0]).unwrap();
        buffer.fill(8);
        buffer.fill(7);
        assert_unmoved(&buffer, &before);
        std::io::Write::write_all(&mut &finish, b".").unwrap();
        child.join().unwrap()
    });
    let _ = &mut done;
    assert_eq!(writer, ChildEnd::Done);
    assert_unmoved(&buffer, &before);
}

#[test]
fn huge_pages_of_the_pool() {
    if !limits::is_root() {
        return skip::not_set_up("the pool of huge pages is root's");
    }
    let _alone = alone();
    child::run("dma explicit huge pages", "").assert_success();
}

fn explicit_huge_pages(_: &str) {
    const POOL: &str = "/proc/sys/vm/nr_hugepages";
    let before: usize = fs::read_to_string(POOL).unwrap().trim().parse().unwrap();
    let _pool = Setting::set(POOL, &(before + 2).to_string()).unwrap();
    let buffer = DmaBuffer::builder(BYTES).huge_pages(HugePages::Explicit).build();
    let mut buffer = match buffer {
        Err(Error::HugePages { .. }) => {
            return skip::impossible("memory is too fragmented for two huge pages");
        }
        buffer => buffer.unwrap(),
    };
    buffer.fill(7);
    assert_eq!(buffer.huge_pages(), HugePages::Explicit);
    let mapping = mapping_at(buffer.as_ptr().addr());
    assert_eq!(mapping.range.len(), BYTES);
    let frames_before = frames(buffer.as_ptr().addr()).unwrap();
    fs::write("/proc/sys/vm/compact_memory", "1").unwrap();
    assert_unmoved(&buffer, &frames_before);
    let mut inherited = Some(buffer);
    let in_child = in_child(|| {
        let buffer = inherited.take().unwrap();
        assert!(buffer.is_empty(), "a child has none of it");
        drop(buffer);
    });
    assert_eq!(in_child, ChildEnd::Done);
    let buffer = inherited.take().unwrap();
    assert_unmoved(&buffer, &frames_before);
    drop(buffer);
    let free = fs::read_to_string("/proc/meminfo").unwrap();
    let free = free.lines().find_map(|line| line.strip_prefix("HugePages_Free:")).unwrap().trim();
    assert!(free.parse::<usize>().unwrap() >= 2, "given back: {free}");
}

/// A memory cgroup of this test, removed when it is dropped.
struct Group(PathBuf);

impl Group {
    /// With this limit; nothing where the system has none that this process may make.
    fn new(limit_bytes: usize) -> Option<Self> {
        let name = format!("oubliette-test-{}", std::process::id());
        let (root, limit) =
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
                .into_iter()
                .find(|(root, _)| Path::new(root).join("cgroup.procs").exists())?;
        let group = Self(Path::new(root).join(name));
        fs::create_dir(&group.0).ok()?;
        fs::write(group.0.join(limit), limit_bytes.to_string()).ok()?;
        Some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The kernel takes a moment to notice that the last process is gone.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn memory_pressure() {
    if !limits::is_root() {
        return skip::not_set_up("a memory cgroup is for root");
    }
    let _alone = alone();
    let Some(group) = Group::new(48 << 20) else {
        return skip::impossible("no memory cgroup to be had");
    };
    let ended = child::run("dma memory pressure", group.0.to_str().unwrap());
    ended.assert_success();
    assert!(ended.number("reclaimed_kib") > 0, "control: the group was short of memory");
}

/// In a group that has less memory than this role reads into the page cache.
fn under_pressure(group: &str) {
    fs::write(Path::new(group).join("cgroup.procs"), std::process::id().to_string()).unwrap();
    let (buffer, before) = pinned().expect("checked by the test");
    let path = std::env::temp_dir().join(format!("oubliette-pressure-{}", std::process::id()));
    const WRITTEN_BYTES: usize = 128 << 20;
    let mut file = fs::File::create_new(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let piece = vec![1; 1 << 20];
    for _ in 0..WRITTEN_BYTES / piece.len() {
        std::io::Write::write_all(&mut file, &piece).unwrap();
        file.sync_data().unwrap();
    }
    assert_unmoved(&buffer, &before);
    let usage = ["memory.usage_in_bytes", "memory.current"]
        .iter()
        .find_map(|name| fs::read_to_string(Path::new(group).join(name)).ok())
        .and_then(|text| text.trim().parse::<usize>().ok())
        .unwrap();
    println!("reclaimed_kib {}", WRITTEN_BYTES.saturating_sub(usage) / 1024);
}
