//! Fault injection compiled out: nothing fails but what the system refuses.

use crate::os::{Call, Features, Result};

/// Lets every call through.
#[inline]
#[expect(clippy::unnecessary_wraps, reason = "has the signature of its enabled twin")]
pub(in crate::os) const fn gate(_call: Call) -> Result<()> {
    Ok(())
}

/// No key is simulated.
#[inline]
pub(in crate::os) const fn simulated_key() -> Option<u32> {
    None
}

/// Keys are those of the system.
#[inline]
pub(crate) const fn simulates_keys() -> bool {
    false
}

/// Leaves the answer as it is.
#[inline]
pub(in crate::os) const fn adjust(features: Features) -> Features {
    features
}
