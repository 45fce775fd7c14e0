//! Single pages: which mapping, which frame, and the calls that try to move them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::maps::{Mapping, mappings_of};

pub(crate) const PAGE_BYTES: usize = 4096;
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// The mapping of this process that holds an address.
#[track_caller]
pub(crate) fn mapping_at(address: usize) -> Mapping {
    let mappings = mappings_of("self").expect("every process may read its own smaps");
    let found = mappings.into_iter().find(|mapping| mapping.range.contains(&address));
    found.unwrap_or_else(|| panic!("{address:#x} is not mapped"))
}

/// The number of the page frame behind an address; nothing without `CAP_SYS_ADMIN`
/// (Documentation/admin-guide/mm/pagemap.rst).
pub(crate) fn frame_of(address: usize) -> Option<u64> {
    frames_of(address, PAGE_BYTES).map(|frames| frames[0])
}

/// Those of a range of pages, all of them in memory; nothing without `CAP_SYS_ADMIN`.
pub(crate) fn frames_of(start: usize, len: usize) -> Option<Vec<u64>> {
    let mut entries = vec![0; len.div_ceil(PAGE_BYTES) * 8];
    let pagemap = File::open("/proc/self/pagemap").ok()?;
    pagemap.read_exact_at(&mut entries, (start / PAGE_BYTES * 8) as u64).ok()?;
    let frames = entries.chunks_exact(8).map(|entry| {
        let entry = u64::from_le_bytes(entry.try_into().expect("a chunk of eight"));
        Some(entry & ((1 << 55) - 1)).filter(|frame| *frame != 0)
    });
    frames.collect()
}

/// Asks the kernel instead of dying: a system call that reads from a page without access is EFAULT. A marker guard
/// is refused as well.
pub(crate) fn is_readable(address: usize) -> bool {
    let mut pipe = [0; 2];
    // SAFETY: `pipe` is valid for two descriptors.
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
    // SAFETY: the kernel checks the address (write(2), EFAULT).
    let written = unsafe { libc::write(pipe[1], address as *const libc::c_void, 1) };
    for descriptor in pipe {
        // SAFETY: opened above.
        unsafe { libc::close(descriptor) };
    }
    written == 1
}

/// Writes to every page of a range that [`map`] made.
pub(crate) fn touch(mapping: *mut u8, len: usize) {
    for offset in (0..len).step_by(PAGE_BYTES) {
        // SAFETY: inside the range, which nobody else uses.
        unsafe { mapping.wrapping_add(offset).write_volatile(1) };
    }
}

/// Waits for something that the kernel does in its own time.
pub(crate) fn within_a_minute(mut is_so: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        if is_so() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    is_so()
}

/// Asks the kernel to move these pages into one huge page, now.
pub(crate) fn collapse(start: usize, len: usize) -> io::Result<()> {
    advise(start, len, libc::MADV_HUGEPAGE)?;
    advise(start, len, libc::MADV_COLLAPSE)
}

/// The same for pages that nothing holds for long: again, for as long as the kernel says that something had one of them
/// just then (EAGAIN, EBUSY, madvise(2)), as a compaction that runs beside does.
pub(crate) fn collapse_in_time(start: usize, len: usize) -> io::Result<()> {
    advise(start, len, libc::MADV_HUGEPAGE)?;
    again_while_busy(|| advise(start, len, libc::MADV_COLLAPSE))
}

/// Tries until the kernel no longer says EAGAIN or EBUSY, or half a minute is over.
pub(crate) fn again_while_busy(mut attempt: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let start = Instant::now();
    loop {
        let result = attempt();
        let is_busy = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY));
        if !result.as_ref().is_err_and(is_busy) || start.elapsed() > Duration::from_secs(30) {
            return result;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn advise(start: usize, len: usize, advice: i32) -> io::Result<()> {
    // SAFETY: the advice given here (huge pages, collapse) changes no content (madvise(2)).
    let result = unsafe { libc::madvise(start as *mut libc::c_void, len, advice) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A new private mapping, readable and writable. It stays until the end of the process.
pub(crate) fn map(len: usize) -> *mut u8 {
    // SAFETY: a new mapping at a place that the kernel chooses.
    let mapping = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(mapping, libc::MAP_FAILED);
    mapping.cast()
}

/// The first aligned huge page inside a range, if one fits.
pub(crate) fn huge_page_in(range: &std::ops::Range<usize>) -> Option<usize> {
    let start = range.start.next_multiple_of(HUGE_PAGE_BYTES);
    (start + HUGE_PAGE_BYTES <= range.end).then_some(start)
}

/// Memory of this process as the kernel sees it, whatever its protection.
pub(crate) struct OwnMemory(File);

impl OwnMemory {
    pub(crate) fn open() -> Self {
        Self(File::open("/proc/self/mem").expect("every process may read its own memory"))
    }

    /// Whether nothing but zeros can be read in a range. A page that cannot be read at all holds nothing.
    /// Allocates nothing.
    pub(crate) fn is_zero(&self, start: usize, len: usize) -> bool {
        const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
        self.all_pages(start, len, |bytes| *bytes == ZEROS[..bytes.len()])
    }

    /// Whether these four bytes can be read somewhere in a range, within a page. Allocates nothing.
    pub(crate) fn has_run_of(&self, run: [u8; 4], start: usize, len: usize) -> bool {
        !self.all_pages(start, len, |bytes| bytes.windows(4).all(|window| window != run))
    }

    fn all_pages(&self, start: usize, len: usize, is_fine: impl Fn(&[u8]) -> bool) -> bool {
        let mut buffer = [0; PAGE_BYTES];
        let mut at = start;
        while at < start + len {
            let wanted = (start + len - at).min(PAGE_BYTES - at % PAGE_BYTES);
            if let Ok(got @ 1..) = self.0.read_at(&mut buffer[..wanted], at as u64)
                && !is_fine(&buffer[..got])
            {
                return false;
            }
            at += wanted;
        }
        true
    }
}
