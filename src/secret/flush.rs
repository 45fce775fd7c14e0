//! When freed secrets leave the caches: one setting for the process.

use core::sync::atomic::{AtomicU8, Ordering};

use crate::policy::{Flush, Policy};

static IN_FORCE: AtomicU8 = AtomicU8::new(encode(Policy::SECRET.flush()));

/// Sets when freed secrets leave the CPU's caches, for every secret type of the process, from now on.
///
/// A freed secret is zero at once, whatever is set here; this is about the copy of it that the memory
/// behind the caches may still hold for a moment. The default is [`Flush::Immediate`]: past the caches
/// when the drop returns. [`Flush::Bounded`] makes a drop several times cheaper and leaves that to a
/// later write-back in bulk, [`Flush::Off`] leaves it to the hardware.
///
/// ```
/// use oubliette::{Flush, secret_flush, set_secret_flush};
/// set_secret_flush(Flush::Bounded);
/// assert_eq!(secret_flush(), Flush::Bounded);
/// ```
pub fn set_secret_flush(flush: Flush) {
    // Relaxed: the setting orders nothing else; a drop that runs at the same time may use either value.
    IN_FORCE.store(encode(flush), Ordering::Relaxed);
}

/// When freed secrets leave the CPU's caches: what [`set_secret_flush`] last set.
#[must_use]
#[inline]
pub fn secret_flush() -> Flush {
    match IN_FORCE.load(Ordering::Relaxed) {
        BOUNDED => Flush::Bounded,
        OFF => Flush::Off,
        _ => Flush::Immediate,
    }
}

const IMMEDIATE: u8 = 0;
const BOUNDED: u8 = 1;
const OFF: u8 = 2;

const fn encode(flush: Flush) -> u8 {
    match flush {
        Flush::Immediate => IMMEDIATE,
        Flush::Bounded => BOUNDED,
        Flush::Off => OFF,
    }
}
