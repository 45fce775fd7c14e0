//! Who makes the mappings of a container, and what it takes for iommufd to do as VFIO's own container does.
//!
//! VFIO's container attaches a group when it joins. iommufd attaches it when the first of its devices is opened, and until
//! then claims no device, knows no address that is out of reach, and pins nothing of what is mapped: it would hand out
//! addresses that it refuses later, and tell of a limit when a device is opened and not when a buffer is mapped. So a
//! container of iommufd keeps the devices of its groups open, from before the first mapping on until its end.

use super::Group;
use super::container::not_joined;
use super::group::system;
use crate::os::{self, Errno, VfioContainer, VfioDevice};
use crate::{Error, IommuRefusal};

/// Who makes the mappings of a container. What is promised of them does not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Interface {
    /// VFIO's own container, of type 1.
    Type1,
    /// iommufd, by `/dev/iommu` or by the container that it stands in for (Linux 6.2).
    Iommufd,
}

/// VFIO's container, or where the kernel has none iommufd.
pub(super) fn open() -> Result<VfioContainer, Error> {
    let opened = match VfioContainer::new() {
        Err(Errno::NOENT | Errno::NODEV) => VfioContainer::of_iommufd(),
        opened => opened,
    };
    opened.map_err(|errno| match errno {
        Errno::NOENT | Errno::NODEV | Errno::NOTTY | Errno::INVAL => Error::Iommu(IommuRefusal::NoVfio),
        Errno::ACCES | Errno::PERM => Error::Iommu(IommuRefusal::NotPermitted),
        other => system(other),
    })
}

/// Who makes the mappings of this container, which these groups are in. From now on their devices reach what is mapped, and
/// nothing else: for as long as what comes back is kept.
pub(super) fn attach(
    container: &VfioContainer,
    groups: &[Group],
) -> Result<(Interface, Vec<VfioDevice>), Error> {
    let mut attached = Vec::new();
    if !container.is_iommufd().map_err(system)? {
        return Ok((Interface::Type1, attached));
    }
    for group in groups {
        let before = attached.len();
        for name in os::group_members(group.number()).map_err(system)? {
            match group.group.device(name.as_encoded_bytes()) {
                Ok(device) => attached.push(device),
                // Another kind of device (a bridge), or one without any driver.
                Err(Errno::NODEV) => {}
                Err(errno) => return Err(not_joined(errno)),
            }
        }
        if attached.len() == before {
            return Err(Error::Iommu(IommuRefusal::NoDriver { group: group.number() }));
        }
    }
    Ok((Interface::Iommufd, attached))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::Call;
    use crate::os::fake::{count, fail, fail_always};

    /// What comes of it, and how many things were tried to be opened.
    fn opened() -> (Result<(), Error>, usize) {
        let before = count(Call::VfioOpen);
        let result = open().map(drop);
        (result, count(Call::VfioOpen) - before)
    }

    #[test]
    fn iommufd_is_asked_where_there_is_no_container() {
        for missing in [Errno::NOENT, Errno::NODEV] {
            let fault = fail(Call::VfioOpen, 0, missing);
            let (_, tried) = opened();
            assert_eq!(tried, 2, "{missing:?}");
            drop(fault);
            let _fault = fail_always(Call::VfioOpen, missing);
            assert_eq!(opened(), (Err(Error::Iommu(IommuRefusal::NoVfio)), 2));
        }
    }

    #[test]
    fn a_container_that_is_refused_is_not_replaced() {
        for (errno, wanted) in [
            (Errno::ACCES, Error::Iommu(IommuRefusal::NotPermitted)),
            (Errno::PERM, Error::Iommu(IommuRefusal::NotPermitted)),
            (Errno::INVAL, Error::Iommu(IommuRefusal::NoVfio)),
            (Errno::NOTTY, Error::Iommu(IommuRefusal::NoVfio)),
            (Errno::IO, system(Errno::IO)),
        ] {
            let _fault = fail_always(Call::VfioOpen, errno);
            assert_eq!(opened(), (Err(wanted), 1));
        }
    }
}
