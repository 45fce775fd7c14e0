//! A container outlives its devices.

use oubliette::Error;
use oubliette::dma::vfio::{BusMaster, Container, Group};

fn main() -> Result<(), Error> {
    let address = "0000:00:04.0".parse()?;
    let container = Container::new([Group::of(address)?])?;
    let device = container.device(address)?;
    drop(container);
    device.set_bus_master(BusMaster::On)
}
