//! AF_XDP on other kernels than this machine's: packets arrive whole, and none lands after the end of a socket.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use oubliette::DmaBuffer;
use oubliette::dma::xdp::{Attach, FrameSize, Interface, Umem, Wipe, XdpOptions, XdpSocket};

use crate::check::{Check, Ended, Outcome, Patience, require};
use crate::support::net::{self, Wire, packet};
use crate::support::pages::OwnMemory;

pub(crate) const CHECKS: &[Check] = &[
    Check::new("xdp_packets_arrive_whole_through_few_frames", arrive),
    Check::new("xdp_no_byte_lands_after_the_end", after_the_end),
];

/// Our end of the pair, and the other.
const OURS: &str = "ours";
const THEIRS: &str = "theirs";
const LONG: Duration = Duration::from_secs(20);
/// The packet before the first that counts.
const FIRST: (u64, usize) = (0, 60);

/// Runs a check with a pair of interfaces in a network of its own.
fn with_pair(check: impl FnOnce() -> Outcome + Send) -> Outcome {
    let mut outcome = Err(Ended::Failed("no network namespace".to_owned()));
    net::in_own_network(|| {
        outcome = net::make_pair(OURS, THEIRS, 1)
            .map_err(|error| Ended::Skipped(format!("this kernel has no veth: {error}")))
            .and_then(|()| Ok([net::turn_on(OURS)?, net::turn_on(THEIRS)?]))
            .and_then(|_| check());
    });
    outcome
}

fn umem(frames: u32) -> Result<Umem, Ended> {
    Ok(Umem::new(DmaBuffer::new(frames as usize * 2048)?, FrameSize::Bytes2048))
}

fn arrive() -> Outcome {
    const PACKETS: u64 = 2000;
    for mode in [Attach::Driver, Attach::Generic] {
        with_pair(|| {
            let interface = Interface::attach(OURS, mode)?;
            let socket = XdpSocket::bind(umem(16)?, &interface, 0, XdpOptions::new())?;
            let wire = Wire::new(THEIRS)?;
            let mut patience = Patience::new(LONG);
            while socket.wait(Some(Duration::from_millis(50)))? == 0 {
                let _ = wire.send(&packet(FIRST.0, FIRST.1));
                require(patience.is_left(), || "the pair does not connect".to_owned())?;
            }
            while socket.receive().is_some() {}
            for seed in 1..=PACKETS {
                let len = 60 + (seed as usize * 37) % 1400;
                wire.send(&packet(seed, len))?;
                let is_whole =
                    next_that_counts(&socket)?.is_some_and(|received| received == packet(seed, len));
                require(is_whole, || format!("{mode:?}: packet {seed} is another"))?;
                if seed % 4 == 0 {
                    let sent = packet(seed, len);
                    let mut patience = Patience::new(LONG);
                    while socket.send(&sent).is_err() {
                        require(patience.is_left(), || "frames do not come back".to_owned())?;
                    }
                    let got = wire.receive(LONG);
                    require(got == Some(sent), || format!("{mode:?}: sent packet {seed} is another"))?;
                }
            }
            println!("{mode:?}: {PACKETS} packets through 8 frames, and a quarter as many back");
            Ok(())
        })?;
    }
    Ok(())
}

/// The next packet that a socket receives, but for those by which it was seen that the pair connects: of them there may
/// be many, and late.
fn next_that_counts(socket: &XdpSocket) -> Result<Option<Vec<u8>>, Ended> {
    let first = packet(FIRST.0, FIRST.1);
    let mut patience = Patience::new(LONG);
    loop {
        socket.wait(Some(Duration::from_millis(50)))?;
        match socket.receive() {
            Some(received) if *received == *first => {}
            Some(received) => return Ok(Some(received.to_vec())),
            None if patience.is_left() => {}
            None => return Ok(None),
        }
    }
}

fn after_the_end() -> Outcome {
    const ROUNDS: u32 = 5;
    // More than are filled until long after the end.
    const FRAMES: u32 = 1024;
    with_pair(|| {
        let wire = Wire::new(THEIRS)?;
        let is_over = AtomicBool::new(false);
        let sender = Sender::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let packet = packet(1, 1000);
                while !is_over.load(Ordering::Relaxed) {
                    let _ = wire.send(&packet);
                    sender.sent.fetch_add(1, Ordering::Relaxed);
                    if !sender.is_hasty.load(Ordering::Relaxed) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            });
            let checked = rounds(ROUNDS, FRAMES, &sender);
            is_over.store(true, Ordering::Relaxed);
            checked
        })?;
        let quarantined = oubliette::report().dma().quarantined;
        require(quarantined == 0, || format!("{quarantined} quarantined"))
    })
}

/// Who sends packets all the time: some, so that frames are left, until the end of a socket is near, and from then on as
/// many as can be.
#[derive(Default)]
struct Sender {
    is_hasty: AtomicBool,
    sent: AtomicUsize,
}

impl Sender {
    /// Begins to send as many as can be, and returns when some are sent.
    fn make_haste(&self) -> Outcome {
        let before = self.sent.load(Ordering::Relaxed);
        self.is_hasty.store(true, Ordering::Relaxed);
        let mut patience = Patience::new(LONG);
        while self.sent.load(Ordering::Relaxed) < before + 8 {
            require(patience.is_left(), || "nobody sends".to_owned())?;
        }
        Ok(())
    }
}

/// As many ends as that with frames left at the end: on a busy machine most may be filled before.
fn rounds(wanted: u32, frames: u32, sender: &Sender) -> Outcome {
    let mut telling = 0;
    for round in 0..4 * wanted {
        telling += u32::from(one_end(round, frames, sender)?);
        if telling == wanted {
            return Ok(());
        }
    }
    require(false, || format!("{telling} ends with frames left that packets can land in, of {wanted}"))
}

/// Whether frames were left that packets could land in, none of which did.
fn one_end(round: u32, frames: u32, sender: &Sender) -> Result<bool, Ended> {
    sender.is_hasty.store(false, Ordering::Relaxed);
    let memory = OwnMemory::open();
    let interface =
        Interface::attach(OURS, if round.is_multiple_of(2) { Attach::Driver } else { Attach::Generic })?;
    let umem = umem(frames)?;
    let options = XdpOptions::new().wipe(Wipe::AtEnd).receive_frames(frames);
    let socket = XdpSocket::bind(umem, &interface, 0, options)?;
    require(socket.wait(Some(LONG))? > 0, || "nothing lands in a live socket".to_owned())?;
    let first = socket.receive().map(|packet| packet.as_ptr().addr());
    sender.make_haste()?;
    let begun = Instant::now();
    let waiting = socket.wait(Some(Duration::ZERO))?;
    let mut buffer = socket.into_buffer()?;
    println!("round {round}: {waiting} packets waited at the end, which took {:?}", begun.elapsed());
    let range = buffer.as_ptr_range();
    require(first.is_some_and(|first| (range.start.addr()..range.end.addr()).contains(&first)), || {
        "a packet that does not lie in the buffer".to_owned()
    })?;
    buffer.fill(0);
    let end = Instant::now() + Duration::from_millis(100);
    loop {
        let is_late = Instant::now() > end;
        let is_zero = memory.is_zero(buffer.as_ptr().addr(), buffer.len());
        require(is_zero, || format!("a byte landed after the end, in round {round}"))?;
        if is_late {
            return Ok(waiting < frames / 2);
        }
    }
}
