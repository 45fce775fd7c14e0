//! The contract of devices behind an IOMMU: containers of mappings, groups of devices, devices. The rules of
//! [`os`](super) hold here as well, but for two: these never run in an allocator callback, and descriptors are owned,
//! so they are closed on drop.

// UNSAFETY: gives a device the addresses of memory, so one function of the contract is unsafe, and forwards.
#![expect(unsafe_code, reason = "forwards raw addresses to the backend, see UNSAFETY above")]

use core::ops::Range;
use core::ptr::NonNull;
use std::ffi::OsString;
use std::os::fd::OwnedFd;

use super::{Call, Result, backend, fake};

/// What a device may do with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceAccess {
    /// Read it.
    Read,
    /// Write it. Some IOMMUs cannot forbid reading then.
    Write,
    /// Both.
    ReadWrite,
}

/// What is known of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupState {
    /// Every device of it is free of other drivers.
    pub(crate) is_viable: bool,
}

/// A part of a device, as its descriptor offers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceRegion {
    /// Where it begins in the file of the device.
    pub(crate) offset: u64,
    /// Its size in bytes; zero if the device has no such region.
    pub(crate) len: u64,
    /// Whether it can be read and written.
    pub(crate) is_accessible: bool,
}

/// A set of mappings, common to the devices of its groups.
#[derive(Debug)]
pub(crate) struct VfioContainer(pub(super) OwnedFd);

/// An IOMMU group: the devices that the IOMMU cannot tell apart.
#[derive(Debug)]
pub(crate) struct VfioGroup(pub(super) OwnedFd);

/// A device.
#[derive(Debug)]
pub(crate) struct VfioDevice(pub(super) OwnedFd);

/// The number of the IOMMU group of a PCI device, by its address as in `0000:00:04.0`.
///
/// - Result: `NOENT` where there is no such device, or no IOMMU for it.
pub(crate) fn group_of(address: &[u8]) -> Result<u32> {
    fake::gate(Call::VfioOpen)?;
    backend::vfio::group_of(address)
}

/// Whether a PCI device is there for iommufd's own interface, whatever becomes of its group: VFIO drives it, and there is
/// `/dev/iommu` (Linux 6.2).
pub(crate) fn is_given_by_iommufd(address: &[u8]) -> bool {
    backend::vfio::is_given_by_iommufd(address)
}

/// The names of the devices of a group: for PCI devices their addresses.
///
/// - Result: `NOENT` where there is no such group.
pub(crate) fn group_members(number: u32) -> Result<Vec<OsString>> {
    fake::gate(Call::VfioOpen)?;
    backend::vfio::group_members(number)
}

impl VfioContainer {
    /// An empty one, close-on-exec.
    ///
    /// - Result: `NOENT` or `NODEV` where the kernel has none, `ACCES`, `INVAL` for an interface of another version or
    ///   one without mappings of this kind (type 1, version 2).
    pub(crate) fn new() -> Result<Self> {
        fake::gate(Call::VfioOpen)?;
        backend::vfio::container_new()
    }

    /// An empty one of iommufd, which behaves as one (Linux 6.2).
    ///
    /// - Result: as for [`new`](Self::new), and `NOTTY` where something else is in its place.
    pub(crate) fn of_iommufd() -> Result<Self> {
        fake::gate(Call::VfioOpen)?;
        backend::vfio::container_of_iommufd()
    }

    /// Whether iommufd makes its mappings, also where it stands in for VFIO's container under that name.
    ///
    /// - Before: a group is in.
    pub(crate) fn is_iommufd(&self) -> Result<bool> {
        fake::gate(Call::VfioOpen)?;
        backend::vfio::container_is_iommufd(self)
    }

    /// Chooses the kind of mappings, once the first group is in: those that end as a whole only.
    pub(crate) fn start(&self) -> Result<()> {
        fake::gate(Call::VfioOpen)?;
        backend::vfio::container_start(self)
    }

    /// The device addresses that can be mapped, in order, into `ranges`: how many there are; zero where the kernel does
    /// not tell (before 5.4). Those that find no place are left out.
    pub(crate) fn reach(&self, ranges: &mut [Range<u64>]) -> Result<usize> {
        fake::gate(Call::VfioOpen)?;
        backend::vfio::container_reach(self, ranges)
    }

    /// Lets every device of the container reach a range of memory at `iova`, and pins it.
    ///
    /// - Before: `iova` is a multiple of the page size.
    /// - Result: `EXIST` where something is mapped already, `INVAL` out of reach, `NOMEM` at the limit of locked memory,
    ///   `NOSPC` at that of mappings, `FAULT` where a page may not be pinned. After an error nothing is mapped.
    /// - Contents: kept, and from now on the devices read or change them at any time.
    ///
    /// # Safety
    ///
    /// - The whole range came from `reserve`, and until [`unmap`](Self::unmap) succeeded it is not released, and no
    ///   reference into it is used that a device's access would contradict.
    pub(crate) unsafe fn map(
        &self,
        ptr: NonNull<u8>,
        len: usize,
        iova: u64,
        access: DeviceAccess,
    ) -> Result<()> {
        fake::gate(Call::VfioMap)?;
        // SAFETY: forwarded: the caller promises the same.
        unsafe { backend::vfio::container_map(self, ptr, len, iova, access) }
    }

    /// Ends a mapping: no access of a device that was not complete before this returns reaches memory.
    ///
    /// - Result: the number of bytes that are no longer mapped. Other than `len`, or an error: something was not as the
    ///   caller thinks, and nobody knows what a device reaches.
    pub(crate) fn unmap(&self, iova: u64, len: usize) -> Result<u64> {
        fake::gate(Call::VfioUnmap)?;
        backend::vfio::container_unmap(self, iova, len)
    }
}

impl VfioGroup {
    /// Takes the group of this number, close-on-exec: nobody else can have it meanwhile.
    ///
    /// - Result: `NOENT` where no device of it has a driver for it (vfio-pci), `ACCES`, `BUSY`.
    pub(crate) fn open(number: u32) -> Result<Self> {
        fake::gate(Call::VfioOpen)?;
        backend::vfio::group_open(number)
    }

    /// What is known of it.
    pub(crate) fn state(&self) -> Result<GroupState> {
        fake::gate(Call::VfioOpen)?;
        backend::vfio::group_state(self)
    }

    /// Puts it into a container. It stays there until it is closed.
    pub(crate) fn join(&self, container: &VfioContainer) -> Result<()> {
        fake::gate(Call::VfioOpen)?;
        backend::vfio::group_join(self, container)
    }

    /// A device of it, by its address as in `0000:00:04.0`, close-on-exec. With iommufd it reaches what is mapped, and the
    /// kernel pins that, from the first device of the container on and until the last is closed.
    ///
    /// - Result: `NODEV` if it is not in this group or has no driver for it; with iommufd `PERM` where interrupts are not
    ///   remapped, `ADDRINUSE` where something is mapped at an address that it must not use.
    pub(crate) fn device(&self, address: &[u8]) -> Result<VfioDevice> {
        fake::gate(Call::VfioOpen)?;
        backend::vfio::group_device(self, address)
    }
}

impl VfioDevice {
    /// Resets it: what it was about is given up.
    ///
    /// - Result: `INVAL` or `NOTTY` where it cannot be reset.
    pub(crate) fn reset(&self) -> Result<()> {
        fake::gate(Call::VfioDevice)?;
        backend::vfio::device_reset(self)
    }

    /// A region of it.
    ///
    /// - Result: `INVAL` where there is none of this number.
    pub(crate) fn region(&self, index: u32) -> Result<DeviceRegion> {
        fake::gate(Call::VfioDevice)?;
        backend::vfio::device_region(self, index)
    }

    /// Reads from its file.
    ///
    /// - Result: `IO` where less is there, or the device does not answer.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        fake::gate(Call::VfioDevice)?;
        backend::vfio::device_read(self, offset, out)
    }

    /// Writes to its file. What a device does about that is up to it; it reaches no memory but what is mapped.
    ///
    /// - Result: as for [`read`](Self::read).
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        fake::gate(Call::VfioDevice)?;
        backend::vfio::device_write(self, offset, bytes)
    }
}
