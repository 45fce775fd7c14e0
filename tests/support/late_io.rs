//! Late I/O: transfers that are dropped at random moments, and memory that must not change afterwards.
//!
//! Needs nothing but the crate and std, so that it can be included by itself, also by a program that is the
//! only one of its machine.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use oubliette::dma::{BufferPool, Descriptor, InFlight, PooledBuffer, Ring};

/// What every transfer reads: no byte of it is zero, and every idle buffer is all zero.
const MARK: u8 = 0xa5;
const BUFFER_BYTES: usize = 16 << 10;
const AT_ONCE: usize = 8;
const FILE_BYTES: usize = 4 << 20;
/// `O_DIRECT`, open(2).
const O_DIRECT: i32 = if cfg!(target_arch = "aarch64") { 0o200_000 } else { 0o40_000 };

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Transfers dropped: from pipes, sockets, files.
    pub(crate) dropped: [usize; 3],
    /// Of these, buffers that held something after the drop.
    pub(crate) late_writes: usize,
    /// Bytes that a transfer took out of a pipe or a socket after it was dropped.
    pub(crate) late_reads: usize,
    /// Buffers quarantined.
    pub(crate) quarantined: usize,
    /// Whether files were read past the page cache.
    pub(crate) has_direct_files: bool,
}

/// Starts so many transfers and drops each at a random moment. `folder` is where a file of 4 MiB is made; without
/// `O_DIRECT` there, files are read through the page cache.
pub(crate) fn run(transfers: usize, folder: &Path, seed: u64) -> Result<Outcome, Box<dyn std::error::Error>> {
    let mut random = Random(seed | 1);
    let mut outcome = Outcome::default();
    let quarantined_before = oubliette::report().dma().quarantined;
    let (file, has_direct_files) = marked_file(folder)?;
    outcome.has_direct_files = has_direct_files;
    let ring = Ring::new(64)?;
    let pool = BufferPool::new(&ring, u32::try_from(AT_ONCE)?, BUFFER_BYTES)?;
    let memory = File::open("/proc/self/mem")?;
    let mut started = 0;
    while started < transfers {
        let mut flying = Vec::new();
        for _ in 0..AT_ONCE {
            let buffer = pool.take().ok_or("a buffer was not given back")?;
            // Whatever wrote to it since its last use shows here.
            outcome.late_writes += usize::from(buffer.iter().any(|byte| *byte != 0));
            flying.push(Flying::start(&ring, buffer, &file, &mut random)?);
            started += 1;
        }
        while !flying.is_empty() {
            let mut transfer = flying.swap_remove(random.below(flying.len()));
            transfer.maybe_feed(&mut random)?;
            random.pause();
            outcome.dropped[transfer.kind()] += 1;
            let (address, source) = transfer.drop_now();
            // Nobody may write to the buffer from here on, nor take what comes now.
            outcome.late_reads += usize::from(!source.keeps_what_comes()?);
            random.pause();
            outcome.late_writes += usize::from(!is_zero(&memory, address)?);
        }
    }
    // And once more, after everything that could still be under way has had its time.
    std::thread::sleep(Duration::from_millis(50));
    let idle: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
    outcome.late_writes += idle.iter().filter(|buffer| buffer.iter().any(|byte| *byte != 0)).count();
    if idle.len() != AT_ONCE {
        return Err("a buffer was not given back".into());
    }
    outcome.quarantined = oubliette::report().dma().quarantined - quarantined_before;
    Ok(outcome)
}

/// Whether [`run`] could have seen a late write: one transfer that is forgotten instead of dropped.
pub(crate) fn control() -> Result<bool, Box<dyn std::error::Error>> {
    let ring = Ring::new(1)?;
    let pool = BufferPool::new(&ring, 1, BUFFER_BYTES)?;
    let (from, mut to) = io::pipe()?;
    let buffer = pool.take().ok_or("no buffer")?;
    let address = buffer.as_ptr().addr();
    // The test is about what this does.
    std::mem::forget(ring.read(buffer, &from, 0)?);
    to.write_all(&[MARK; 64])?;
    let memory = File::open("/proc/self/mem")?;
    // So many looks and not for so long: a machine may stand still for seconds.
    for _ in 0..5000 {
        if !is_zero(&memory, address)? {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(false)
}

struct Flying {
    transfer: InFlight<PooledBuffer>,
    address: usize,
    source: Source,
}

enum Source {
    Pipe(io::PipeReader, io::PipeWriter),
    Socket(UnixStream, UnixStream),
    File,
}

impl Flying {
    fn start(
        ring: &Ring,
        buffer: PooledBuffer,
        file: &Descriptor,
        random: &mut Random,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let address = buffer.as_ptr().addr();
        let (transfer, source) = match random.below(3) {
            0 => {
                let (from, to) = io::pipe()?;
                (ring.read(buffer, &from, 0)?, Source::Pipe(from, to))
            }
            1 => {
                let (from, to) = UnixStream::pair()?;
                (ring.read(buffer, &from, 0)?, Source::Socket(from, to))
            }
            _ => {
                let block = random.below(FILE_BYTES / BUFFER_BYTES) * BUFFER_BYTES;
                (ring.read(buffer, file, u64::try_from(block)?)?, Source::File)
            }
        };
        Ok(Self { transfer, address, source })
    }

    /// Gives it something to read in half of all cases, just before it is dropped.
    fn maybe_feed(&mut self, random: &mut Random) -> io::Result<()> {
        if random.below(2) == 0 {
            return Ok(());
        }
        match &mut self.source {
            Source::Pipe(_, to) => to.write_all(&[MARK; 512]),
            Source::Socket(_, to) => to.write_all(&[MARK; 512]),
            Source::File => Ok(()),
        }
    }

    fn kind(&self) -> usize {
        match self.source {
            Source::Pipe(..) => 0,
            Source::Socket(..) => 1,
            Source::File => 2,
        }
    }

    fn drop_now(self) -> (usize, Source) {
        drop(self.transfer);
        (self.address, self.source)
    }
}

impl Source {
    /// Whether what is written now stays for others.
    fn keeps_what_comes(self) -> io::Result<bool> {
        const COMES: [u8; 4] = [1, 2, 3, 4];
        let mut rest = Vec::new();
        match self {
            Self::Pipe(mut from, mut to) => {
                to.write_all(&COMES)?;
                drop(to);
                from.read_to_end(&mut rest)?;
            }
            Self::Socket(mut from, mut to) => {
                to.write_all(&COMES)?;
                drop(to);
                from.read_to_end(&mut rest)?;
            }
            Self::File => return Ok(true),
        }
        Ok(rest.ends_with(&COMES))
    }
}

fn is_zero(memory: &File, address: usize) -> io::Result<bool> {
    let mut bytes = [0; BUFFER_BYTES];
    memory.read_exact_at(&mut bytes, address as u64)?;
    Ok(bytes.iter().all(|byte| *byte == 0))
}

/// A file of marks without a name, opened past the page cache where that can be.
fn marked_file(folder: &Path) -> io::Result<(Descriptor, bool)> {
    let path = folder.join(format!("oubliette-late-io-{}", std::process::id()));
    let mut file = File::create(&path)?;
    file.write_all(&vec![MARK; FILE_BYTES])?;
    file.sync_all()?;
    let direct = File::options().read(true).custom_flags(O_DIRECT).open(&path);
    let has_direct_files = direct.is_ok();
    let opened = direct.or_else(|_| File::open(&path));
    std::fs::remove_file(&path)?;
    Ok((Descriptor::new(opened?), has_direct_files))
}

/// xorshift64* (Vigna 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 32) as usize % end
    }

    /// Nothing, or up to 100 µs.
    fn pause(&mut self) {
        let span = match self.below(4) {
            0 | 1 => return,
            2 => Duration::from_nanos(self.next() % 2_000),
            _ => Duration::from_micros(self.next() % 100),
        };
        let end = Instant::now() + span;
        while Instant::now() < end {
            std::hint::spin_loop();
        }
    }
}
