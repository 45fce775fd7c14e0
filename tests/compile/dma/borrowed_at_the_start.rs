//! No borrow of a buffer lasts into a transfer.

use oubliette::{DmaBuffer, Ring};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::fs::File::open("/dev/zero")?;
    let buffer = DmaBuffer::new(4096)?;
    let view = &buffer[..16];
    let in_flight = Ring::new(1)?.read(buffer, &file, 0)?;
    assert_eq!(view[0], 0);
    in_flight.wait()?;
    Ok(())
}
