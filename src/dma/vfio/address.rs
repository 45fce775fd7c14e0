//! Addresses that are checked where they are made: of devices, and those that devices use.

use core::fmt;
use core::str::FromStr;

use crate::os;
use crate::{Error, IommuRefusal};

/// The address of a device on the PCI bus, as `0000:00:04.0`: domain, bus, device, function, in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PciAddress([u8; Self::LEN]);

impl PciAddress {
    const LEN: usize = 12;

    /// Its text.
    pub(super) const fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Takes the form `dddd:bb:dd.f` only; [`Error::Iommu`] with [`IommuRefusal::NotAnAddress`] for any other.
impl FromStr for PciAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        const FORM: &[u8; PciAddress::LEN] = b"hhhh:hh:hh.o";
        let wrong = Error::Iommu(IommuRefusal::NotAnAddress);
        let bytes: [u8; Self::LEN] = text.as_bytes().try_into().map_err(|_| wrong)?;
        let mut lower = bytes;
        lower.make_ascii_lowercase();
        let is_formed = lower.iter().zip(FORM).all(|(byte, form)| match form {
            b'h' => byte.is_ascii_hexdigit(),
            b'o' => (b'0'..=b'7').contains(byte),
            other => byte == other,
        });
        if is_formed { Ok(Self(lower)) } else { Err(wrong) }
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(core::str::from_utf8(&self.0).unwrap_or(""))
    }
}

impl fmt::Debug for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PciAddress({self})")
    }
}

/// An address as devices use it, which the IOMMU translates: the start of a page. No memory of this process can be
/// reached by making one up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Iova(u64);

impl Iova {
    /// Takes multiples of the page size only; [`Error::Iommu`] with [`IommuRefusal::OutOfReach`] for any other.
    pub fn new(address: u64) -> Result<Self, Error> {
        let page = u64::try_from(os::page_size()).unwrap_or(u64::MAX);
        if address.is_multiple_of(page) {
            Ok(Self(address))
        } else {
            Err(Error::Iommu(IommuRefusal::OutOfReach))
        }
    }

    /// The address, to be told to a device.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Iova {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Iova({:#x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_addresses_of_devices_are_taken() {
        let address: PciAddress = "0000:0A:1f.7".parse().unwrap();
        assert_eq!(
            (address.to_string(), address.as_bytes()),
            ("0000:0a:1f.7".to_owned(), &b"0000:0a:1f.7"[..])
        );
        for text in
            ["", "00:04.0", "0000:00:04.8", "0000:00:04,0", "0000:00:0g.0", "../../../etc", "0000:00:04.0\n"]
        {
            assert_eq!(text.parse::<PciAddress>(), Err(Error::Iommu(IommuRefusal::NotAnAddress)), "{text}");
        }
    }

    #[test]
    fn an_address_for_devices_is_the_start_of_a_page() {
        let page = u64::try_from(os::page_size()).unwrap();
        assert_eq!(Iova::new(3 * page).map(Iova::get), Ok(3 * page));
        assert_eq!(Iova::new(page + 1), Err(Error::Iommu(IommuRefusal::OutOfReach)));
    }
}
