//! A buffer in flight cannot be wiped before its transfer has ended.

use oubliette::{DmaBuffer, Ring};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::fs::File::open("/dev/zero")?;
    let mut buffer = DmaBuffer::new(4096)?;
    let in_flight = Ring::new(1)?.read(buffer, &file, 0)?;
    buffer.wipe();
    in_flight.wait()?;
    Ok(())
}
