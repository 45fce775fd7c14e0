//! What is refused, and how it is told: devices that are not to be had, addresses, limits.

use std::fs;

use oubliette::dma::vfio::{Both, Container, Group, Iova, PciAddress};
use oubliette::{DmaBuffer, Error, IommuRefusal};

use crate::check::{Check, Ended, Outcome, require};
use crate::edu;
use crate::support::limits;

pub(crate) const CHECKS: &[Check] = &[
    Check::new("vfio_tells_devices_that_are_not_to_be_had", devices),
    Check::new("vfio_tells_a_group_that_is_not_viable", not_viable),
    Check::new("vfio_tells_what_the_kernel_lacks", kernels),
    Check::new("vfio_tells_who_is_not_permitted", permissions),
    Check::new("vfio_tells_the_limit_of_locked_memory", limit),
    Check::new("vfio_checks_addresses", addresses),
];

const PAGE: usize = crate::support::pages::PAGE_BYTES;

#[track_caller]
fn expect<T: std::fmt::Debug>(got: Result<T, Error>, wanted: IommuRefusal) -> Outcome {
    match got {
        Err(Error::Iommu(refusal)) if refusal == wanted => Ok(()),
        other => Err(Ended::Failed(format!("{other:?} instead of {wanted:?}"))),
    }
}

fn group_number(address: PciAddress) -> u32 {
    let link = fs::read_link(format!("/sys/bus/pci/devices/{address}/iommu_group")).expect("it has a group");
    link.file_name().and_then(|name| name.to_str()?.parse().ok()).expect("a number")
}

fn devices() -> Outcome {
    expect(Group::of("0000:77:1f.7".parse()?), IommuRefusal::NoGroup)?;
    expect(Container::new([]), IommuRefusal::NoGroup)?;
    let address = *edu::addresses().last().expect("there are some");
    edu::unbind(address);
    expect(Group::of(address), IommuRefusal::NoDriver { group: group_number(address) })?;
    edu::bind(address);
    let group = Group::of(address)?;
    expect(Group::of(address), IommuRefusal::InUse { group: group.number() })?;
    let container = Container::new([group])?;
    expect(container.device(edu::addresses()[0]), IommuRefusal::NoSuchDevice)?;
    let device = container.device(address)?;
    expect(device.bar(1), IommuRefusal::NoSuchDevice)?;
    expect(device.bar(6), IommuRefusal::NoSuchDevice)?;
    let bar = device.bar(0)?;
    for offset in [bar.size_bytes(), bar.size_bytes() - 2, 2, u64::MAX - 3, u64::MAX] {
        expect(bar.read_u32(offset), IommuRefusal::OutOfReach)?;
        expect(bar.write_u32(offset, 0), IommuRefusal::OutOfReach)?;
    }
    Ok(())
}

/// `ci/lab` gives the guest a device of which the other function has a driver of the kernel.
fn not_viable() -> Outcome {
    const FIRST: &str = edu::NOT_VIABLE;
    const SECOND: &str = "0000:00:1e.1";
    let driver = fs::read_link(format!("/sys/bus/pci/devices/{SECOND}/driver"))?;
    let (first, second): (PciAddress, PciAddress) = (FIRST.parse()?, SECOND.parse()?);
    let group = group_number(first);
    require(group == group_number(second), || "the two functions are in different groups".to_owned())?;
    edu::bind(first);
    println!("{SECOND} of group {group} has the driver {}", driver.display());
    expect(Group::of(first), IommuRefusal::NotViable { group })?;
    // Without that driver it is.
    edu::unbind(second);
    Group::of(first).map(drop)?;
    edu::unbind(first);
    Ok(())
}

/// Kernels without VFIO, and ones with iommufd only, played by their files.
fn kernels() -> Outcome {
    let address = edu::addresses()[0];
    println!("iommufd: {}", if fs::exists("/dev/iommu")? { "there" } else { "not in this kernel" });
    edu::bind(address);
    let take = || Container::new([Group::of(address)?]);
    drop(take()?);
    fs::rename("/dev/vfio/vfio", "/dev/vfio/away")?;
    let without = take();
    fs::write("/dev/iommu-played", "")?;
    let had_iommufd = fs::exists("/dev/iommu")?;
    if !had_iommufd {
        fs::rename("/dev/iommu-played", "/dev/iommu")?;
    }
    let with_iommufd = take();
    if !had_iommufd {
        fs::remove_file("/dev/iommu")?;
    }
    fs::rename("/dev/vfio/away", "/dev/vfio/vfio")?;
    if !had_iommufd {
        expect(without, IommuRefusal::NoVfio)?;
    }
    expect(with_iommufd, IommuRefusal::OnlyIommufd)?;
    drop(take()?);
    Ok(())
}

fn permissions() -> Outcome {
    let address = edu::addresses()[0];
    edu::bind(address);
    drop(Group::of(address)?);
    limits::as_ordinary_user(8 << 20).map_err(|refused| Ended::Failed(refused.0))?;
    expect(Group::of(address), IommuRefusal::NotPermitted)
}

/// What is mapped counts together with what is locked.
fn limit() -> Outcome {
    /// Two pages and twice `BYTES`, but not 64 KiB more.
    const LIMIT: u64 = 550 << 10;
    const BYTES: usize = 256 << 10;
    let container = edu::container(&edu::addresses()[..1])?;
    limits::as_ordinary_user(LIMIT).map_err(|refused| Ended::Failed(refused.0))?;
    let mut small = DmaBuffer::builder(PAGE).allow_locked_only().build()?;
    small.fill(7);
    let small = container.map::<Both>(small)?;
    let mut buffer = DmaBuffer::builder(BYTES).allow_locked_only().build()?;
    buffer.fill(8);
    let first = container.map::<Both>(buffer)?;
    drop(first);
    let second = DmaBuffer::builder(BYTES).allow_locked_only().build()?;
    let third = DmaBuffer::builder(64 << 10).allow_locked_only().build()?;
    let refused = container.map::<Both>(second);
    println!("VmLck {}, limit {LIMIT}", limits::status_bytes("VmLck"));
    let Err(refused) = refused else { return Err(Ended::Failed("mapped beyond the limit".to_owned())) };
    println!("{refused}");
    let wanted = Error::LockLimit { needed_bytes: BYTES, limit_bytes: LIMIT as usize };
    require(refused.error == wanted, || format!("{:?}", refused.error))?;
    require(refused.buffer.len() == BYTES, || "not the buffer".to_owned())?;
    // With less locked it goes.
    drop(third);
    drop(small.unmap()?);
    let mapping = container.map::<Both>(refused.buffer)?;
    require(mapping.page_bytes() == BYTES, || "another size".to_owned())
}

fn addresses() -> Outcome {
    let container = edu::container(&edu::addresses()[..1])?;
    let map_at = |iova: u64| -> Result<(), Error> {
        drop(container.map_at::<Both>(DmaBuffer::new(2 * PAGE)?, Iova::new(iova)?)?);
        Ok(())
    };
    map_at(0x10_0000)?;
    expect(map_at(0x10_0800), IommuRefusal::OutOfReach)?;
    expect(map_at(0), IommuRefusal::OutOfReach)?;
    expect(map_at((1 << 28) - PAGE as u64), IommuRefusal::OutOfReach)?;
    expect(map_at(u64::MAX - 0xfff), IommuRefusal::OutOfReach)?;
    // More than the devices know addresses for.
    let mut narrow = {
        drop(container);
        edu::container(&edu::addresses()[..1])?
    };
    narrow.set_address_bits(16);
    let mut mappings = Vec::new();
    let refused = loop {
        match narrow.map::<Both>(DmaBuffer::new(PAGE)?) {
            Ok(mapping) => mappings.push(mapping),
            Err(refused) => break Error::from(refused),
        }
    };
    println!("{} pages in 64 KiB of addresses, with a page between them", mappings.len());
    require(refused == Error::Iommu(IommuRefusal::NoSpace), || format!("{refused:?}"))?;
    // All but the page at zero, and a page behind each.
    require(mappings.len() == 7, || "not as many as fit".to_owned())
}
