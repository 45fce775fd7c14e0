//! What its devices know is said before anything is mapped.

use oubliette::dma::vfio::{Both, Container, Group};
use oubliette::{DmaBuffer, Error};

fn main() -> Result<(), Error> {
    let container = Container::new([Group::of("0000:00:04.0".parse()?)?])?;
    let buffer = DmaBuffer::new(4096)?;
    let mut container = container;
    let mapping = container.map::<Both>(buffer)?;
    container.set_address_bits(32);
    drop(mapping.unmap()?);
    Ok(())
}
