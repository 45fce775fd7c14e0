//! What is mapped for reading is not what a device is told to write to.

use oubliette::dma::vfio::{Container, FromDevice, Group, IommuMapping, ToDevice};
use oubliette::{DmaBuffer, Error};

fn receive(_into: &IommuMapping<'_, FromDevice>) {}

fn main() -> Result<(), Error> {
    let container = Container::new([Group::of("0000:00:04.0".parse()?)?])?;
    let mapping = container.map::<ToDevice>(DmaBuffer::new(4096)?)?;
    receive(&mapping);
    Ok(())
}
