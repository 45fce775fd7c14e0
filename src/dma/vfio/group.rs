//! Groups: what the IOMMU can tell apart.

use super::PciAddress;
use crate::os::{self, Errno, VfioGroup};
use crate::{Error, IommuRefusal, Operation};

/// An IOMMU group: devices that the IOMMU cannot tell apart, so that they are all taken or none.
#[derive(Debug)]
pub struct Group {
    pub(super) group: VfioGroup,
    number: u32,
}

impl Group {
    /// Takes the group of a device. Nobody else can have it meanwhile.
    ///
    /// Every device of the group has to be free of other drivers and one of them bound to `vfio-pci`:
    ///
    /// ```sh
    /// echo vfio-pci > /sys/bus/pci/devices/0000:00:04.0/driver_override
    /// echo 0000:00:04.0 > /sys/bus/pci/devices/0000:00:04.0/driver/unbind   # if it has a driver
    /// echo 0000:00:04.0 > /sys/bus/pci/drivers_probe
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Iommu`]: [`NoGroup`](IommuRefusal::NoGroup), [`NoDriver`](IommuRefusal::NoDriver),
    /// [`OnlyIommufd`](IommuRefusal::OnlyIommufd), [`NotViable`](IommuRefusal::NotViable),
    /// [`InUse`](IommuRefusal::InUse), [`NotPermitted`](IommuRefusal::NotPermitted).
    pub fn of(address: PciAddress) -> Result<Self, Error> {
        let number = os::group_of(address.as_bytes()).map_err(|errno| match errno {
            Errno::NOENT => Error::Iommu(IommuRefusal::NoGroup),
            other => system(other),
        })?;
        let group = VfioGroup::open(number).map_err(|errno| match errno {
            Errno::NOENT | Errno::NODEV if os::is_given_by_iommufd(address.as_bytes()) => {
                Error::Iommu(IommuRefusal::OnlyIommufd)
            }
            Errno::NOENT | Errno::NODEV => Error::Iommu(IommuRefusal::NoDriver { group: number }),
            Errno::BUSY => Error::Iommu(IommuRefusal::InUse { group: number }),
            Errno::ACCES | Errno::PERM => Error::Iommu(IommuRefusal::NotPermitted),
            other => system(other),
        })?;
        if !group.state().map_err(system)?.is_viable {
            return Err(Error::Iommu(IommuRefusal::NotViable { group: number }));
        }
        Ok(Self { group, number })
    }

    /// Its number: `/dev/vfio/NUMBER`.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }
}

/// A refusal that nothing more can be said about.
pub(super) const fn system(errno: Errno) -> Error {
    Error::Os { operation: Operation::Iommu, errno: errno.0 }
}
