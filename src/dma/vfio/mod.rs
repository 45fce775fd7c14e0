//! Devices that are driven from this process, behind an IOMMU: they reach the buffers that are mapped for them and
//! nothing else.
//!
//! ```no_run
//! use oubliette::DmaBuffer;
//! use oubliette::dma::vfio::{BusMaster, Container, FromDevice, Group, PciAddress};
//!
//! # fn main() -> Result<(), oubliette::Error> {
//! let address: PciAddress = "0000:00:04.0".parse()?;
//! let container = Container::new([Group::of(address)?])?;
//! let device = container.device(address)?;
//! let registers = device.bar(0)?;
//!
//! let buffer = DmaBuffer::new(1 << 16)?;
//! let mapping = container.map::<FromDevice>(buffer)?; // the buffer is the mapping's: no byte can be touched
//! device.set_bus_master(BusMaster::On)?;
//! registers.write_u32(0x80, u32::try_from(mapping.iova().get()).expect("this device has 32 bits"))?;
//! // ... until the device says that it is done ...
//! device.set_bus_master(BusMaster::Off)?;
//! let buffer = mapping.unmap()?; // from here on the device reaches none of it
//! # Ok(())
//! # }
//! ```
//!
//! # What is protected
//!
//! * *Everything that is not mapped.* Where a device goes astray, or is told a wrong address, the IOMMU stops it.
//! * *A mapped buffer* is the mapping's: nobody can touch, wipe, unpin or free it before it is unmapped, and when
//!   that returns no access of the device can reach it any more, not even one that is on its way.
//! * *An address that was unmapped* is not given out again before the others were, and between two mappings
//!   there is a page that is not mapped: what comes late, or runs too far, meets nothing.
//!
//! # What is not
//!
//! * What a device writes into a buffer while it is mapped for that, and when: it may be anything.
//! * A mapping that is leaked (`mem::forget`) stays for as long as its container, and its buffer for ever.
//! * A forked child has copies of the descriptors, and can use neither them nor the mappings; but as long as it lives,
//!   or until it calls `execve`, the end of its parent does not end the parent's leaked mappings. Pages of theirs are
//!   not given to anybody else meanwhile.
//! * Interrupts: poll, or ask the kernel for an `eventfd` by other means.
//!
//! # Who owns a mapped buffer: three designs, and why one won
//!
//! A mapping must be unmapped before its buffer can be touched, also where somebody leaks it.
//!
//! 1. *The mapping borrows the buffer* (`&mut DmaBuffer`). Leaking the mapping ends the borrow, and then the buffer can be
//!    read while the device writes it, or freed: unsound, unless the buffer counts its mappings and refuses.
//! 2. *A closure* (`container.with_mapping(&mut buffer, |mapping| ..)`) that unmaps when it returns. Sound, but a mapping
//!    cannot be kept in a structure or be sent to another thread.
//! 3. *The mapping owns the buffer* and gives it back when it is unmapped, as a transfer of a ring does. Leaking it leaks
//!    the buffer, whose pages then stay where they are: sound, without a check at run time.
//!
//! The third won. A mapping borrows its container, so the other order cannot be written either.
//!
//! # Kernel
//!
//! VFIO type 1 (`CONFIG_VFIO`, `CONFIG_VFIO_IOMMU_TYPE1`), or iommufd behind the same types: in the place of VFIO's container
//! (`CONFIG_IOMMUFD_VFIO_CONTAINER`), or by `/dev/iommu` where there is none, which groups join like one (Linux 6.2).
//! [`Container::interface`] tells which it is. A kernel without groups (`CONFIG_VFIO_GROUP`) is told apart
//! ([`IommuRefusal::OnlyIommufd`](crate::IommuRefusal::OnlyIommufd)) and not supported. Interrupt remapping is asked for;
//! the mode without an IOMMU is never used.
//!
//! Two ways to iommufd were weighed: its own operations (an address space, a device bound to it by its character
//! device), and those of a container, which it answers too. The second won: one code, proved against one
//! set of devices, and what the first has beyond it (page tables of guests, faults handled by the process)
//! is nothing that a buffer needs.

mod address;
mod container;
mod device;
mod direction;
mod group;
mod interface;
mod mapping;
mod space;

pub use address::{Iova, PciAddress};
pub use container::Container;
pub use device::{Bar, BusMaster, Device};
pub use direction::{Both, Direction, FromDevice, ToDevice};
pub use group::Group;
pub use interface::Interface;
pub use mapping::{IommuMapping, NotMapped};
