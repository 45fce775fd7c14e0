//! Reads a file past the page cache into a pinned buffer, and shows what `report()` says on the way.
//!
//! ```text
//! cargo run --example dma --features io-uring -- FILE
//! ```
//!
//! Without a file it makes one of its own.

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("io_uring is Linux's");
}

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use std::fs::File;
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    use std::path::PathBuf;

    use oubliette::dma::Ring;
    use oubliette::{DmaBuffer, report};

    /// `O_DIRECT` of open(2): what is read goes from the device into the buffer, and into no cache on the way.
    const O_DIRECT: i32 = if cfg!(target_arch = "aarch64") { 0o200_000 } else { 0o40_000 };

    let given = std::env::args_os().nth(1).map(PathBuf::from);
    let path = given
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("oubliette-example-{}", std::process::id())));
    if given.is_none() {
        let mut file = File::create_new(&path)?;
        file.write_all(&b"some bytes of a file, ".repeat(1000))?;
        file.sync_all()?;
    }
    let opened = File::options().read(true).custom_flags(O_DIRECT).open(&path);
    if given.is_none() {
        std::fs::remove_file(&path)?;
    }
    let file = match opened {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
            println!("{}: no O_DIRECT here", path.display());
            return Ok(());
        }
        opened => opened?,
    };

    let ring = Ring::new(8)?;
    let mut buffer = DmaBuffer::new(64 << 10)?;
    println!("a buffer: {:?}\n{}", buffer.pinning(), report());

    let (mut offset, mut sum) = (0_u64, 0_u64);
    loop {
        // The transfer owns the buffer until it has ended: nobody sees a half-written byte.
        let in_flight = ring.read(buffer, &file, offset)?;
        let (back, n) = in_flight.wait()?;
        buffer = back;
        sum = buffer.iter().take(n).fold(sum, |sum, byte| sum.wrapping_add(u64::from(*byte)));
        offset = offset.saturating_add(u64::try_from(n)?);
        // `O_DIRECT` reads whole blocks, so a count that is no multiple of one is the rest of the file.
        if n == 0 || n % 512 != 0 {
            break;
        }
    }
    println!(
        "{offset} bytes read, their sum is {sum}; the buffer is now {:?}\n{}",
        buffer.pinning(),
        report()
    );

    drop(buffer); // wiped, flushed, unpinned, unlocked, unmapped
    println!("and after its end:\n{}", report());
    Ok(())
}
