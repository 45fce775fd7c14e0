//! What is refused, and how it is told: devices that are not to be had, addresses, limits.

use std::fs;

use oubliette::dma::vfio::{Both, Container, Group, Interface, Iova, PciAddress};
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
    // Without that driver it is, and either device stands for it. The one without any driver is not to be had.
    edu::unbind(second);
    Group::of(first).map(drop)?;
    let container = Container::new([Group::of(second)?])?;
    container.device(first).map(drop)?;
    expect(container.device(second), IommuRefusal::NoSuchDevice)?;
    drop(container);
    edu::unbind(first);
    Ok(())
}

/// Kernels without a container, without iommufd and without groups, played by their files. Where the kernel has iommufd
/// that does as a container does; where it has nothing else, all the other checks told so too.
fn kernels() -> Outcome {
    const CONTAINER: &str = "/dev/vfio/vfio";
    const IOMMUFD: &str = "/dev/iommu";
    let address = edu::addresses()[0];
    edu::bind(address);
    let take = || -> Result<Interface, Error> { Ok(Container::new([Group::of(address)?])?.interface()) };
    // That module's settings are there also where it is built in.
    let has_type1 = fs::exists("/sys/module/vfio_iommu_type1")?;
    let wanted = if has_type1 { Interface::Type1 } else { Interface::Iommufd };
    let (has_container, has_iommufd) = (fs::exists(CONTAINER)?, fs::exists(IOMMUFD)?);
    println!("{CONTAINER}: {has_container}, {IOMMUFD}: {has_iommufd}, type 1: {has_type1}");
    println!("iommufd: {}", if has_iommufd { "there" } else { "not in this kernel" });
    let group = format!("/dev/vfio/{}", group_number(address));
    if has_iommufd && !fs::exists(&group)? {
        println!("a kernel without groups: the other checks cannot run on it");
        return expect(take(), IommuRefusal::OnlyIommufd);
    }
    let found = take()?;
    require(found == wanted, || format!("{found:?} instead of {wanted:?}"))?;

    let without_group = || without(&group, take);
    if has_iommufd {
        if has_container {
            require(without(CONTAINER, take)?? == Interface::Iommufd, || "not replaced".to_owned())?;
        }
        expect(without(IOMMUFD, || without(CONTAINER, take))??, IommuRefusal::NoVfio)?;
        expect(without_group()?, IommuRefusal::OnlyIommufd)?;
        expect(without(IOMMUFD, without_group)??, IommuRefusal::NoDriver { group: group_number(address) })?;
    } else {
        expect(without(CONTAINER, take)?, IommuRefusal::NoVfio)?;
        expect(without_group()?, IommuRefusal::NoDriver { group: group_number(address) })?;
        fs::write(IOMMUFD, "")?;
        // A file that is no container.
        let refused = without(CONTAINER, take);
        let only = without_group();
        fs::remove_file(IOMMUFD)?;
        expect(refused?, IommuRefusal::NoVfio)?;
        expect(only?, IommuRefusal::OnlyIommufd)?;
    }
    require(take()? == wanted, || "not as before".to_owned())
}

/// What comes of it while this file is not there, if it is.
fn without<T>(path: &str, what: impl FnOnce() -> T) -> std::io::Result<T> {
    let away = format!("{path}-away");
    let is_there = fs::exists(path)?;
    if is_there {
        fs::rename(path, &away)?;
    }
    let result = what();
    if is_there {
        fs::rename(&away, path)?;
    }
    Ok(result)
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
    /// Where devices write to for an interrupt (Intel SDM volume 3, 11.11.1).
    const INTERRUPTS: u64 = 0xfee0_0000;
    let address = edu::addresses()[0];
    edu::bind(address);
    let wide = Container::new([Group::of(address)?])?;
    let map_at = |iova: u64| -> Result<(), Error> {
        drop(wide.map_at::<Both>(DmaBuffer::new(2 * PAGE)?, Iova::new(iova)?)?);
        Ok(())
    };
    map_at(INTERRUPTS - 2 * PAGE as u64)?;
    // No device was opened so far, and yet it is known where none may be mapped, and how far the IOMMU reaches.
    expect(map_at(INTERRUPTS - PAGE as u64), IommuRefusal::OutOfReach)?;
    expect(map_at(INTERRUPTS), IommuRefusal::OutOfReach)?;
    expect(map_at(1 << 62), IommuRefusal::OutOfReach)?;
    drop(wide.device(address)?);
    drop(wide);

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
