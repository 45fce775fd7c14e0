//! A buffer in flight cannot be read.

use oubliette::{DmaBuffer, Ring};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::fs::File::open("/dev/zero")?;
    let buffer = DmaBuffer::new(4096)?;
    let in_flight = Ring::new(1)?.read(buffer, &file, 0)?;
    assert_eq!(buffer[0], 0);
    in_flight.wait()?;
    Ok(())
}
