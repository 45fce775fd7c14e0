//! Protection keys where there are none: numbers that no page gets, and a register of rights that only the
//! code which writes it looks at. So what is in force can be checked anywhere, a fault only where there are keys.

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, Ordering};

/// What a thread starts with on Linux: rights to key 0 only (pkeys(7)).
const AT_START: u32 = 0x5555_5554;

/// Not simulated.
const OFF: u32 = 0;
/// The next key to be handed out; see [`OFF`].
static NEXT_KEY: AtomicU32 = AtomicU32::new(OFF);

thread_local! {
    static RIGHTS: Cell<u32> = const { Cell::new(AT_START) };
}

/// From now on keys are simulated, in all threads, for good.
#[cfg(feature = "fault-injection")]
pub(crate) fn simulate_keys() {
    NEXT_KEY.store(1, Ordering::Relaxed);
}

/// Whether keys are simulated.
#[inline]
pub(crate) fn simulates_keys() -> bool {
    NEXT_KEY.load(Ordering::Relaxed) != OFF
}

/// A key, if keys are simulated.
pub(in crate::os) fn simulated_key() -> Option<u32> {
    simulates_keys().then(|| NEXT_KEY.fetch_add(1, Ordering::Relaxed))
}

/// The simulated register of this thread.
pub(crate) fn rights() -> u32 {
    RIGHTS.get()
}

/// Sets it.
pub(crate) fn set_rights(rights: u32) {
    RIGHTS.set(rights);
}
