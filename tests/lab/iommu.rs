//! A device behind an IOMMU reaches what is mapped for it, and not a byte more.

use std::thread::sleep;
use std::time::{Duration, Instant};

use oubliette::dma::vfio::{Both, FromDevice, Iova, ToDevice};
use oubliette::fault::{self, Call};
use oubliette::{DmaBuffer, Error, IommuRefusal, report};

use crate::check::{Check, Outcome, Patience, require};
use crate::edu::{self, COPY_BYTES, Edu};
use crate::support::fork::{ChildEnd, in_child};
use crate::support::{pages, pattern};

pub(crate) const CHECKS: &[Check] = &[
    Check::new("iommu_stops_unmapped_addresses", unmapped_addresses),
    Check::new("iommu_round_trip", round_trip),
    Check::new("iommu_stops_writes_to_a_read_only_mapping", read_only),
    Check::new("iommu_stops_what_comes_after_unmap", after_unmap),
    Check::new("iommu_stops_what_comes_during_unmap", during_unmap).at_most(Duration::from_secs(240)),
    Check::new("iommu_keeps_a_leaked_mapping_apart", leaked),
    Check::new("iommu_quarantines_what_cannot_be_unmapped", quarantine),
    Check::new("iommu_quarantines_where_descriptors_were_closed", closed),
    Check::new("iommu_survives_every_refusal", every_refusal),
    Check::new("iommu_mapping_stays_with_its_process", forked),
];

const PAGE: usize = pages::PAGE_BYTES;
/// The secret that the devices carry about.
const SEED: u64 = 0xed;

/// A buffer with the secret at its start, and zeros behind.
fn with_secret(bytes: usize) -> Result<DmaBuffer, Error> {
    let mut buffer = DmaBuffer::new(bytes)?;
    pattern::fill(&mut buffer[..COPY_BYTES], SEED);
    Ok(buffer)
}

/// Puts the secret into the memory of a device.
fn load(container: &oubliette::dma::vfio::Container, edu: &Edu<'_>) -> Outcome {
    let mapping = container.map::<ToDevice>(with_secret(PAGE)?)?;
    edu.take(mapping.iova())
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Lines of the kernel's log that tell of a refused access.
fn faults_logged() -> usize {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;

    let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
    let mut log = opened.expect("root may read the log");
    let mut record = [0; 8192];
    let mut faults = 0;
    loop {
        match log.read(&mut record) {
            Ok(len) => {
                let text = String::from_utf8_lossy(&record[..len]);
                faults += usize::from(text.contains("DMAR") && text.contains("fault"));
            }
            // Overwritten before it was read.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => return faults,
        }
    }
}

/// The pages before and behind a mapping, and one far from any. First of all checks here, since the kernel and QEMU
/// tell of a refused access once and not of all that follow at once.
fn unmapped_addresses() -> Outcome {
    let address = edu::addresses()[0];
    let container = edu::container(&[address])?;
    let edu = Edu::new(&container, address)?;
    load(&container, &edu)?;
    let mapping = container.map::<Both>(DmaBuffer::new(4 * PAGE)?)?;
    let start = mapping.iova().get();
    let faults = faults_logged();
    for outside in [start - PAGE as u64, start + 4 * PAGE as u64, 0, 0x800_0000] {
        edu.give(Iova::new(outside)?)?;
    }
    let mut patience = Patience::new(Duration::from_secs(10));
    while faults_logged() == faults && patience.is_left() {}
    println!("faults in the kernel's log: {}", faults_logged() - faults);
    require(faults_logged() > faults, || "no refused access in the kernel's log".to_owned())?;
    let buffer = mapping.unmap()?;
    require(is_zero(&buffer), || "something landed next to where it was sent".to_owned())?;

    // Control: the same device with the same content does reach what is mapped.
    let mapping = container.map::<Both>(buffer)?;
    edu.give(mapping.iova())?;
    let buffer = mapping.unmap()?;
    require(pattern::matches(&buffer[..COPY_BYTES], SEED), || "control: nothing landed at all".to_owned())
}

/// Out through one mapping and in through another, with all of the device's neighbours in the container.
fn round_trip() -> Outcome {
    let addresses = edu::addresses();
    let container = edu::container(&addresses)?;
    println!("{} devices in {} groups", addresses.len(), container.groups().len());
    for address in &addresses[..2] {
        let edu = Edu::new(&container, *address)?;
        let mapping = container.map::<ToDevice>(with_secret(4 * PAGE)?)?;
        let first = mapping.iova();
        edu.take(first)?;
        let mut buffer = mapping.unmap()?;
        require(pattern::matches(&buffer[..COPY_BYTES], SEED), || "the source changed".to_owned())?;
        buffer.wipe();
        let frames = pages::frame_of(buffer.as_ptr().addr());
        let mapping = container.map::<FromDevice>(buffer)?;
        require(mapping.iova() != first, || "the same address again".to_owned())?;
        edu.give(Iova::new(mapping.iova().get() + PAGE as u64)?)?;
        let buffer = mapping.unmap()?;
        require(pattern::matches(&buffer[PAGE..PAGE + COPY_BYTES], SEED), || "not what was sent".to_owned())?;
        require(is_zero(&buffer[..PAGE]) && is_zero(&buffer[PAGE + COPY_BYTES..]), || {
            "more than was sent".to_owned()
        })?;
        require(frames == pages::frame_of(buffer.as_ptr().addr()), || "another frame".to_owned())?;
        // QEMU's device cannot be reset, and says so.
        let reset = edu.device().reset();
        require(reset == Err(Error::Iommu(IommuRefusal::NoReset)), || format!("reset: {reset:?}"))?;
    }
    // At an address of one's own choice.
    let at = Iova::new(0x123_4000)?;
    let mapping = container.map_at::<Both>(DmaBuffer::new(PAGE)?, at)?;
    require(mapping.iova() == at, || format!("{:?}", mapping.iova()))?;
    let refused = container.map_at::<Both>(DmaBuffer::new(PAGE)?, at).map(drop).map_err(Error::from);
    require(refused == Err(Error::Iommu(IommuRefusal::Taken)), || format!("{refused:?}"))?;
    drop(mapping);
    drop(container.map_at::<Both>(DmaBuffer::new(PAGE)?, at)?);
    Ok(())
}

/// A device may read what is mapped for that, and not write to it.
fn read_only() -> Outcome {
    let address = edu::addresses()[0];
    let container = edu::container(&[address])?;
    let edu = Edu::new(&container, address)?;
    load(&container, &edu)?;
    let mut buffer = DmaBuffer::new(PAGE)?;
    buffer.fill(0x11);
    let mapping = container.map::<ToDevice>(buffer)?;
    edu.give(mapping.iova())?;
    let buffer = mapping.unmap()?;
    require(buffer.iter().all(|byte| *byte == 0x11), || "a byte landed".to_owned())?;

    // Control: mapped for writing, the same copy lands.
    let mapping = container.map::<FromDevice>(buffer)?;
    edu.give(mapping.iova())?;
    let mut buffer = mapping.unmap()?;
    require(pattern::matches(&buffer[..COPY_BYTES], SEED), || "control: nothing landed".to_owned())?;

    // Not promised: whether what is mapped for writing only can be read.
    pattern::fill(&mut buffer[..COPY_BYTES], SEED + 1);
    let mapping = container.map::<FromDevice>(buffer)?;
    edu.take(mapping.iova())?;
    drop(mapping);
    let mapping = container.map::<FromDevice>(DmaBuffer::new(PAGE)?)?;
    edu.give(mapping.iova())?;
    let buffer = mapping.unmap()?;
    let could_read = pattern::matches(&buffer[..COPY_BYTES], SEED + 1);
    println!("a mapping from the device only can be read by it here: {could_read}");
    Ok(())
}

/// An address that was unmapped leads nowhere, also when its buffer is gone and another is mapped next.
fn after_unmap() -> Outcome {
    let address = edu::addresses()[0];
    let container = edu::container(&[address])?;
    let edu = Edu::new(&container, address)?;
    load(&container, &edu)?;
    let mapping = container.map::<Both>(DmaBuffer::new(PAGE)?)?;
    let old = mapping.iova();
    let kept = mapping.unmap()?;
    edu.give(old)?;
    require(is_zero(&kept), || "a byte landed after unmap".to_owned())?;

    let next = container.map::<Both>(DmaBuffer::new(PAGE)?)?;
    edu.give(old)?;
    let next = next.unmap()?;
    require(is_zero(&next) && is_zero(&kept), || "a byte landed in what was mapped next".to_owned())?;

    // Dropped while it is mapped: unmapped before its pages go back.
    let mapping = container.map::<Both>(DmaBuffer::new(PAGE)?)?;
    let old = mapping.iova();
    edu.start_giving(old)?;
    drop(mapping);
    let fresh: Vec<DmaBuffer> = (0..64).map(|_| DmaBuffer::new(PAGE)).collect::<Result<_, _>>()?;
    edu.wait()?;
    require(fresh.iter().all(|buffer| is_zero(buffer)), || "a byte landed in somebody else's page".to_owned())
}

/// Copies whose end falls around the moment of the unmapping: what has not landed when that returns never does.
///
/// Where that moment is depends on how fast the emulator and the guest's clock go: it moves to where about half of the
/// copies land, round by round, and there are more rounds where it was too far away.
fn during_unmap() -> Outcome {
    const LEAST_COPIES: usize = 1000;
    const MOST_COPIES: usize = 4 * LEAST_COPIES;
    /// Of those that landed, and of those that did not.
    const ENOUGH: usize = 100;
    /// What a copy takes, as QEMU's clock counts.
    const FIRST_AIM: Duration = Duration::from_millis(100);
    /// By how much the aim moves.
    const STEP: Duration = Duration::from_millis(2);
    const SPREAD_MICROS: u64 = 20_000;
    let addresses = edu::addresses();
    let container = edu::container(&addresses)?;
    let devices: Vec<Edu<'_>> =
        addresses.iter().map(|at| Edu::new(&container, *at)).collect::<Result<_, _>>()?;
    for edu in &devices {
        load(&container, edu)?;
    }
    let mut random = 0x9e37_79b9_u64;
    let (mut landed, mut refused) = (0_usize, 0_usize);
    let mut buffers: Vec<DmaBuffer> =
        devices.iter().map(|_| DmaBuffer::new(PAGE)).collect::<Result<_, _>>()?;
    let mut aim = FIRST_AIM;
    while landed + refused < LEAST_COPIES || (landed.min(refused) < ENOUGH && landed + refused < MOST_COPIES)
    {
        let landed_before = landed;
        let start = Instant::now();
        let mut mappings = Vec::new();
        for (edu, buffer) in devices.iter().zip(buffers.drain(..)) {
            let mapping = container.map::<FromDevice>(buffer)?;
            edu.start_giving(mapping.iova())?;
            mappings.push(mapping);
        }
        // Counted from about the middle of the starts.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let moment = start.elapsed() / 2 + aim + Duration::from_micros((random >> 33) % SPREAD_MICROS);
        let moment = moment.saturating_sub(Duration::from_micros(SPREAD_MICROS / 2));
        sleep(moment.saturating_sub(start.elapsed()));
        for mapping in mappings {
            let mut buffer = mapping.unmap()?;
            if is_zero(&buffer) {
                refused += 1;
            } else {
                landed += 1;
            }
            buffer.wipe();
            buffers.push(buffer);
        }
        let is_late = 2 * (landed - landed_before) > devices.len();
        aim = if is_late { aim.saturating_sub(STEP) } else { aim + STEP };
        for edu in &devices {
            edu.wait()?;
        }
        require(buffers.iter().all(|buffer| is_zero(buffer)), || {
            "a byte landed after unmap returned".to_owned()
        })?;
    }
    println!(
        "{} copies: {landed} landed before the unmapping, {refused} did not land; the last aim was {aim:?}",
        landed + refused
    );
    require(landed > 0 && refused > 0, || "the moments were not around the end of the copies".to_owned())
}

/// A mapping that somebody leaks keeps its buffer: nobody else gets those pages, also when the container is gone.
fn leaked() -> Outcome {
    let address = edu::addresses()[0];
    let buffer = DmaBuffer::new(PAGE)?;
    let place = buffer.as_ptr().addr();
    let frame = pages::frame_of(place);
    {
        let container = edu::container(&[address])?;
        let edu = Edu::new(&container, address)?;
        load(&container, &edu)?;
        let mapping = container.map::<Both>(buffer)?;
        let iova = mapping.iova();
        std::mem::forget(mapping);
        let fresh: Vec<DmaBuffer> = (0..64).map(|_| DmaBuffer::new(PAGE)).collect::<Result<_, _>>()?;
        edu.give(iova)?;
        require(fresh.iter().all(|buffer| is_zero(buffer)), || "a byte landed in another buffer".to_owned())?;
        require(frame.is_some() && pages::frame_of(place) == frame, || "the leaked page moved".to_owned())?;
        let mut there = [0; COPY_BYTES];
        std::os::unix::fs::FileExt::read_exact_at(
            &std::fs::File::open("/proc/self/mem")?,
            &mut there,
            place as u64,
        )?;
        require(pattern::matches(&there, SEED), || {
            "control: it did not land where it was mapped".to_owned()
        })?;
    }
    // With the container its mappings end.
    let container = edu::container(&[address])?;
    let mapping = container.map::<Both>(DmaBuffer::new(PAGE)?)?;
    require(pages::frame_of(place) == frame, || "the leaked page moved".to_owned())?;
    drop(mapping.unmap()?);
    Ok(())
}

/// A mapping that the kernel does not end: its buffer is never used again, and counted.
fn quarantine() -> Outcome {
    let address = edu::addresses()[0];
    let container = edu::container(&[address])?;
    let edu = Edu::new(&container, address)?;
    load(&container, &edu)?;
    let before = report();
    for is_dropped in [false, true] {
        let buffer = DmaBuffer::new(PAGE)?;
        let place = buffer.as_ptr().addr();
        let frame = pages::frame_of(place);
        let mapping = container.map::<Both>(buffer)?;
        let iova = mapping.iova();
        let fault = fault::fail_always(Call::VfioUnmap, libc::EIO);
        if is_dropped {
            drop(mapping);
        } else {
            let refused = mapping.unmap().map(drop);
            let wanted = Err(Error::Iommu(IommuRefusal::NotUnmapped { errno: libc::EIO }));
            require(refused == wanted, || format!("{refused:?}"))?;
        }
        drop(fault);
        let fresh: Vec<DmaBuffer> = (0..64).map(|_| DmaBuffer::new(PAGE)).collect::<Result<_, _>>()?;
        edu.give(iova)?;
        require(fresh.iter().all(|buffer| is_zero(buffer)), || "a byte landed in another buffer".to_owned())?;
        let is_kept = frame.is_some() && pages::frame_of(place) == frame;
        let is_apart = fresh.iter().all(|buffer| buffer.as_ptr().addr() != place);
        require(is_kept && is_apart, || "the page was given back".to_owned())?;
        let again = container.map_at::<Both>(DmaBuffer::new(PAGE)?, iova).map(drop).map_err(Error::from);
        require(again == Err(Error::Iommu(IommuRefusal::Taken)), || {
            format!("its address was given out: {again:?}")
        })?;
    }
    let (before, after) = (before.dma(), report());
    let after = after.dma();
    require(after.quarantined == before.quarantined + 2, || format!("{after:?}"))?;
    require(after.quarantined_bytes == before.quarantined_bytes + 2 * PAGE, || format!("{after:?}"))
}

/// A program that closes every descriptor, as daemons do, ends the container behind its back: nobody can say any more
/// what is mapped, so the buffer is never used again.
fn closed() -> Outcome {
    let address = edu::addresses()[0];
    let container = edu::container(&[address])?;
    let mapping = container.map::<Both>(DmaBuffer::new(PAGE)?)?;
    let before = report();
    // SAFETY: closes what others own; none of their values is dropped below, and all else goes by `EBADF`.
    let code = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    require(code == 0, || "close_range".to_owned())?;
    let refused = mapping.unmap().map(drop);
    std::mem::forget(container);
    let wanted = Err(Error::Iommu(IommuRefusal::NotUnmapped { errno: libc::EBADF }));
    require(refused == wanted, || format!("{refused:?}"))?;
    let (before, after) = (before.dma(), report());
    let after = after.dma();
    let is_kept = after.quarantined == before.quarantined + 1 && after.live == before.live;
    require(is_kept, || format!("{before:?}, then {after:?}"))
}

/// All that is done with a device, with each of its system calls refused in turn.
fn every_refusal() -> Outcome {
    const CALLS: [Call; 4] = [Call::VfioOpen, Call::VfioMap, Call::VfioUnmap, Call::VfioDevice];
    let address = edu::addresses()[0];
    edu::bind(address);
    let mut refusals = 0;
    for call in CALLS {
        for nth in 0.. {
            let before = report();
            let calls = fault::count(call);
            let fault = fault::fail(call, nth, libc::EIO);
            let result = whole_course(address);
            drop(fault);
            let was_refused = fault::count(call) > calls + nth;
            let (before, after) = (before.dma(), report());
            let after = after.dma();
            let lost = after.quarantined - before.quarantined;
            let is_unmap = was_refused && call == Call::VfioUnmap;
            require(lost == usize::from(is_unmap), || format!("{call:?} {nth}: {lost} quarantined"))?;
            require(after.live == before.live + lost, || format!("{call:?} {nth}: a buffer was lost"))?;
            if !was_refused {
                require(result.is_ok(), || format!("without a refusal: {result:?}"))?;
                break;
            }
            // The one that stops the device when it is dropped has nobody to tell.
            let is_told = result.is_err() || call == Call::VfioDevice;
            require(is_told, || format!("{call:?} {nth}: nobody was told"))?;
            refusals += 1;
        }
    }
    println!("{refusals} refusals");
    require(refusals >= 15, || format!("{refusals} refusals only"))
}

fn whole_course(address: oubliette::dma::vfio::PciAddress) -> Outcome {
    let container = edu::container(&[address])?;
    let edu = Edu::new(&container, address)?;
    let mapping = container.map::<Both>(DmaBuffer::new(PAGE)?)?;
    edu.start_giving(mapping.iova())?;
    drop(mapping.unmap()?);
    Ok(())
}

/// A forked child can neither end its parent's mapping nor make one, and what it drops is its own.
fn forked() -> Outcome {
    let address = edu::addresses()[0];
    let container = edu::container(&[address])?;
    let edu = Edu::new(&container, address)?;
    load(&container, &edu)?;
    let mapping = container.map::<FromDevice>(DmaBuffer::new(PAGE)?)?;
    let ended = in_child(|| {
        // SAFETY: the child's copy of the parent's value; the child never looks at the original again.
        let copy = unsafe { std::ptr::read(&raw const mapping) };
        assert_eq!(copy.unmap().map(drop), Err(Error::LeftBehind));
        // SAFETY: as above, of a device.
        let copy = unsafe { std::ptr::read(&raw const edu) };
        drop(copy);
        if let Ok(buffer) = DmaBuffer::new(PAGE) {
            let refused = container.map::<Both>(buffer).map(drop).map_err(Error::from);
            assert_eq!(refused, Err(Error::LeftBehind));
        }
    });
    require(ended == ChildEnd::Done, || format!("the child: {ended:?}"))?;
    edu.give(mapping.iova())?;
    let buffer = mapping.unmap()?;
    let is_there = pattern::matches(&buffer[..COPY_BYTES], SEED);
    require(is_there, || "the child ended the mapping, or stopped the device".to_owned())
}
