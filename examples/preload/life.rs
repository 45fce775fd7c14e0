//! The beginning and the end of the process.

use core::ffi::CStr;
use core::fmt::{self, Write};

use crate::choice::{self, chosen};
use crate::heap;

/// Called by the dynamic loader before `main`: decides what heap there is while there is one thread.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = at_start;

/// Called by the dynamic loader at exit, after what the program registered.
#[used]
#[unsafe(link_section = ".fini_array")]
static AT_END: extern "C" fn() = at_end;

extern "C" fn at_start() {
    let _ = chosen();
}

/// Nothing that was freed stays in the caches; and what the process did with the heap is told to who asked.
extern "C" fn at_end() {
    oubliette::flush();
    if let Some(path) = choice::variable(c"OUBLIETTE_REPORT") {
        let mut line = Line { bytes: [0; 256], len: 0 };
        // What does not fit is left out.
        let _ = describe(&mut line);
        append(path, line.bytes.get(..line.len).unwrap_or(&[]));
    }
}

fn describe(line: &mut Line) -> fmt::Result {
    let policy = chosen().policy();
    let heap = oubliette::report().heap(policy).copied();
    let (blocks, peak, locked) =
        heap.map_or((0, 0, 0), |heap| (heap.live_blocks, heap.peak_bytes, heap.locked_bytes));
    writeln!(
        line,
        "{} policy {:?} {:?} blocks {blocks} peak {peak} locked {locked} foreign {}",
        std::process::id(),
        policy.flush(),
        policy.lock(),
        heap::foreign_pointers(),
    )
}

/// A line of text, as far as it fits.
struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len.checked_add(text.len()).ok_or(fmt::Error)?;
        self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Appends to a file by bare system calls: what the C library buffers may be closed already.
fn append(path: &'static CStr, bytes: &[u8]) {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
    // SAFETY: the path ends with a NUL (open(2)).
    let file = unsafe { libc::open(path.as_ptr(), flags, 0o600) };
    if file < 0 {
        return;
    }
    // One write, so that lines of several processes do not mix. There is nobody to tell of an error.
    // SAFETY: as many bytes as the slice has (write(2)).
    let _ = unsafe { libc::write(file, bytes.as_ptr().cast(), bytes.len()) };
    // SAFETY: opened above, and used by nobody else (close(2)).
    let _ = unsafe { libc::close(file) };
}
