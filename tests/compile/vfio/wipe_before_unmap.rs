//! Nor be wiped before it is unmapped, which the device would undo.

use oubliette::dma::vfio::{Both, Container, Group};
use oubliette::{DmaBuffer, Error};

fn main() -> Result<(), Error> {
    let container = Container::new([Group::of("0000:00:04.0".parse()?)?])?;
    let buffer = DmaBuffer::new(4096)?;
    let mut buffer = buffer;
    let mapping = container.map::<Both>(buffer)?;
    buffer.wipe();
    drop(mapping.unmap()?);
    Ok(())
}
