//! Memory protection keys: the two that this process has, and what each thread may do with them.
//!
//! A key is a number in the page table; a register of each thread says what the thread may do with the pages of
//! each key (pkeys(7)). Sealed secrets lie on pages of one of two keys, and no thread has a right to either
//! but while it holds a secret open. See `docs/mitigations/protection-keys.md`.
//!
//! # What counts
//!
//! How many guards of a thread ask for what is counted in thread-local cells, from which the register is
//! written; the register is never trusted to say what it should say. So a signal handler, which starts with the
//! rights of a new process, and a thread that inherited rights from the one that started it, have the rights
//! that they should have from their first use on.

mod register;
mod rights;

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(feature = "fault-injection")]
pub(crate) use rights::granted;
pub(crate) use rights::{AllRights, Rights, forget_inherited, lower, raise};

use crate::Error;
use crate::os::{self, Errno};

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zone {
    /// Secrets on pages of their own.
    Isolated,
    /// Secrets that share pages.
    Dense,
}

/// Where the bits of the two keys are in the register; 0 before there are any.
///
/// # Invariants
///
/// 1. Written once, by [`acquire`], for two keys that the system gave and that are never given back.
static KEYS: AtomicU64 = AtomicU64::new(0);

/// The bits of the register for each zone, as a word: the lower half for [`Zone::Isolated`].
#[derive(Clone, Copy, Debug)]
struct Bits {
    isolated: u32,
    dense: u32,
}

impl Bits {
    /// Of the two bits of each key the one that forbids all; the other forbids writing.
    const ACCESS: u32 = 0x5555_5555;

    /// For two keys. Neither is key 0, which is that of all other memory.
    const fn of_keys(isolated: u32, dense: u32) -> Self {
        // A key is below 16.
        Self { isolated: 0b11 << ((isolated & 0xf) << 1), dense: 0b11 << ((dense & 0xf) << 1) }
    }

    #[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "the halves of a word")]
    #[inline(always)]
    const fn from_word(word: u64) -> Self {
        Self { isolated: word as u32, dense: (word >> 32) as u32 }
    }

    #[expect(clippy::as_conversions, reason = "u32 to u64 widens")]
    const fn into_word(self) -> u64 {
        (self.dense as u64) << 32 | self.isolated as u64
    }

    #[inline(always)]
    const fn of(self, zone: Zone) -> u32 {
        match zone {
            Zone::Isolated => self.isolated,
            Zone::Dense => self.dense,
        }
    }

    #[inline(always)]
    const fn both(self) -> u32 {
        self.isolated | self.dense
    }
}

/// The `errno` with which the system last refused a key.
static REFUSED: AtomicU32 = AtomicU32::new(0);

/// Takes the keys, unless the process has them.
pub(crate) fn acquire() -> Result<(), Error> {
    if are_in_use() {
        return Ok(());
    }
    let pair = take_two().map_err(|errno| {
        REFUSED.store(errno.0.unsigned_abs(), Ordering::Relaxed);
        Error::NoProtectionKey { errno: errno.0 }
    })?;
    let [isolated, dense] = pair;
    let word = Bits::of_keys(isolated, dense).into_word();
    // Release pairs with Acquire in `key_of`. Relaxed where another thread was faster: its keys are not used here.
    if KEYS.compare_exchange(0, word, Ordering::Release, Ordering::Relaxed).is_err() {
        for key in pair {
            os::key_free(key);
        }
    }
    Ok(())
}

fn take_two() -> Result<[u32; 2], Errno> {
    if !register::IS_KNOWN && !os::fake::simulates_keys() {
        return Err(Errno::NOSYS);
    }
    let first = os::key_new()?;
    match os::key_new() {
        Ok(second) => Ok([first, second]),
        Err(errno) => {
            os::key_free(first);
            Err(errno)
        }
    }
}

/// Whether the process has its keys.
#[inline]
pub(crate) fn are_in_use() -> bool {
    // Relaxed: who goes on to use them reads them again.
    KEYS.load(Ordering::Relaxed) != 0
}

/// The key of a zone.
pub(crate) fn key_of(zone: Zone) -> Result<u32, Error> {
    // Acquire pairs with Release in `acquire`.
    match Bits::from_word(KEYS.load(Ordering::Acquire)).of(zone) {
        0 => Err(Error::NoProtectionKey { errno: Errno::INVAL.0 }),
        bits => Ok(bits.trailing_zeros() >> 1),
    }
}

/// The `errno` with which the system refused a key, if it did and there is none in use.
pub(crate) fn refused() -> Option<i32> {
    let errno = REFUSED.load(Ordering::Relaxed);
    if errno == 0 || are_in_use() { None } else { i32::try_from(errno).ok() }
}
