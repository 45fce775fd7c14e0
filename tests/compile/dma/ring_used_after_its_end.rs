//! A ring that was dropped starts no transfer.

use oubliette::{DmaBuffer, Ring};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::fs::File::open("/dev/zero")?;
    let ring = Ring::new(1)?;
    drop(ring);
    ring.read(DmaBuffer::new(4096)?, &file, 0)?.wait()?;
    Ok(())
}
