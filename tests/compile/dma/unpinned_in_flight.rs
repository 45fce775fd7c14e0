//! A buffer in flight cannot be dropped, which would unpin it.

use oubliette::{DmaBuffer, Ring};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::fs::File::open("/dev/zero")?;
    let buffer = DmaBuffer::new(4096)?;
    let in_flight = Ring::new(1)?.read(buffer, &file, 0)?;
    drop(buffer);
    in_flight.wait()?;
    Ok(())
}
