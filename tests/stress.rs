//! Eight threads that pass blocks to each other, in a program that lives in the secret heap.
//!
//! Runs for a second, or for as many as `OUBLIETTE_STRESS_SECONDS` says. `ci/sanitizers` runs it for a minute
//! under ThreadSanitizer and under AddressSanitizer, and there also the two tests that are ignored here: each
//! does what its sanitizer must report, so that silence means something.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests"
)]

use std::env;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

use oubliette::{Error, Oubliette, SecretBox, SecretString, SecretVec};

#[global_allocator]
static PROGRAM: Oubliette = Oubliette::new();

const NR_THREADS: usize = 8;

fn end() -> Instant {
    let seconds = env::var("OUBLIETTE_STRESS_SECONDS").map_or(1, |seconds| seconds.parse().unwrap());
    Instant::now() + Duration::from_secs(seconds)
}

/// xorshift64*, seeded by a thread's number: the same requests in each run.
struct Random(u64);

impl Random {
    const fn new(seed: usize) -> Self {
        Self((seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    const fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    const fn size(&mut self) -> usize {
        match self.below(100) {
            0..60 => self.below(256),
            60..90 => self.below(4096),
            90..99 => self.below(30_000),
            _ => self.below(300_000),
        }
    }
}

/// What is passed on: blocks of the program's heap and of the secrets' heap, each filled with one byte.
enum Parcel {
    Bytes(Vec<u8>, u8),
    Key(SecretBox<[u8; 32]>, u8),
    Secrets(SecretVec<u8>, u8),
    Text(SecretString, char),
}

impl Parcel {
    fn make(random: &mut Random) -> Self {
        let fill = 1 + random.below(255) as u8;
        // Where little memory may be locked, secrets are refused at times; the program's blocks never are.
        let secret = if random.below(8) < 3 { Self::secret(random, fill).ok() } else { None };
        secret.unwrap_or_else(|| Self::Bytes(vec![fill; random.size()], fill))
    }

    fn secret(random: &mut Random, fill: u8) -> Result<Self, Error> {
        match random.below(3) {
            0 => Ok(Self::Key(SecretBox::new_with(|key: &mut [u8; 32]| key.fill(fill))?, fill)),
            1 => {
                let mut secrets = SecretVec::new();
                (0..random.below(600)).try_for_each(|_| secrets.push(fill))?;
                Ok(Self::Secrets(secrets, fill))
            }
            _ => {
                let letter = char::from(b'a' + fill % 26);
                let mut text = SecretString::new();
                (0..random.below(100)).try_for_each(|_| text.push(letter))?;
                Ok(Self::Text(text, letter))
            }
        }
    }

    fn check(&self) {
        let is_whole = match self {
            Self::Bytes(bytes, fill) => bytes.iter().all(|byte| byte == fill),
            Self::Key(key, fill) => key.expose().iter().all(|byte| byte == fill),
            Self::Secrets(secrets, fill) => secrets.expose().iter().all(|byte| byte == fill),
            Self::Text(text, letter) => text.expose().chars().all(|found| found == *letter),
        };
        assert!(is_whole, "a block changed on its way");
    }

    /// Changes the size of what another thread made.
    fn resize(&mut self, random: &mut Random) {
        if let Self::Bytes(bytes, fill) = self {
            bytes.resize(random.size(), *fill);
            bytes.shrink_to_fit();
        }
    }
}

/// Everybody to everybody: frees and resizes what others made, keeps some, and starts threads that end while
/// their blocks live on.
#[test]
fn eight_threads_pass_blocks_to_each_other() {
    let end = end();
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..NR_THREADS).map(|_| mpsc::sync_channel::<Parcel>(64)).unzip();
    let passed: usize = thread::scope(|scope| {
        let workers: Vec<_> = receivers
            .into_iter()
            .enumerate()
            .map(|(number, receiver)| {
                let senders = &senders;
                scope.spawn(move || work(number, senders, &receiver, end))
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    // The kernel's word, since a sanitizer may have made mlock(3) do nothing.
    let report = oubliette::report();
    let ours: usize = report.heaps().map(|heap| heap.locked_bytes).sum();
    let kernels = report.lock_limit().locked_bytes;
    println!("{passed} blocks changed threads; {ours} bytes locked by us, {kernels:?} as the kernel says");
    assert!(ours == 0 || kernels != Some(0), "locked by no word but ours");
    assert!(passed > 100, "{passed}");
}

fn work(number: usize, senders: &[SyncSender<Parcel>], receiver: &Receiver<Parcel>, end: Instant) -> usize {
    let mut random = Random::new(number);
    let mut kept = Vec::new();
    let mut passed = 0;
    while Instant::now() < end {
        for _ in 0..50 {
            let to = &senders[random.below(NR_THREADS)];
            match to.try_send(Parcel::make(&mut random)) {
                Ok(()) => passed += 1,
                Err(TrySendError::Full(parcel) | TrySendError::Disconnected(parcel)) => parcel.check(),
            }
        }
        while let Ok(mut parcel) = receiver.try_recv() {
            parcel.check();
            parcel.resize(&mut random);
            parcel.check();
            if random.below(4) == 0 {
                kept.push(parcel);
            }
        }
        if kept.len() > 200 {
            kept.drain(..150).for_each(|parcel| parcel.check());
        }
        match random.below(64) {
            0 => {
                let seed = random.below(1 << 20);
                let make = move || (0..50).map(|_| Parcel::make(&mut Random::new(seed))).collect::<Vec<_>>();
                kept.extend(thread::spawn(make).join().unwrap());
            }
            1 => oubliette::flush(),
            2 => assert!(oubliette::report().heaps().count() > 0),
            _ => {}
        }
    }
    kept.iter().for_each(Parcel::check);
    passed
}

/// Four threads make, four others free, and nothing ever comes back but the blocks themselves: what the makers
/// reuse was wiped by threads that they share no other synchronisation with. The throttle is relaxed on
/// purpose, so that it orders nothing.
#[test]
fn blocks_that_only_go_one_way_are_reused_in_order() {
    let end = end();
    let passed: usize = thread::scope(|scope| {
        let makers: Vec<_> = (0..NR_THREADS / 2)
            .map(|number| {
                let (sender, receiver) = mpsc::channel();
                let freed: &'static AtomicUsize = Box::leak(Box::new(AtomicUsize::new(0)));
                scope.spawn(move || {
                    while let Ok(parcel) = next(&receiver) {
                        parcel.check();
                        drop(parcel);
                        freed.fetch_add(1, Ordering::Relaxed);
                    }
                });
                scope.spawn(move || make(number, &sender, freed, end))
            })
            .collect();
        makers.into_iter().map(|maker| maker.join().unwrap()).sum()
    });
    println!("{passed} blocks went one way");
    assert!(passed > 100, "{passed}");
}

/// Without blocking, which would take a lock that the sender takes too.
fn next(receiver: &Receiver<Parcel>) -> Result<Parcel, mpsc::TryRecvError> {
    loop {
        match receiver.try_recv() {
            Err(mpsc::TryRecvError::Empty) => thread::yield_now(),
            result => return result,
        }
    }
}

fn make(number: usize, sender: &Sender<Parcel>, freed: &AtomicUsize, end: Instant) -> usize {
    let mut random = Random::new(100 + number);
    let mut made = 0;
    while Instant::now() < end {
        if made - freed.load(Ordering::Relaxed) < 500 {
            sender.send(Parcel::make(&mut random)).unwrap();
            made += 1;
        } else {
            thread::yield_now();
        }
    }
    made
}

/// What the sanitizers must report.
#[allow(unsafe_code, clippy::undocumented_unsafe_blocks, reason = "commits the crimes that are to be found")]
mod control {
    use std::sync::Barrier;

    use super::*;

    struct Shared(*mut u8);

    unsafe impl Sync for Shared {}

    /// Two threads write to one block of the heap, and nothing orders them.
    #[test]
    #[ignore = "a data race"]
    fn planted_race() {
        let mut bytes = vec![0_u8; 64];
        let shared = Shared(bytes.as_mut_ptr());
        let shared = &shared;
        // One thread after the other would be in order: the second takes over what the first gave up.
        let start = Barrier::new(2);
        thread::scope(|scope| {
            for value in 1..=2 {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    (0..100_000).for_each(|_| unsafe { shared.0.write_volatile(value) });
                });
            }
        });
        println!("{}", bytes[0]);
    }

    /// Reads behind an array on the stack.
    #[test]
    #[ignore = "out of bounds"]
    fn planted_overflow() {
        let bytes = std::hint::black_box([1_u8; 32]);
        let past = unsafe { bytes.as_ptr().wrapping_add(std::hint::black_box(32)).read_volatile() };
        println!("{past}");
    }
}
