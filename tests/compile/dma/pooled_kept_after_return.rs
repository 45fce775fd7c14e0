//! Nothing of a pool's buffer is seen after it went back.

use oubliette::dma::{BufferPool, Ring};

fn main() -> Result<(), oubliette::Error> {
    let pool = BufferPool::new(&Ring::new(1)?, 1, 4096)?;
    let Some(buffer) = pool.take() else { return Ok(()) };
    let view = &buffer[..];
    drop(buffer);
    assert_eq!(view[0], 0);
    Ok(())
}
