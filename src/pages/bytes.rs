//! A size in bytes that is a multiple of the page size.

use crate::os;

/// A number of bytes that is a multiple of the page size.
///
/// # Invariants
///
/// 1. The value is a multiple of [`os::page_size`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PageBytes(usize);

impl PageBytes {
    /// No bytes: a multiple of anything.
    pub(crate) const ZERO: Self = Self(0);

    /// One page.
    #[inline]
    pub(crate) fn one() -> Self {
        Self(os::page_size())
    }

    /// This number of pages, unless that is more bytes than there are addresses.
    #[inline]
    pub(crate) fn from_pages(pages: usize) -> Option<Self> {
        pages.checked_mul(os::page_size()).map(Self)
    }

    /// Exactly this many bytes, if that is a multiple of the page size.
    #[inline]
    pub(crate) fn exact(bytes: usize) -> Option<Self> {
        if bytes & mask() == 0 { Some(Self(bytes)) } else { None }
    }

    /// The next multiple at or above, unless there is none.
    #[inline]
    pub(crate) fn round_up(bytes: usize) -> Option<Self> {
        bytes.checked_add(mask()).map(Self::round_down)
    }

    /// The next multiple at or below.
    #[inline]
    pub(crate) fn round_down(bytes: usize) -> Self {
        Self(bytes & !mask())
    }

    /// The number of bytes.
    #[inline]
    pub(crate) const fn get(self) -> usize {
        self.0
    }

    /// The number of pages.
    #[inline]
    pub(crate) fn pages(self) -> usize {
        self.0 >> os::page_size().trailing_zeros()
    }

    /// Multiple + multiple = multiple, unless that is more bytes than there are addresses.
    #[inline]
    pub(crate) fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// Multiple - multiple = multiple, unless negative.
    #[inline]
    pub(crate) fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// Multiple - multiple = multiple; zero if negative.
    #[inline]
    pub(crate) fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// n * multiple = multiple, unless that is more bytes than there are addresses.
    #[inline]
    pub(crate) fn checked_mul(self, count: usize) -> Option<Self> {
        self.0.checked_mul(count).map(Self)
    }

    /// Half of it, rounded down to a page.
    #[inline]
    pub(crate) fn half(self) -> Self {
        Self::round_down(self.0 >> 1)
    }
}

/// The bits below the page size, which is a power of two.
#[inline]
fn mask() -> usize {
    os::page_size().wrapping_sub(1)
}
