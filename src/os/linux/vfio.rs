//! VFIO type 1: `Documentation/driver-api/vfio.rst`, `include/uapi/linux/vfio.h`. Mappings of version 2 (Linux 3.14)
//! are ended as a whole or not at all.

use core::ffi::CStr;
use core::ops::Range;
use core::ptr::NonNull;
use std::ffi::OsString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::{check, check_count};
use crate::os::vfio::{DeviceAccess, DeviceRegion, GroupState, VfioContainer, VfioDevice, VfioGroup};
use crate::os::{Errno, Result};

/// `_IO(VFIO_TYPE, VFIO_BASE)`, from which the operations count.
const BASE: libc::c_ulong = 0x3b64;
const GET_API_VERSION: libc::c_ulong = BASE;
const CHECK_EXTENSION: libc::c_ulong = BASE + 1;
const SET_IOMMU: libc::c_ulong = BASE + 2;
const GROUP_GET_STATUS: libc::c_ulong = BASE + 3;
const GROUP_SET_CONTAINER: libc::c_ulong = BASE + 4;
const GROUP_GET_DEVICE_FD: libc::c_ulong = BASE + 6;
const DEVICE_GET_REGION_INFO: libc::c_ulong = BASE + 8;
const DEVICE_RESET: libc::c_ulong = BASE + 11;
const IOMMU_GET_INFO: libc::c_ulong = BASE + 12;
const IOMMU_MAP_DMA: libc::c_ulong = BASE + 13;
const IOMMU_UNMAP_DMA: libc::c_ulong = BASE + 14;
/// `_IO(IOMMUFD_TYPE, IOMMUFD_CMD_VFIO_IOAS)`, `include/uapi/linux/iommufd.h`: the type is the same.
const IOMMU_VFIO_IOAS: libc::c_ulong = 0x3b88;
/// `IOMMU_VFIO_IOAS_GET`.
const VFIO_IOAS_GET: u16 = 0;

/// `VFIO_API_VERSION`.
const API_VERSION: usize = 0;
/// `VFIO_TYPE1v2_IOMMU`. Never `VFIO_NOIOMMU_IOMMU`, which protects nothing.
const TYPE1_V2: libc::c_ulong = 3;
/// `VFIO_GROUP_FLAGS_VIABLE`.
const GROUP_IS_VIABLE: u32 = 1;
/// `VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE`.
const REGION_IS_ACCESSIBLE: u32 = 0b11;
/// `VFIO_DMA_MAP_FLAG_READ` and `VFIO_DMA_MAP_FLAG_WRITE`.
const MAP_READ: u32 = 1;
const MAP_WRITE: u32 = 2;
/// `VFIO_IOMMU_INFO_CAPS`.
const INFO_HAS_CAPABILITIES: u32 = 2;
/// `VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE`.
const CAPABILITY_REACH: u16 = 1;

/// `struct vfio_group_status`.
#[repr(C)]
struct GroupStatus {
    argsz: u32,
    flags: u32,
}

/// `struct vfio_region_info`.
#[repr(C)]
struct RegionInfo {
    argsz: u32,
    flags: u32,
    index: u32,
    cap_offset: u32,
    size: u64,
    offset: u64,
}

/// `struct vfio_iommu_type1_dma_map`.
#[repr(C)]
struct DmaMap {
    argsz: u32,
    flags: u32,
    vaddr: u64,
    iova: u64,
    size: u64,
}

/// `struct vfio_iommu_type1_dma_unmap`.
#[repr(C)]
struct DmaUnmap {
    argsz: u32,
    flags: u32,
    iova: u64,
    size: u64,
}

/// `struct iommu_vfio_ioas`.
#[repr(C)]
struct VfioIoas {
    size: u32,
    ioas_id: u32,
    op: u16,
    reserved: u16,
}

/// Words of eight bytes for `struct vfio_iommu_type1_info` and what follows it: room for some 250 ranges.
const INFO_WORDS: usize = 512;

const _: () = assert!(size_of::<GroupStatus>() == 8 && size_of::<RegionInfo>() == 32);
const _: () =
    assert!(size_of::<DmaMap>() == 32 && size_of::<DmaUnmap>() == 24 && size_of::<VfioIoas>() == 12);

/// `readlink("/sys/bus/pci/devices/ADDRESS/iommu_group")`, readlink(2): its last part is the number.
pub(in crate::os) fn group_of(address: &[u8]) -> Result<u32> {
    let mut path = Text::<96>::new();
    path.push(b"/sys/bus/pci/devices/")?.push(address)?.push(b"/iommu_group")?;
    let mut link = [0_u8; 256];
    let path = path.as_c_str()?;
    // SAFETY: the path ends with a NUL byte, and the kernel writes at most that many bytes to `link`.
    let code = unsafe { libc::readlink(path.as_ptr(), link.as_mut_ptr().cast(), link.len()) };
    let len = usize::try_from(code).map_err(|_| Errno::last())?;
    let number = link.get(..len).and_then(|link| link.rsplit(|byte| *byte == b'/').next());
    number.and_then(|digits| core::str::from_utf8(digits).ok()?.parse().ok()).ok_or(Errno::INVAL)
}

/// `access("/sys/bus/pci/devices/ADDRESS/vfio-dev", F_OK)`, which a device has that VFIO drives (Linux 6.1), and
/// `access("/dev/iommu", F_OK)`, access(2).
pub(in crate::os) fn is_given_by_iommufd(address: &[u8]) -> bool {
    let mut path = Text::<96>::new();
    let path = path
        .push(b"/sys/bus/pci/devices/")
        .and_then(|path| path.push(address))
        .and_then(|path| path.push(b"/vfio-dev"))
        .and_then(|path| path.as_c_str());
    path.is_ok_and(exists) && exists(c"/dev/iommu")
}

fn exists(path: &CStr) -> bool {
    // SAFETY: the path ends with a NUL byte.
    unsafe { libc::access(path.as_ptr(), libc::F_OK) == 0 }
}

/// `readdir("/sys/kernel/iommu_groups/NUMBER/devices")`, `Documentation/ABI/testing/sysfs-kernel-iommu_groups`.
pub(in crate::os) fn group_members(number: u32) -> Result<Vec<OsString>> {
    let errno = |error: std::io::Error| error.raw_os_error().map_or(Errno::IO, Errno);
    let entries = std::fs::read_dir(format!("/sys/kernel/iommu_groups/{number}/devices")).map_err(errno)?;
    entries.map(|entry| Ok(entry.map_err(errno)?.file_name())).collect()
}

/// `open("/dev/vfio/vfio")`, then `VFIO_GET_API_VERSION` and `VFIO_CHECK_EXTENSION`.
pub(in crate::os) fn container_new() -> Result<VfioContainer> {
    container_at(c"/dev/vfio/vfio")
}

/// The same of `/dev/iommu`: what that gives answers the operations of a container as well, and groups join it (Linux
/// 6.2, `drivers/iommu/iommufd/vfio_compat.c`, `vfio_group_ioctl_set_container`).
pub(in crate::os) fn container_of_iommufd() -> Result<VfioContainer> {
    container_at(c"/dev/iommu")
}

fn container_at(path: &CStr) -> Result<VfioContainer> {
    let container = VfioContainer(open(path)?);
    if ioctl_number(&container.0, GET_API_VERSION, 0)? != API_VERSION
        || ioctl_number(&container.0, CHECK_EXTENSION, TYPE1_V2)? == 0
    {
        return Err(Errno::INVAL);
    }
    Ok(container)
}

/// `IOMMU_VFIO_IOAS` with `IOMMU_VFIO_IOAS_GET`: which of its own address spaces iommufd uses for the operations of a
/// container. It has one as soon as a group joined. VFIO's container knows no such operation: `NOTTY`, and `INVAL`
/// before it was started.
pub(in crate::os) fn container_is_iommufd(container: &VfioContainer) -> Result<bool> {
    let mut of_iommufd =
        VfioIoas { size: size_of_as_u32::<VfioIoas>(), ioas_id: 0, op: VFIO_IOAS_GET, reserved: 0 };
    // SAFETY: the kernel reads and writes one `struct iommu_vfio_ioas`.
    match unsafe { ioctl(&container.0, IOMMU_VFIO_IOAS, &mut of_iommufd) } {
        Ok(_) | Err(Errno::NODEV) => Ok(true),
        Err(Errno::NOTTY | Errno::INVAL) => Ok(false),
        Err(other) => Err(other),
    }
}

/// `VFIO_SET_IOMMU`.
pub(in crate::os) fn container_start(container: &VfioContainer) -> Result<()> {
    ioctl_number(&container.0, SET_IOMMU, TYPE1_V2).map(drop)
}

/// `VFIO_IOMMU_GET_INFO` with its chain of capabilities (Linux 5.4).
pub(in crate::os) fn container_reach(container: &VfioContainer, ranges: &mut [Range<u64>]) -> Result<usize> {
    let mut words = [0_u64; INFO_WORDS];
    if let Some(first) = words.first_mut() {
        // `argsz`: the first half of the first word on both kinds of machines.
        let size = u32::try_from(size_of::<[u64; INFO_WORDS]>()).unwrap_or(0);
        *first = u64::from_ne_bytes(pair(size, 0));
    }
    // SAFETY: the kernel reads and writes at most `argsz` bytes at `words`.
    unsafe { ioctl(&container.0, IOMMU_GET_INFO, &mut words) }?;
    let info = Info(&words);
    if info.half(4) & INFO_HAS_CAPABILITIES == 0 {
        return Ok(0);
    }
    let mut at = usize::try_from(info.half(16)).unwrap_or(0);
    // A chain of offsets from the start of the structure; each capability has 8 bytes of header.
    for _ in 0..INFO_WORDS {
        if at == 0 {
            return Ok(0);
        }
        let [id_low, id_high, ..] = info.half(at).to_ne_bytes();
        if u16::from_ne_bytes([id_low, id_high]) == CAPABILITY_REACH {
            return Ok(info.ranges(at, ranges));
        }
        at = usize::try_from(info.half(at.saturating_add(4))).unwrap_or(0);
    }
    Ok(0)
}

/// `VFIO_IOMMU_MAP_DMA`.
///
/// # Safety
///
/// As for `VfioContainer::map`.
pub(in crate::os) unsafe fn container_map(
    container: &VfioContainer,
    ptr: NonNull<u8>,
    len: usize,
    iova: u64,
    access: DeviceAccess,
) -> Result<()> {
    let mut map = DmaMap {
        argsz: size_of_as_u32::<DmaMap>(),
        flags: match access {
            DeviceAccess::Read => MAP_READ,
            DeviceAccess::Write => MAP_WRITE,
            DeviceAccess::ReadWrite => MAP_READ | MAP_WRITE,
        },
        vaddr: u64::try_from(ptr.as_ptr().expose_provenance()).map_err(|_| Errno::INVAL)?,
        iova,
        size: u64::try_from(len).map_err(|_| Errno::INVAL)?,
    };
    // SAFETY: the kernel reads one `struct vfio_iommu_type1_dma_map`. The caller promises that the range is its own, that
    // it outlives the mapping, and that what devices do to it contradicts no reference.
    unsafe { ioctl(&container.0, IOMMU_MAP_DMA, &mut map) }.map(drop)
}

/// `VFIO_IOMMU_UNMAP_DMA`: the kernel flushes the IOMMU's translations before it returns.
pub(in crate::os) fn container_unmap(container: &VfioContainer, iova: u64, len: usize) -> Result<u64> {
    let size = u64::try_from(len).map_err(|_| Errno::INVAL)?;
    let mut unmap = DmaUnmap { argsz: size_of_as_u32::<DmaUnmap>(), flags: 0, iova, size };
    // SAFETY: the kernel reads and writes one `struct vfio_iommu_type1_dma_unmap`. Less is reachable for devices.
    unsafe { ioctl(&container.0, IOMMU_UNMAP_DMA, &mut unmap) }?;
    Ok(unmap.size)
}

/// `open("/dev/vfio/NUMBER")`.
pub(in crate::os) fn group_open(number: u32) -> Result<VfioGroup> {
    let mut path = Text::<32>::new();
    path.push(b"/dev/vfio/")?.push_number(number)?;
    open(path.as_c_str()?).map(VfioGroup)
}

/// `VFIO_GROUP_GET_STATUS`.
pub(in crate::os) fn group_state(group: &VfioGroup) -> Result<GroupState> {
    let mut status = GroupStatus { argsz: size_of_as_u32::<GroupStatus>(), flags: 0 };
    // SAFETY: the kernel reads and writes one `struct vfio_group_status`.
    unsafe { ioctl(&group.0, GROUP_GET_STATUS, &mut status) }?;
    Ok(GroupState { is_viable: status.flags & GROUP_IS_VIABLE != 0 })
}

/// `VFIO_GROUP_SET_CONTAINER`.
pub(in crate::os) fn group_join(group: &VfioGroup, container: &VfioContainer) -> Result<()> {
    let mut descriptor = container.0.as_raw_fd();
    // SAFETY: the kernel reads one `int`.
    unsafe { ioctl(&group.0, GROUP_SET_CONTAINER, &mut descriptor) }.map(drop)
}

/// `VFIO_GROUP_GET_DEVICE_FD`. The kernel makes the descriptor close-on-exec.
pub(in crate::os) fn group_device(group: &VfioGroup, address: &[u8]) -> Result<VfioDevice> {
    let mut name = Text::<32>::new();
    name.push(address)?;
    name.as_c_str()?;
    // SAFETY: the kernel reads a string that ends with a NUL byte, as was checked.
    let number = unsafe { ioctl(&group.0, GROUP_GET_DEVICE_FD, &mut name.bytes) }?;
    let descriptor = libc::c_int::try_from(number).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has just made it, and nobody else knows it.
    Ok(VfioDevice(unsafe { OwnedFd::from_raw_fd(descriptor) }))
}

/// `VFIO_DEVICE_RESET`.
pub(in crate::os) fn device_reset(device: &VfioDevice) -> Result<()> {
    ioctl_number(&device.0, DEVICE_RESET, 0).map(drop)
}

/// `VFIO_DEVICE_GET_REGION_INFO`.
pub(in crate::os) fn device_region(device: &VfioDevice, index: u32) -> Result<DeviceRegion> {
    let mut info = RegionInfo {
        argsz: size_of_as_u32::<RegionInfo>(),
        flags: 0,
        index,
        cap_offset: 0,
        size: 0,
        offset: 0,
    };
    // SAFETY: the kernel reads and writes one `struct vfio_region_info`.
    unsafe { ioctl(&device.0, DEVICE_GET_REGION_INFO, &mut info) }?;
    let is_accessible = info.flags & REGION_IS_ACCESSIBLE == REGION_IS_ACCESSIBLE;
    Ok(DeviceRegion { offset: info.offset, len: info.size, is_accessible })
}

/// `pread`, pread(2).
pub(in crate::os) fn device_read(device: &VfioDevice, offset: u64, out: &mut [u8]) -> Result<()> {
    let offset = libc::off64_t::try_from(offset).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel writes at most that many bytes to `out`.
    let code = unsafe { libc::pread64(device.0.as_raw_fd(), out.as_mut_ptr().cast(), out.len(), offset) };
    whole(usize::try_from(code).map_err(|_| Errno::last())?, out.len())
}

/// `pwrite`, pwrite(2).
pub(in crate::os) fn device_write(device: &VfioDevice, offset: u64, bytes: &[u8]) -> Result<()> {
    let offset = libc::off64_t::try_from(offset).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel reads that many bytes of `bytes`.
    let code = unsafe { libc::pwrite64(device.0.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), offset) };
    whole(usize::try_from(code).map_err(|_| Errno::last())?, bytes.len())
}

fn whole(done: usize, wanted: usize) -> Result<()> {
    if done == wanted { Ok(()) } else { Err(Errno::IO) }
}

/// `open(path, O_RDWR | O_CLOEXEC)`, open(2).
fn open(path: &CStr) -> Result<OwnedFd> {
    // SAFETY: the path ends with a NUL byte.
    let code = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    check(libc::c_long::from(code.min(0)))?;
    // SAFETY: the kernel has just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(code) })
}

/// An operation whose argument is a number, ioctl(2).
fn ioctl_number(descriptor: &OwnedFd, operation: libc::c_ulong, number: libc::c_ulong) -> Result<usize> {
    // SAFETY: these operations take a number and touch no memory of the process.
    check_count(unsafe { libc::syscall(libc::SYS_ioctl, descriptor.as_raw_fd(), operation, number) })
}

/// An operation whose argument is a structure, ioctl(2).
///
/// # Safety
///
/// - `argument` is what the operation reads and writes, and addresses in it are valid for that.
unsafe fn ioctl<T>(descriptor: &OwnedFd, operation: libc::c_ulong, argument: &mut T) -> Result<usize> {
    let argument: *mut T = argument;
    // SAFETY: the caller promises that the kernel finds what it expects.
    check_count(unsafe { libc::syscall(libc::SYS_ioctl, descriptor.as_raw_fd(), operation, argument) })
}

fn size_of_as_u32<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX)
}

/// Two halves of a word as they lie in memory.
fn pair(first: u32, second: u32) -> [u8; 8] {
    let [a, b, c, d] = first.to_ne_bytes();
    let [e, f, g, h] = second.to_ne_bytes();
    [a, b, c, d, e, f, g, h]
}

/// What `VFIO_IOMMU_GET_INFO` wrote, read by offsets in bytes. What lies outside reads as zero.
struct Info<'a>(&'a [u64]);

impl Info<'_> {
    fn half(&self, at: usize) -> u32 {
        let [a, b, c, d, e, f, g, h] = self.0.get(at / 8).copied().unwrap_or(0).to_ne_bytes();
        u32::from_ne_bytes(if at.is_multiple_of(8) { [a, b, c, d] } else { [e, f, g, h] })
    }

    /// `struct vfio_iommu_type1_info_cap_iova_range` at an offset: a header, a count, and pairs of first and last.
    fn ranges(&self, at: usize, out: &mut [Range<u64>]) -> usize {
        let count = usize::try_from(self.half(at.saturating_add(8))).unwrap_or(0);
        let pairs = self.0.get((at / 8).saturating_add(2)..).unwrap_or(&[]).chunks_exact(2);
        let found = pairs.take(count).zip(out.iter_mut());
        found
            .map(|(pair, range)| {
                if let [first, last] = *pair {
                    *range = first..last.saturating_add(1);
                }
            })
            .count()
    }
}

/// A short text that ends with a NUL byte, without the heap.
struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    const fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    /// `NAMETOOLONG` where it does not fit.
    fn push(&mut self, more: &[u8]) -> Result<&mut Self> {
        let end = self.len.saturating_add(more.len());
        self.bytes.get_mut(self.len..end).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(more);
        self.len = end;
        Ok(self)
    }

    fn push_number(&mut self, number: u32) -> Result<&mut Self> {
        let mut digits = [0; 10];
        let mut rest = number;
        let mut unused = digits.len();
        for digit in digits.iter_mut().rev() {
            *digit = u8::try_from(rest % 10).unwrap_or(0).wrapping_add(b'0');
            rest /= 10;
            unused = unused.saturating_sub(1);
            if rest == 0 {
                break;
            }
        }
        self.push(digits.get(unused..).unwrap_or(&[]))
    }

    /// `INVAL` where there is a NUL byte in it.
    fn as_c_str(&self) -> Result<&CStr> {
        let with_end = self.bytes.get(..=self.len).ok_or(Errno::NAMETOOLONG)?;
        CStr::from_bytes_with_nul(with_end).map_err(|_| Errno::INVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_of_capabilities_is_read_as_the_kernel_writes_it() {
        let mut words = [0_u64; 12];
        words[4] = u64::from_ne_bytes(
            [CAPABILITY_REACH.to_ne_bytes(), [1, 0], [0; 2], [0; 2]].concat().try_into().unwrap(),
        );
        words[5] = u64::from_ne_bytes(pair(2, 0));
        words[6..10].copy_from_slice(&[0, 0xfedf_ffff, 0xfef0_0000, 0x7f_ffff_ffff]);
        let mut found = [0..0, 0..0, 0..0];
        assert_eq!(Info(&words).ranges(32, &mut found), 2);
        assert_eq!(found, [0..0xfee0_0000, 0xfef0_0000..0x80_0000_0000, 0..0]);
        let mut one: [_; 1] = core::array::from_fn(|_| 0..0);
        assert_eq!(Info(&words).ranges(32, &mut one), 1, "what finds no place is left out");
        assert_eq!(Info(&words[..7]).ranges(32, &mut found), 0, "a structure that was cut short");
    }

    #[test]
    fn texts_are_made_without_the_heap() {
        let mut text = Text::<16>::new();
        text.push(b"/dev/").unwrap().push_number(4_070).unwrap();
        assert_eq!(text.as_c_str(), Ok(c"/dev/4070"));
        assert_eq!(Text::<4>::new().push_number(0).unwrap().as_c_str(), Ok(c"0"));
        assert_eq!(Text::<4>::new().push(b"12345").map(drop), Err(Errno::NAMETOOLONG));
        assert_eq!(Text::<4>::new().push(b"1234").unwrap().as_c_str(), Err(Errno::NAMETOOLONG));
        assert_eq!(Text::<4>::new().push(b"a\0b").unwrap().as_c_str(), Err(Errno::INVAL));
    }

    #[test]
    fn a_machine_without_such_devices_says_so() {
        assert_eq!(group_of(b"ffff:ff:1f.7"), Err(Errno::NOENT));
        assert_eq!(group_of(&[b'0'; 100]), Err(Errno::NAMETOOLONG));
    }
}
