//! An address for devices is checked where it is made: a number is none.

use oubliette::dma::vfio::{Both, Container, Group};
use oubliette::{DmaBuffer, Error};

fn main() -> Result<(), Error> {
    let container = Container::new([Group::of("0000:00:04.0".parse()?)?])?;
    let buffer = DmaBuffer::new(4096)?;
    drop(container.map_at::<Both>(buffer, 0x10_0000)?);
    Ok(())
}
