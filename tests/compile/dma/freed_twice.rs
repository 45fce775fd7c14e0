//! A buffer is freed once.

use oubliette::DmaBuffer;

fn main() -> Result<(), oubliette::Error> {
    let buffer = DmaBuffer::new(4096)?;
    drop(buffer);
    drop(buffer);
    Ok(())
}
