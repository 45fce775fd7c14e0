//! Settings of the whole machine that a test needs, put back when it ends, passed or not. Only root can.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use super::pages::PAGE_BYTES;

/// Tests that move memory about or change a setting of the machine, against those that this would disturb: the harness
/// runs the tests of a binary beside each other, binaries one after the other.
static MACHINE: RwLock<()> = RwLock::new(());

/// For a test that disturbs others.
pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// For a test that such a one would disturb.
pub(crate) fn beside_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Swap space, as long as this lives.
pub(crate) struct Swap(Space);

enum Space {
    /// A compressed disk in memory that nobody used (`zram0`). What is written there is written at once.
    Zram,
    /// A file.
    File(PathBuf),
}

const ZRAM: &str = "/sys/block/zram0";

impl Swap {
    /// Makes swap space of this size, and takes it into use.
    pub(crate) fn on(bytes: usize) -> io::Result<Self> {
        let is_free = |path: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == "0");
        let space = if is_free(&format!("{ZRAM}/disksize")) && Path::new("/dev/zram0").exists() {
            fs::write(format!("{ZRAM}/disksize"), bytes.to_string())?;
            Space::Zram
        } else {
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
            Space::File(folder.join(format!("swap-{}", std::process::id())))
        };
        let swap = Self(space);
        let mut options = OpenOptions::new();
        options.write(true).create(matches!(swap.0, Space::File(_))).mode(0o600);
        let file = options.open(swap.path())?;
        if let Space::File(_) = swap.0 {
            // A file with holes is refused.
            let zeros = vec![0; 1 << 20];
            for at in (0..bytes).step_by(zeros.len()) {
                file.write_all_at(&zeros, at as u64)?;
            }
        }
        // `union swap_header`, linux/swap.h: version and last page, and the mark at the end of the first page.
        file.write_all_at(&1_u32.to_ne_bytes(), 1024)?;
        file.write_all_at(&u32::try_from(bytes / PAGE_BYTES - 1).expect("small").to_ne_bytes(), 1028)?;
        file.write_all_at(b"SWAPSPACE2", PAGE_BYTES as u64 - 10)?;
        file.sync_all()?;
        drop(file);
        // SAFETY: the path ends with a NUL byte (swapon(2)).
        match unsafe { libc::swapon(swap.c_path().as_ptr(), 0) } {
            0 => Ok(swap),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Whether what is swapped out is gone from memory at once, and not in its own time.
    pub(crate) fn is_immediate(&self) -> bool {
        matches!(self.0, Space::Zram)
    }

    fn path(&self) -> &Path {
        match &self.0 {
            Space::Zram => Path::new("/dev/zram0"),
            Space::File(path) => path,
        }
    }

    fn c_path(&self) -> CString {
        CString::new(self.path().as_os_str().as_bytes()).expect("no NUL in it")
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        // SAFETY: the path ends with a NUL byte. Without effect if it was never taken into use.
        unsafe { libc::swapoff(self.c_path().as_ptr()) };
        let _ = match &self.0 {
            Space::Zram => fs::write(format!("{ZRAM}/reset"), "1"),
            Space::File(path) => fs::remove_file(path),
        };
    }
}

/// A file of `/proc/sys` or `/sys`, set to something else as long as this lives.
pub(crate) struct Setting {
    path: &'static str,
    before: String,
}

impl Setting {
    pub(crate) fn set(path: &'static str, value: &str) -> io::Result<Self> {
        let before = fs::read_to_string(path)?;
        fs::write(path, value)?;
        Ok(Self { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(self.path, self.before.trim());
    }
}

/// Huge pages added to the system's pool, as long as this lives.
pub(crate) struct HugePool {
    before: usize,
}

const POOL: &str = "/proc/sys/vm/nr_hugepages";

impl HugePool {
    /// Adds so many huge pages. An error if the kernel does not find them all within half a minute: memory may be full of
    /// small pages, which it has to move first.
    pub(crate) fn add(count: usize) -> io::Result<Self> {
        let pool = Self { before: pool_len()? };
        let wanted = pool.before + count;
        let start = Instant::now();
        loop {
            fs::write(POOL, wanted.to_string())?;
            if pool_len()? >= wanted {
                return Ok(pool);
            }
            if start.elapsed() > Duration::from_secs(30) {
                return Err(io::Error::from(io::ErrorKind::OutOfMemory));
            }
            let _ = fs::write("/proc/sys/vm/compact_memory", "1");
        }
    }
}

impl Drop for HugePool {
    fn drop(&mut self) {
        let _ = fs::write(POOL, self.before.to_string());
    }
}

fn pool_len() -> io::Result<usize> {
    fs::read_to_string(POOL)?.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Whether a file holds these bytes.
pub(crate) fn file_contains(path: &Path, needle: &[u8]) -> io::Result<bool> {
    let file = File::open(path)?;
    let mut window = vec![0; (4 << 20) + needle.len()];
    let mut at = 0;
    loop {
        let got = file.read_at(&mut window, at)?;
        if got < needle.len() {
            return Ok(false);
        }
        if window[..got].windows(needle.len()).any(|bytes| bytes == needle) {
            return Ok(true);
        }
        at += (got - needle.len() + 1) as u64;
    }
}
