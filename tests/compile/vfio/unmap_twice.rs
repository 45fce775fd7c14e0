//! A mapping ends once.

use oubliette::dma::vfio::{Both, Container, Group};
use oubliette::{DmaBuffer, Error};

fn main() -> Result<(), Error> {
    let container = Container::new([Group::of("0000:00:04.0".parse()?)?])?;
    let buffer = DmaBuffer::new(4096)?;
    let mapping = container.map::<Both>(buffer)?;
    drop(mapping.unmap()?);
    drop(mapping.unmap()?);
    Ok(())
}
