//! Protection keys: there are none.

use core::ptr::NonNull;

use crate::os::{Access, Errno, Result};

/// There are none.
pub(in crate::os) const fn key_new() -> Result<u32> {
    Err(Errno::NOSYS)
}

/// There are none.
pub(in crate::os) const fn key_free(_key: u32) {}

/// There are none.
///
/// # Safety
///
/// None needed.
pub(in crate::os) const unsafe fn key_protect(
    _ptr: NonNull<u8>,
    _len: usize,
    _access: Access,
    _key: u32,
) -> Result<()> {
    Err(Errno::NOSYS)
}
