//! There is one owner of a buffer.

use oubliette::DmaBuffer;

fn main() -> Result<(), oubliette::Error> {
    let buffer = DmaBuffer::new(4096)?;
    let other: DmaBuffer = buffer.clone();
    drop((buffer, other));
    Ok(())
}
