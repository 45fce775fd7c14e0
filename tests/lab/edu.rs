//! QEMU's `edu` device: 4 KiB of memory of its own, and an engine that copies between that and ours, 100 ms after it
//! was told to (`docs/specs/edu.rst` of QEMU). It knows addresses of 28 bits.

use std::fs;
use std::time::Duration;

use oubliette::Error;
use oubliette::dma::vfio::{BusMaster, Container, Device, Group, Iova, PciAddress};

use crate::check::{Ended, Patience, require};

const VENDOR_AND_DEVICE: (&str, &str) = ("0x1234", "0x11e8");
/// Where its memory begins, as its engine counts.
const OWN_MEMORY: u32 = 0x40000;
/// How much is copied at once: QEMU 7.2 takes a copy of all 4,096 bytes for one too many.
pub(crate) const COPY_BYTES: usize = 2048;
const ADDRESS_BITS: u32 = 28;

const REGISTER_ID: u64 = 0;
const REGISTER_SOURCE: u64 = 0x80;
const REGISTER_TARGET: u64 = 0x88;
const REGISTER_COUNT: u64 = 0x90;
const REGISTER_COMMAND: u64 = 0x98;
const COMMAND_RUN: u32 = 1;
const COMMAND_OUT: u32 = 2;

/// Shares its group with a device that has a driver of the kernel: see `refusals`.
pub(crate) const NOT_VIABLE: &str = "0000:00:1e.0";

/// The addresses of all of them but that one, in order.
pub(crate) fn addresses() -> Vec<PciAddress> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/bus/pci/devices").expect("/sys is mounted") {
        let path = entry.expect("it can be listed").path();
        let field = |name| fs::read_to_string(path.join(name)).unwrap_or_default().trim().to_owned();
        if (field("vendor").as_str(), field("device").as_str()) == VENDOR_AND_DEVICE {
            found.push(path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned());
        }
    }
    found.retain(|name| name != NOT_VIABLE);
    found.sort();
    found.iter().map(|name| name.parse().expect("the kernel's own form")).collect()
}

/// Gives a device to `vfio-pci`.
pub(crate) fn bind(address: PciAddress) {
    fs::write(format!("/sys/bus/pci/devices/{address}/driver_override"), "vfio-pci").expect("root may");
    // Fails if it has a driver, which is then this one.
    let _ = fs::write("/sys/bus/pci/drivers_probe", address.to_string());
}

/// Takes it away again.
pub(crate) fn unbind(address: PciAddress) {
    let _ = fs::write(format!("/sys/bus/pci/devices/{address}/driver/unbind"), address.to_string());
}

/// A container with these devices in it.
pub(crate) fn container(addresses: &[PciAddress]) -> Result<Container, Error> {
    let groups = addresses.iter().map(|address| {
        bind(*address);
        Group::of(*address)
    });
    let mut container = Container::new(groups.collect::<Result<Vec<_>, _>>()?)?;
    container.set_address_bits(ADDRESS_BITS);
    Ok(container)
}

/// One of them, ready to copy.
pub(crate) struct Edu<'c> {
    device: Device<'c>,
}

impl<'c> Edu<'c> {
    pub(crate) fn new(container: &'c Container, address: PciAddress) -> Result<Self, Ended> {
        let device = container.device(address)?;
        device.set_bus_master(BusMaster::On)?;
        let id = device.bar(0)?.read_u32(REGISTER_ID)?;
        require(id & 0xffff == 0xed, || format!("not an edu device: {id:#x}"))?;
        Ok(Self { device })
    }

    pub(crate) fn device(&self) -> &Device<'c> {
        &self.device
    }

    /// Copies from there into its memory, to the end.
    pub(crate) fn take(&self, from: Iova) -> Result<(), Ended> {
        self.start(from.get(), OWN_MEMORY.into(), COMMAND_RUN)?;
        self.wait()
    }

    /// Copies out of its memory to there, to the end.
    pub(crate) fn give(&self, to: Iova) -> Result<(), Ended> {
        self.start_giving(to)?;
        self.wait()
    }

    /// Begins to.
    pub(crate) fn start_giving(&self, to: Iova) -> Result<(), Ended> {
        self.start(OWN_MEMORY.into(), to.get(), COMMAND_RUN | COMMAND_OUT)
    }

    /// Waits for the end of a copy, whether it got anywhere or was refused.
    pub(crate) fn wait(&self) -> Result<(), Ended> {
        let bar = self.device.bar(0)?;
        let mut patience = Patience::new(Duration::from_secs(10));
        while bar.read_u32(REGISTER_COMMAND)? & COMMAND_RUN != 0 {
            require(patience.is_left(), || "the device does not come to an end".to_owned())?;
        }
        Ok(())
    }

    fn start(&self, from: u64, to: u64, command: u32) -> Result<(), Ended> {
        let bar = self.device.bar(0)?;
        let low = |address: u64| u32::try_from(address).expect("28 bits");
        bar.write_u32(REGISTER_SOURCE, low(from))?;
        bar.write_u32(REGISTER_TARGET, low(to))?;
        bar.write_u32(REGISTER_COUNT, COPY_BYTES as u32)?;
        bar.write_u32(REGISTER_COMMAND, command)?;
        Ok(())
    }
}
