//! Files that hold secrets, read so that no copy stays in the page cache.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::DmaBuffer;
use crate::os::direct::{direct_block_bytes, drop_cached, open_direct, reopen_direct};
use crate::os::{self, Errno};
use crate::{Error, Operation, SecretVec};

/// The most that is read at once.
const MOST_BYTES: usize = 1 << 20;

/// Reads a file of a secret past the page cache: see [`SecretFile`]. The file may be opened in any way that allows
/// reading; its position is neither used nor moved.
///
/// ```no_run
/// let key = oubliette::read_into_secret(&std::fs::File::open("/etc/service/key.pem")?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// As for [`SecretFile::open`] and [`SecretFile::read`]. The file is opened once more through `/proc/self/fd`, so
/// that must be there, and its permissions must still allow it.
pub fn read_into_secret(file: impl AsFd) -> Result<SecretVec<u8>, Error> {
    SecretFile::reopen(file.as_fd())?.read()
}

/// A file that holds a secret.
///
/// `read(2)` leaves a copy of a file in the page cache, unlocked and not wiped, where it stays after the
/// program that read it has wiped its own. This one reads by `O_DIRECT`: the device writes into a
/// [`DmaBuffer`], which is wiped when it has been copied to the secret heap.
///
/// # What it does not do
///
/// * A copy that is in the cache already, since somebody else reads the file in the usual way, or wrote it just now, is
///   dropped from the cache if nobody has it mapped, but not wiped.
/// * It does not remove the file, nor what a disk keeps of it.
/// * A file system may read through the page cache in spite of `O_DIRECT`. Those known to do so are refused: tmpfs and
///   ramfs, which are the page cache, and every file of which the kernel says so (`STATX_DIOALIGN`, Linux 6.1: encrypted and
///   journalled data).
#[derive(Debug)]
pub struct SecretFile {
    file: File,
    block_bytes: usize,
}

impl SecretFile {
    /// Opens a file.
    ///
    /// # Errors
    ///
    /// [`Error::CacheOnly`] where it cannot be read past the page cache, or is no regular file, and what the system says
    /// else.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::new(open_direct(path.as_ref()))
    }

    fn reopen(file: BorrowedFd<'_>) -> Result<Self, Error> {
        Self::new(reopen_direct(file))
    }

    fn new(opened: os::Result<File>) -> Result<Self, Error> {
        let file = opened.map_err(|errno| match errno {
            // Opened with the same flags but this one, it would be no invalid argument.
            Errno::INVAL => Error::CacheOnly,
            Errno(errno) => failed(errno),
        })?;
        if !file.metadata().map_err(|error| io_failed(&error))?.is_file() {
            return Err(Error::CacheOnly);
        }
        let block_bytes = direct_block_bytes(file.as_fd()).map_err(|errno| match errno {
            Errno::OPNOTSUPP => Error::CacheOnly,
            Errno(errno) => failed(errno),
        })?;
        Ok(Self { file, block_bytes })
    }

    /// Reads all of it, from its start to where it ends when that is reached: what others append meanwhile may be in it
    /// or not.
    ///
    /// # Errors
    ///
    /// No protected memory could be had, or reading failed; what had been read is wiped.
    pub fn read(&self) -> Result<SecretVec<u8>, Error> {
        let known = self.file.metadata().map_err(|error| io_failed(&error))?.len();
        let known = usize::try_from(known).map_err(|_| Error::TooLarge)?;
        // One byte more, so that the end is seen by the first read.
        let wanted = known.saturating_add(1).min(MOST_BYTES).checked_next_multiple_of(self.block_bytes);
        let mut buffer = DmaBuffer::builder(wanted.ok_or(Error::TooLarge)?).allow_locked_only().build()?;
        let mut secret = SecretVec::with_capacity(known)?;
        let mut offset = 0_u64;
        loop {
            let count = match self.file.read_at(&mut buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(io_failed(&error)),
                Ok(count) => count,
            };
            secret.extend_from_slice(buffer.get(..count).unwrap_or_default())?;
            // A count that is no whole number of blocks is the rest of the file: the next offset would be none that a
            // device can read from.
            if count == 0 || count.checked_rem(self.block_bytes) != Some(0) {
                break;
            }
            offset = u64::try_from(count)
                .ok()
                .and_then(|count| offset.checked_add(count))
                .ok_or(Error::TooLarge)?;
        }
        drop_cached(self.file.as_fd());
        Ok(secret)
    }
}

fn io_failed(error: &io::Error) -> Error {
    failed(error.raw_os_error().unwrap_or_default())
}

const fn failed(errno: i32) -> Error {
    Error::Os { operation: Operation::ReadFile, errno }
}
