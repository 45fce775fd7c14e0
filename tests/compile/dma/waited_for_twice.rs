//! A transfer gives its buffer back once.

use oubliette::{DmaBuffer, Ring};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::fs::File::open("/dev/zero")?;
    let in_flight = Ring::new(1)?.read(DmaBuffer::new(4096)?, &file, 0)?;
    let first = in_flight.wait()?;
    let second = in_flight.wait()?;
    drop((first, second));
    Ok(())
}
