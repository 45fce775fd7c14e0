//! A device: its registers, and whether it may reach memory at all.

use super::Container;
use super::group::system;
use crate::os::{DeviceRegion, Errno, VfioDevice};
use crate::{Error, IommuRefusal};

/// `VFIO_PCI_CONFIG_REGION_INDEX`, `include/uapi/linux/vfio.h`.
const CONFIGURATION: u32 = 7;
/// The command register of the configuration space, and two of its bits (PCI Local Bus Specification 3.0, 6.2.2).
const COMMAND: u64 = 4;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
/// A device has six regions of registers at most.
const BARS: u32 = 6;

/// A device of a [`Container`]. Dropping it takes its right to reach memory.
#[derive(Debug)]
pub struct Device<'c> {
    container: &'c Container,
    device: VfioDevice,
    configuration: DeviceRegion,
}

/// Whether a device may reach memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusMaster {
    /// What is mapped.
    On,
    /// Nothing.
    Off,
}

impl<'c> Device<'c> {
    pub(super) fn new(container: &'c Container, device: VfioDevice) -> Result<Self, Error> {
        let configuration = device.region(CONFIGURATION).map_err(system)?;
        Ok(Self { container, device, configuration })
    }

    /// Lets it reach memory, or stops it. Stop it, or reset it, before you unmap what it may still be working on: the IOMMU
    /// protects the memory either way, but a device may take a refused access badly.
    pub fn set_bus_master(&self, to: BusMaster) -> Result<(), Error> {
        let at = self.configuration.offset.saturating_add(COMMAND);
        let mut command = [0; 2];
        self.device.read(at, &mut command).map_err(system)?;
        let before = u16::from_le_bytes(command);
        let after = match to {
            BusMaster::On => before | COMMAND_MEMORY | COMMAND_BUS_MASTER,
            BusMaster::Off => before & !COMMAND_BUS_MASTER,
        };
        self.device.write(at, &after.to_le_bytes()).map_err(system)
    }

    /// Resets it: what it was about is given up.
    ///
    /// # Errors
    ///
    /// [`Error::Iommu`]: [`NoReset`](IommuRefusal::NoReset) where it has none that leaves other devices alone.
    pub fn reset(&self) -> Result<(), Error> {
        self.device.reset().map_err(|errno| match errno {
            Errno::INVAL | Errno::NOTTY => Error::Iommu(IommuRefusal::NoReset),
            other => system(other),
        })
    }

    /// One of its regions of registers, by number from 0.
    ///
    /// # Errors
    ///
    /// [`Error::Iommu`]: [`NoSuchDevice`](IommuRefusal::NoSuchDevice) where it has none of this number.
    pub fn bar(&self, index: u32) -> Result<Bar<'_>, Error> {
        let none = Error::Iommu(IommuRefusal::NoSuchDevice);
        if index >= BARS {
            return Err(none);
        }
        let region = self.device.region(index).map_err(system)?;
        if region.len == 0 || !region.is_accessible {
            return Err(none);
        }
        Ok(Bar { device: &self.device, region })
    }
}

impl Drop for Device<'_> {
    fn drop(&mut self) {
        // The kernel does so too when the last descriptor of the device is closed, but a forked child may have one, and with
        // iommufd the container has one.
        if self.container.is_of_this_process() {
            let _ = self.set_bus_master(BusMaster::Off);
        }
    }
}

/// Registers of a device, little-endian.
///
/// Each access is a system call, of about a microsecond: no mapping of this process is at the mercy of a device that is
/// turned off or falls out, which would be a `SIGBUS`.
#[derive(Clone, Copy, Debug)]
pub struct Bar<'d> {
    device: &'d VfioDevice,
    region: DeviceRegion,
}

impl Bar<'_> {
    /// Its size in bytes.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.region.len
    }

    /// Reads a register of 32 bits, at an offset in bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Iommu`]: [`OutOfReach`](IommuRefusal::OutOfReach) beyond its end or not at a multiple of four.
    pub fn read_u32(&self, offset: u64) -> Result<u32, Error> {
        let mut bytes = [0; 4];
        self.device.read(self.at(offset)?, &mut bytes).map_err(system)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Writes one.
    ///
    /// # Errors
    ///
    /// As for [`read_u32`](Self::read_u32).
    pub fn write_u32(&self, offset: u64, value: u32) -> Result<(), Error> {
        self.device.write(self.at(offset)?, &value.to_le_bytes()).map_err(system)
    }

    fn at(&self, offset: u64) -> Result<u64, Error> {
        let is_inside = offset.checked_add(4).is_some_and(|end| end <= self.region.len);
        if is_inside && offset.is_multiple_of(4) {
            Ok(self.region.offset.saturating_add(offset))
        } else {
            Err(Error::Iommu(IommuRefusal::OutOfReach))
        }
    }
}
