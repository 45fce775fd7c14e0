//! A buffer in flight cannot start another transfer or be registered elsewhere.

use oubliette::{DmaBuffer, Ring};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::fs::File::open("/dev/zero")?;
    let mut buffer = DmaBuffer::new(4096)?;
    let in_flight = Ring::new(1)?.read(buffer, &file, 0)?;
    Ring::new(1)?.attach(&mut buffer)?;
    in_flight.wait()?;
    Ok(())
}
