//! One small `Copy` error: which operation, what the system said, and what to do about it.

use core::fmt;

/// The step that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Reserving address space (`mmap`).
    Reserve,
    /// Making reserved pages usable (`mprotect`).
    Commit,
    /// Changing the access to pages (`mprotect`).
    Protect,
    /// Making guard pages (`MADV_GUARD_INSTALL` or `mprotect`).
    Guard,
    /// Locking pages in RAM (`mlock2`).
    Lock,
    /// Pinning pages (an io_uring fixed buffer).
    Pin,
    /// Telling the kernel how to treat pages (`madvise`).
    Advise,
    /// Reading random bytes (`getrandom`).
    Random,
    /// Allocating a block.
    Allocate,
    /// Preparing a thread's signals for a scope (`sigaltstack`, `sigaction`).
    SignalStack,
    /// Reading the file of a secret (`open`, `read`).
    ReadFile,
    /// Moving bytes between a buffer and a file (io_uring).
    Transfer,
    /// Letting devices reach memory through an IOMMU (VFIO).
    Iommu,
    /// Sending and receiving packets (AF_XDP).
    Xdp,
    /// Initialising a value: the caller's own closure refused.
    Initialize,
    /// Making hidden memory (`memfd_secret`).
    Hide,
    /// Choosing how secrets are kept.
    Choose,
    /// Taking a memory protection key, or giving it to pages (`pkey_alloc`, `pkey_mprotect`).
    ProtectionKey,
}

/// What went wrong. Never allocates, fits in three words, and says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Error {
    /// The limit of locked memory (`RLIMIT_MEMLOCK`) is used up.
    LockLimit {
        /// Bytes that this operation had to lock.
        needed_bytes: usize,
        /// The soft limit in force, in bytes.
        limit_bytes: usize,
    },
    /// The limit of pinned memory is used up: `RLIMIT_MEMLOCK`, against which io_uring and AF_XDP count what all
    /// processes of the user pin, apart from what they lock.
    PinLimit {
        /// Bytes that this operation had to pin.
        needed_bytes: usize,
        /// The soft limit in force, in bytes.
        limit_bytes: usize,
    },
    /// Memory cannot be pinned, since io_uring is not to be had here.
    NoPins {
        /// The `errno` that the system gave: `EPERM` where it is forbidden, `ENOSYS` where there is none.
        errno: i32,
    },
    /// A file cannot be read past the page cache ([`SecretFile`](crate::dma::SecretFile)): its file system has no
    /// `O_DIRECT`, or lives in the cache, or it is no regular file.
    CacheOnly,
    /// A ring has as many transfers under way as it has places for: wait for one first.
    TooManyTransfers {
        /// Places for transfers.
        limit: u32,
    },
    /// A ring has as many buffers registered as it has places for: drop one first, or make it larger.
    TooManyBuffers {
        /// Places for buffers.
        limit: u32,
    },
    /// The system's pool of huge pages (`vm.nr_hugepages`) has too few.
    HugePages {
        /// Bytes of huge pages that this operation needed.
        needed_bytes: usize,
    },
    /// The limit of address space (`RLIMIT_AS`), or the machine's memory, is used up.
    AddressSpace {
        /// Bytes that this operation had to reserve or commit.
        needed_bytes: usize,
    },
    /// The range of addresses that this heap reserved is used up.
    HeapFull {
        /// Bytes reserved for the heap.
        reserved_bytes: usize,
    },
    /// The process has as many mappings as it may (`vm.max_map_count`), or the kernel has no memory for more.
    MappingLimit,
    /// The secret stayed with the process that made it: this one is a child made by `fork(2)`.
    LeftBehind,
    /// There is no hidden memory to be had ([`Backing::Hidden`](crate::Backing::Hidden)).
    CannotHide {
        /// The `errno` that the system gave: `ENOSYS` where it has none or it is switched off.
        errno: i32,
    },
    /// This must be chosen before the first secret of the process.
    TooLate,
    /// The kernel refused a hint ([`GuardedPages::advise`](crate::GuardedPages::advise)).
    Refused(Refusal),
    /// No memory for devices behind an IOMMU, or not this memory (`dma::vfio`).
    Iommu(IommuRefusal),
    /// AF_XDP cannot do what was asked (`dma::xdp`).
    Xdp(XdpRefusal),
    /// More threads use the heap at once than it has places for.
    TooManyThreads {
        /// Places for threads.
        limit: usize,
    },
    /// The size or the alignment asked for exceeds what can be allocated.
    TooLarge,
    /// The CPU or the kernel has no memory protection keys, or no two of them are free (`pkeys(7)`).
    NoProtectionKey {
        /// The `errno` that the system gave: `ENOSPC` where keys are used up or the CPU has none, `ENOSYS` or
        /// `EINVAL` where the kernel has none.
        errno: i32,
    },
    /// The system refused for a reason of its own.
    Os {
        /// The step that failed.
        operation: Operation,
        /// The `errno` that the system gave.
        errno: i32,
    },
}

/// Why the kernel refused a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// The memory is locked, and this hint is not for locked memory.
    Locked,
    /// Nothing there is as long, or aligned, as a huge page.
    NoHugePageFits,
    /// Pages are pinned or in use and cannot be moved.
    CannotMove,
    /// The memory is hidden ([`Backing::Hidden`](crate::Backing::Hidden)), and stays as it is.
    Hidden,
    /// There is no memory for it, or no huge page.
    NoMemory,
    /// This kernel does not know the hint, or was built without what it asks for.
    Unknown,
    /// Anything else, with the `errno` that the system gave.
    Other(i32),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Locked => "the memory is locked",
            Self::NoHugePageFits => "no huge page fits there",
            Self::CannotMove => "its pages are pinned or in use",
            Self::Hidden => "the memory is hidden",
            Self::NoMemory => "no memory, or no huge page, is free for it",
            Self::Unknown => "this kernel does not know it, or was built without it",
            Self::Other(errno) => return write!(f, "errno {errno}"),
        })
    }
}

/// Why devices behind an IOMMU cannot be used, or memory not be mapped for them (`dma::vfio`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IommuRefusal {
    /// What was given is not the address of a PCI device.
    NotAnAddress,
    /// The kernel has no VFIO, or its modules are not loaded.
    NoVfio,
    /// The device has no group in `/dev/vfio`, only iommufd's own interface (a kernel without `CONFIG_VFIO_GROUP`).
    OnlyIommufd,
    /// The device is not there, or no IOMMU has it.
    NoGroup,
    /// No device of the group is bound to the driver `vfio-pci`.
    NoDriver {
        /// The number of the group.
        group: u32,
    },
    /// Another device of the group has another driver, which would share what is mapped.
    NotViable {
        /// The number of the group.
        group: u32,
    },
    /// Somebody else has the group.
    InUse {
        /// The number of the group.
        group: u32,
    },
    /// The process may not open `/dev/vfio/vfio`, `/dev/iommu` in its place, or the group.
    NotPermitted,
    /// The machine does not remap interrupts, so a device could forge them.
    UnsafeInterrupts,
    /// The device is not in a group of the container, or has no such registers.
    NoSuchDevice,
    /// The device cannot be reset.
    NoReset,
    /// The address is not the start of a page, or beyond what the IOMMU or the registers reach.
    OutOfReach,
    /// Something is mapped there.
    Taken,
    /// No free addresses are left that the devices know.
    NoSpace,
    /// The container has as many mappings as it may.
    TooManyMappings,
    /// A mapping could not be ended: its buffer is quarantined.
    NotUnmapped {
        /// The `errno` that the system gave; `ENOENT` where something else was mapped there.
        errno: i32,
    },
}

impl fmt::Display for IommuRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::NotAnAddress => "no address of a PCI device: it has the form 0000:00:04.0",
            Self::NoVfio => "the kernel has no VFIO: load its modules (`modprobe vfio-pci`)",
            Self::OnlyIommufd => {
                "the kernel offers the device by iommufd's own interface only: it needs CONFIG_VFIO_GROUP"
            }
            Self::NoGroup => {
                "no such device, or no IOMMU has it: turn the IOMMU on in the firmware and on the kernel's command line \
                 (`intel_iommu=on`)"
            }
            Self::NoDriver { group } => {
                return write!(f, "no device of IOMMU group {group} is bound to vfio-pci");
            }
            Self::NotViable { group } => {
                return write!(
                    f,
                    "IOMMU group {group} is not viable: unbind every other device of it from its driver, or bind it to \
                     vfio-pci"
                );
            }
            Self::InUse { group } => return write!(f, "somebody else uses IOMMU group {group}"),
            Self::NotPermitted => "no permission for /dev/vfio/vfio (or /dev/iommu in its place) or for the group in /dev/vfio",
            Self::UnsafeInterrupts => {
                "the machine does not remap interrupts, so that the devices could forge them (see \
                 vfio_iommu_type1.allow_unsafe_interrupts, iommufd.allow_unsafe_interrupts)"
            }
            Self::NoSuchDevice => "no such device in the container, or no such registers",
            Self::NoReset => "the device cannot be reset",
            Self::OutOfReach => "not the start of a page, or out of reach",
            Self::Taken => "something is mapped at that address",
            Self::NoSpace => "no free addresses are left that the devices know",
            Self::TooManyMappings => {
                "the container has as many mappings as it may: see vfio_iommu_type1.dma_entry_limit"
            }
            Self::NotUnmapped { errno } => {
                return write!(f, "a mapping could not be ended (errno {errno}): its buffer is never used again");
            }
        })
    }
}

/// Why AF_XDP cannot do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum XdpRefusal {
    /// The kernel has none, or is too old.
    Missing,
    /// The process may not attach programs to interfaces.
    NoRightToProgram,
    /// The process may not make such sockets.
    NoRightToSocket,
    /// There is no interface of that name.
    NoInterface,
    /// The interface has no queue of that number.
    NoQueue,
    /// The interface has a program already.
    ProgramBusy,
    /// The queue has a socket already.
    QueueBusy,
    /// The driver does not run programs.
    NoDriverMode,
    /// The driver cannot do without a copy.
    NoZeroCopy,
    /// The interface takes packets that are too large for a program.
    PacketsTooLarge,
    /// The interface is down, or gone.
    InterfaceDown,
    /// Every frame to send is in use.
    NoFrame,
    /// The kernel did not let go of the memory, which is left alone for good.
    Quarantined,
}

impl fmt::Display for XdpRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => {
                "this kernel lacks it; it needs Linux 5.9 with CONFIG_XDP_SOCKETS and CONFIG_BPF_SYSCALL"
            }
            Self::NoRightToProgram => {
                "attaching a program to an interface is refused; it takes CAP_NET_ADMIN and CAP_BPF (before Linux 5.8 \
                 CAP_SYS_ADMIN), and a sandbox that lets bpf(2) pass"
            }
            Self::NoRightToSocket => {
                "making a socket is refused; it takes CAP_NET_RAW, and a sandbox that lets AF_XDP pass"
            }
            Self::NoInterface => "no interface of that name in this network namespace",
            Self::NoQueue => "the interface has no such queue, or is in another network namespace (`ethtool -l`)",
            Self::ProgramBusy => "the interface has a program already, or one of the other mode (`ip link`)",
            Self::QueueBusy => "the queue has a socket already",
            Self::NoDriverMode => "the driver runs no programs; use the generic mode",
            Self::NoZeroCopy => "the driver cannot do without a copy; use Transfer::Copy",
            Self::PacketsTooLarge => "the interface, or its peer, takes packets that are too large; lower its MTU",
            Self::InterfaceDown => "the interface is down or gone",
            Self::NoFrame => "every frame to send is in use; transmit, and wait for the kernel",
            Self::Quarantined => {
                "the kernel did not let go of the memory, since another process has the socket; it is left alone for \
                 good, wiped"
            }
        })
    }
}

impl Error {
    /// The step that failed.
    #[must_use]
    pub const fn operation(self) -> Operation {
        match self {
            Self::LockLimit { .. } => Operation::Lock,
            Self::PinLimit { .. } | Self::NoPins { .. } | Self::TooManyBuffers { .. } => Operation::Pin,
            Self::TooManyTransfers { .. } => Operation::Transfer,
            Self::CacheOnly => Operation::ReadFile,
            Self::AddressSpace { .. } | Self::HugePages { .. } => Operation::Reserve,
            Self::CannotHide { .. } => Operation::Hide,
            Self::TooLate => Operation::Choose,
            Self::Refused(_) => Operation::Advise,
            Self::Iommu(_) => Operation::Iommu,
            Self::Xdp(_) => Operation::Xdp,
            Self::MappingLimit | Self::LeftBehind => Operation::Protect,
            Self::HeapFull { .. } | Self::TooManyThreads { .. } | Self::TooLarge => Operation::Allocate,
            Self::NoProtectionKey { .. } => Operation::ProtectionKey,
            Self::Os { operation, .. } => operation,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reserve => "reserving address space",
            Self::Commit => "committing pages",
            Self::Protect => "protecting pages",
            Self::Guard => "making guard pages",
            Self::Lock => "locking pages",
            Self::Pin => "pinning pages",
            Self::Advise => "advising the kernel",
            Self::Random => "reading random bytes",
            Self::Allocate => "allocating",
            Self::SignalStack => "preparing the signal stack",
            Self::ReadFile => "reading a file",
            Self::Transfer => "transferring",
            Self::Iommu => "mapping for devices",
            Self::Xdp => "using AF_XDP",
            Self::Initialize => "initialising a secret",
            Self::Hide => "hiding memory",
            Self::Choose => "choosing how secrets are kept",
            Self::ProtectionKey => "taking a protection key",
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::LockLimit { needed_bytes, limit_bytes } => write!(
                f,
                "cannot lock {needed_bytes} more bytes: RLIMIT_MEMLOCK is {limit_bytes} bytes; raise it with \
                 `ulimit -l`, `LimitMEMLOCK=` in a systemd unit or `--ulimit memlock=` for a container"
            ),
            Self::PinLimit { needed_bytes, limit_bytes } => write!(
                f,
                "cannot pin {needed_bytes} more bytes: RLIMIT_MEMLOCK is {limit_bytes} bytes, against which the \
                 kernel counts the pins of all processes of the user, apart from locks; raise it with `ulimit -l`, \
                 `LimitMEMLOCK=` in a systemd unit or `--ulimit memlock=` for a container"
            ),
            Self::NoPins { errno } => write!(
                f,
                "io_uring, which pins memory, is refused (errno {errno}); see `sysctl kernel.io_uring_disabled` and \
                 the seccomp profile of the container, or allow memory that is locked only"
            ),
            Self::CacheOnly => f.write_str(
                "the file cannot be read past the page cache: keep it on a disk whose file system has O_DIRECT, or read \
                 it in the usual way and accept the copy",
            ),
            Self::TooManyTransfers { limit } => {
                write!(f, "the ring has {limit} transfers under way, and no place for more: wait for one")
            }
            Self::TooManyBuffers { limit } => {
                write!(f, "the ring has {limit} buffers registered, and no place for more: drop one")
            }
            Self::HugePages { needed_bytes } => write!(
                f,
                "not enough huge pages for {needed_bytes} bytes: raise vm.nr_hugepages (`sysctl vm.nr_hugepages=`)"
            ),
            Self::AddressSpace { needed_bytes } => write!(
                f,
                "cannot map {needed_bytes} more bytes: raise RLIMIT_AS (`ulimit -v`) or free memory"
            ),
            Self::HeapFull { reserved_bytes } => {
                write!(f, "the {reserved_bytes} bytes of addresses reserved for this heap are used up")
            }
            Self::MappingLimit => f.write_str(
                "no further mapping to be had: raise vm.max_map_count (`sysctl vm.max_map_count=`) or hold fewer \
                 secrets open at once",
            ),
            Self::LeftBehind => {
                f.write_str("the secret stayed in the process that made it; a forked child has only zeros")
            }
            Self::CannotHide { errno } => write!(
                f,
                "no hidden memory (errno {errno}): memfd_secret needs Linux 5.14 with CONFIG_SECRETMEM, before 6.5 \
                 `secretmem.enable=1` on the kernel's command line, and a sandbox that lets it pass"
            ),
            Self::TooLate => f.write_str("must be chosen before the first secret of the process"),
            Self::Xdp(refusal) => write!(f, "AF_XDP: {refusal}"),
            Self::Refused(refusal) => write!(f, "the kernel refused the hint: {refusal}"),
            Self::Iommu(refusal) => refusal.fmt(f),
            Self::TooManyThreads { limit } => {
                write!(f, "more than {limit} threads use this heap at once")
            }
            Self::NoProtectionKey { errno } => write!(
                f,
                "no memory protection keys (errno {errno}): the CPU or the kernel has none, or no two of its 15 \
                 are free; use `Seal::Pages`"
            ),
            Self::TooLarge => f.write_str("size or alignment too large"),
            Self::Os { operation, errno } => write!(f, "{operation} failed with errno {errno}"),
        }
    }
}

impl core::error::Error for Error {}

const _: () = assert!(size_of::<Error>() <= 3 * size_of::<usize>());
