//! The container: groups that share their mappings.

// UNSAFETY: lets devices reach memory that it names by address.
#![expect(unsafe_code, reason = "forwards the region of a buffer to the os contract, see UNSAFETY above")]

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::direction::access_of;
use super::group::system;
use super::space::Space;
use super::{Device, Direction, Group, Interface, IommuMapping, Iova, NotMapped, PciAddress, interface};
use crate::dma::DmaBuffer;
use crate::os::{self, Errno, VfioContainer, VfioDevice};
use crate::{Error, IommuRefusal};

/// The most ranges of addresses that are asked for. Those of real machines are a handful.
const MOST_WINDOWS: usize = 16;
/// What is taken for reachable where the kernel does not tell (before 5.4): it refuses what is not.
const UNTOLD_WINDOW: core::ops::Range<u64> = 0..1 << 32;

/// Groups of devices with their mappings: all of the devices reach all that is mapped.
///
/// # Invariants
///
/// 1. Mappings are made and ended by [`IommuMapping`] only, which holds the buffer meanwhile, and only in the process
///    `owner`. A range of `space` is in use for as long.
#[derive(Debug)]
pub struct Container {
    space: Mutex<Space>,
    owner: u32,
    interface: Interface,
    #[expect(dead_code, reason = "kept open: see `interface::attach`")]
    attached: Vec<VfioDevice>,
    container: VfioContainer,
    groups: Vec<Group>,
}

impl Container {
    /// Takes groups, at least one. With [`Interface::Iommufd`] it opens every device of theirs that `vfio-pci` has, and keeps
    /// it open: they are reset now and at its end.
    ///
    /// # Errors
    ///
    /// [`Error::Iommu`]: [`NoVfio`](IommuRefusal::NoVfio), [`NotPermitted`](IommuRefusal::NotPermitted),
    /// [`NoGroup`](IommuRefusal::NoGroup) without any, [`UnsafeInterrupts`](IommuRefusal::UnsafeInterrupts), and with
    /// iommufd [`NoDriver`](IommuRefusal::NoDriver) where a group has lost its driver since it was taken.
    pub fn new(groups: impl IntoIterator<Item = Group>) -> Result<Self, Error> {
        let groups: Vec<Group> = groups.into_iter().collect();
        if groups.is_empty() {
            return Err(Error::Iommu(IommuRefusal::NoGroup));
        }
        let container = interface::open()?;
        for group in &groups {
            group.group.join(&container).map_err(not_joined)?;
        }
        container.start().map_err(not_joined)?;
        let (interface, attached) = interface::attach(&container, &groups)?;
        let mut windows = [const { 0..0 }; MOST_WINDOWS];
        let windows = match container.reach(&mut windows).map_err(system)? {
            0 => &[UNTOLD_WINDOW],
            count => windows.get(..count).unwrap_or(&[]),
        };
        let page_bytes = u64::try_from(os::page_size()).unwrap_or(u64::MAX);
        let space = Mutex::new(Space::new(windows, page_bytes));
        Ok(Self { space, owner: os::incarnation(), interface, attached, container, groups })
    }

    /// Who makes its mappings.
    #[must_use]
    pub const fn interface(&self) -> Interface {
        self.interface
    }

    /// The groups in it.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// From now on gives out addresses below 2 to the power of `bits` only, for devices that know no others.
    pub fn set_address_bits(&mut self, bits: u32) {
        if let Some(end) = 1_u64.checked_shl(bits) {
            self.space.get_mut().unwrap_or_else(PoisonError::into_inner).end_at(end);
        }
    }

    /// A device of one of the groups, stopped: see [`Device::set_bus_master`].
    ///
    /// # Errors
    ///
    /// [`Error::Iommu`]: [`NoSuchDevice`](IommuRefusal::NoSuchDevice); [`Taken`](IommuRefusal::Taken) where it was given to
    /// its driver after the container was made, and must not use an address at which something is mapped.
    pub fn device(&self, address: PciAddress) -> Result<Device<'_>, Error> {
        for group in &self.groups {
            match group.group.device(address.as_bytes()) {
                Ok(device) => return Device::new(self, device),
                Err(Errno::NODEV) => {}
                Err(Errno::ADDRINUSE) => return Err(Error::Iommu(IommuRefusal::Taken)),
                Err(errno) => return Err(system(errno)),
            }
        }
        Err(Error::Iommu(IommuRefusal::NoSuchDevice))
    }

    /// Lets the devices reach a buffer, at an address that it chooses. The buffer is the mapping's until that is unmapped.
    ///
    /// The kernel pins the pages once more, which counts against `RLIMIT_MEMLOCK`: together with what the process has
    /// locked, or where `/dev/iommu` is the container with what all io_urings and iommufds of the user have pinned.
    ///
    /// # Errors
    ///
    /// [`Error::LockLimit`]; [`Error::LeftBehind`] in a forked child; [`Error::Iommu`]:
    /// [`NoSpace`](IommuRefusal::NoSpace), [`TooManyMappings`](IommuRefusal::TooManyMappings). The buffer comes back with
    /// the error.
    pub fn map<D: Direction>(&self, buffer: DmaBuffer) -> Result<IommuMapping<'_, D>, NotMapped> {
        self.map_where(buffer, |space, len| space.claim(len))
    }

    /// The same at this address.
    ///
    /// # Errors
    ///
    /// As for [`map`](Self::map); and [`Taken`](IommuRefusal::Taken), [`OutOfReach`](IommuRefusal::OutOfReach).
    pub fn map_at<D: Direction>(
        &self,
        buffer: DmaBuffer,
        iova: Iova,
    ) -> Result<IommuMapping<'_, D>, NotMapped> {
        self.map_where(buffer, |space, len| space.claim_at(iova.get(), len).map(|()| iova.get()))
    }

    fn map_where<D: Direction>(
        &self,
        buffer: DmaBuffer,
        claim: impl FnOnce(&mut Space, u64) -> Result<u64, IommuRefusal>,
    ) -> Result<IommuMapping<'_, D>, NotMapped> {
        if !self.is_of_this_process() {
            return Err(NotMapped { error: Error::LeftBehind, buffer });
        }
        let (data, bytes) = buffer.region();
        let claimed = u64::try_from(bytes).map_err(|_| IommuRefusal::NoSpace);
        let iova = match claimed.and_then(|bytes| claim(&mut self.space(), bytes)) {
            Ok(iova) => iova,
            Err(refusal) => return Err(NotMapped { error: Error::Iommu(refusal), buffer }),
        };
        // SAFETY: the pages are the buffer's, which came from `reserve`. The mapping owns the buffer from here on and lends
        // nothing of it; it gives the buffer away after `unmap` succeeded, and leaks it otherwise.
        match unsafe { self.container.map(data, bytes, iova, access_of::<D>()) } {
            // `iova` is a multiple of the page size: all that `Space` gives out is.
            Ok(()) => match Iova::new(iova) {
                Ok(iova) => Ok(IommuMapping::new(self, buffer, iova)),
                Err(_) => os::abort_with("device address is not the start of a page"),
            },
            Err(errno) => {
                self.space().release(iova);
                Err(NotMapped { error: not_mapped(errno, bytes), buffer })
            }
        }
    }

    /// Ends a mapping. After an error, or if it was not there as a whole, nobody knows what devices reach.
    pub(super) fn unmap(&self, iova: Iova, bytes: usize) -> Result<(), Errno> {
        let unmapped = self.container.unmap(iova.get(), bytes)?;
        if usize::try_from(unmapped) != Ok(bytes) {
            return Err(Errno::NOENT);
        }
        self.space().release(iova.get());
        Ok(())
    }

    /// Whether this is the process that made it, and not a child.
    pub(super) fn is_of_this_process(&self) -> bool {
        self.owner == os::incarnation()
    }

    fn space(&self) -> MutexGuard<'_, Space> {
        // Nothing in there panics, so it is never left half done.
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) const fn not_joined(errno: Errno) -> Error {
    match errno {
        Errno::PERM => Error::Iommu(IommuRefusal::UnsafeInterrupts),
        other => system(other),
    }
}

fn not_mapped(errno: Errno, needed_bytes: usize) -> Error {
    match (errno, os::memlock_limit().soft) {
        (Errno::NOMEM, Some(limit_bytes)) => Error::LockLimit { needed_bytes, limit_bytes },
        (Errno::EXIST, _) => Error::Iommu(IommuRefusal::Taken),
        (Errno::INVAL, _) => Error::Iommu(IommuRefusal::OutOfReach),
        (Errno::NOSPC, _) => Error::Iommu(IommuRefusal::TooManyMappings),
        (other, _) => system(other),
    }
}
