//! Which way data goes, as a type.

use core::fmt::Debug;

use crate::os::DeviceAccess;

/// What devices may do with a mapped buffer. The types that are one have no values.
pub trait Direction: sealed::Direction + Debug {}

/// Devices read the buffer; the IOMMU stops them from writing to it.
#[derive(Debug)]
pub enum ToDevice {}

/// Devices write to the buffer. Whether they are stopped from reading it depends on the IOMMU.
#[derive(Debug)]
pub enum FromDevice {}

/// Devices read the buffer and write to it.
#[derive(Debug)]
pub enum Both {}

impl Direction for ToDevice {}
impl Direction for FromDevice {}
impl Direction for Both {}

mod sealed {
    use super::DeviceAccess;

    pub trait Direction {
        const ACCESS: DeviceAccess;
    }
}

impl sealed::Direction for ToDevice {
    const ACCESS: DeviceAccess = DeviceAccess::Read;
}

impl sealed::Direction for FromDevice {
    const ACCESS: DeviceAccess = DeviceAccess::Write;
}

impl sealed::Direction for Both {
    const ACCESS: DeviceAccess = DeviceAccess::ReadWrite;
}

/// What a direction allows.
pub(super) const fn access_of<D: Direction>() -> DeviceAccess {
    D::ACCESS
}
