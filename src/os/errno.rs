//! The system's own error number, kept as a value.

/// An `errno` as the system gave it. No text is built from it here; [`Error`](crate::Error) does that
/// when somebody prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Errno(pub(crate) i32);

/// The result of a primitive of the contract.
pub(crate) type Result<T> = core::result::Result<T, Errno>;

impl Errno {
    /// Refused: what some sandboxes answer, and the permissions of a file.
    pub(crate) const ACCES: Self = Self(libc::EACCES);
    /// Try again: for `mmap` under `mlockall(MCL_FUTURE)` the limit of locked memory.
    pub(crate) const AGAIN: Self = Self(libc::EAGAIN);
    /// Taken back before it was done.
    #[allow(dead_code, reason = "for transfers, which are a feature")]
    pub(crate) const CANCELED: Self = Self(libc::ECANCELED);
    /// Not an open descriptor.
    pub(crate) const BADF: Self = Self(libc::EBADF);
    /// An address that is taken.
    #[cfg(feature = "vfio")]
    pub(crate) const ADDRINUSE: Self = Self(libc::EADDRINUSE);
    /// In use: for `msync`, locked.
    pub(crate) const BUSY: Self = Self(libc::EBUSY);
    /// Something is there already.
    pub(crate) const EXIST: Self = Self(libc::EEXIST);
    /// Interrupted by a signal.
    pub(crate) const INTR: Self = Self(libc::EINTR);
    /// The other side does not answer, or gives less than asked for.
    #[cfg(feature = "vfio")]
    pub(crate) const IO: Self = Self(libc::EIO);
    /// Invalid argument, which for `madvise` also means an unknown hint.
    pub(crate) const INVAL: Self = Self(libc::EINVAL);
    /// Out of memory, of addresses, of mappings, or of a resource limit.
    pub(crate) const NOMEM: Self = Self(libc::ENOMEM);
    /// Too long a name.
    #[cfg(feature = "vfio")]
    pub(crate) const NAMETOOLONG: Self = Self(libc::ENAMETOOLONG);
    /// No such device, or no such interface.
    #[cfg(any(feature = "vfio", feature = "xdp"))]
    pub(crate) const NODEV: Self = Self(libc::ENODEV);
    /// No such file, or nothing there.
    #[cfg(feature = "vfio")]
    pub(crate) const NOENT: Self = Self(libc::ENOENT);
    /// No room in a table.
    pub(crate) const NOSPC: Self = Self(libc::ENOSPC);
    /// No such system call.
    pub(crate) const NOSYS: Self = Self(libc::ENOSYS);
    /// Not for such memory.
    pub(crate) const OPNOTSUPP: Self = Self(libc::EOPNOTSUPP);
    /// The time is up.
    #[allow(dead_code, reason = "for transfers, which are a feature")]
    pub(crate) const TIME: Self = Self(libc::ETIME);
    /// Not an operation of this kind of file.
    #[cfg(feature = "vfio")]
    pub(crate) const NOTTY: Self = Self(libc::ENOTTY);
    /// Not permitted.
    pub(crate) const PERM: Self = Self(libc::EPERM);

    /// The error of the system call that this thread made last. Reads `errno`, allocates nothing.
    pub(super) fn last() -> Self {
        Self(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL))
    }
}
