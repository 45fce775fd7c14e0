//! Only buffers are mapped, not memory of any kind.

use oubliette::dma::vfio::{Both, Container, Group};
use oubliette::{DmaBuffer, Error};

fn main() -> Result<(), Error> {
    let container = Container::new([Group::of("0000:00:04.0".parse()?)?])?;
    let buffer = DmaBuffer::new(4096)?;
    let mut bytes = vec![0_u8; 4096];
    drop(container.map::<Both>(&mut bytes[..])?);
    drop(buffer);
    Ok(())
}
