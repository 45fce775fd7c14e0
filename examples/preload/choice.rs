//! Which heap the program gets, decided once by its environment.
//!
//! The environment is looked at without allocating: `secure_getenv(3)` walks it. Before the C library has been set
//! up there is none to look at; what is allocated that early comes from the default heap, and goes back there
//! whatever is chosen later, because every free asks which heap a block is of.

use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicU8, Ordering};

use oubliette::{Flush, Lock, Oubliette, Policy};

unsafe extern "C" {
    /// environ(7).
    static environ: *const *const c_char;
    /// secure_getenv(3).
    fn secure_getenv(name: *const c_char) -> *const c_char;
}

/// The program's heap under each choice. The first one is the default.
pub(crate) const HEAPS: [Oubliette; NR_CHOICES] = [
    heap(Lock::BestEffort, Flush::Bounded),
    heap(Lock::BestEffort, Flush::Off),
    heap(Lock::BestEffort, Flush::Immediate),
    heap(Lock::Off, Flush::Bounded),
    heap(Lock::Off, Flush::Off),
    heap(Lock::Off, Flush::Immediate),
];

const NR_CHOICES: usize = 6;
const UNDECIDED: u8 = 0xff;

const fn heap(lock: Lock, flush: Flush) -> Oubliette {
    Oubliette::with_policy(Policy::PROGRAM.with_lock(lock).with_flush(flush))
}

/// The index in [`HEAPS`], or `UNDECIDED`.
static CHOICE: AtomicU8 = AtomicU8::new(UNDECIDED);

/// Which of the heaps it is, as far as the hot paths ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// [`DEFAULT`].
    Default,
    /// [`WITHOUT_FLUSH`].
    WithoutFlush,
    /// Another one, or none yet: [`chosen`] tells.
    Other,
}

/// The two commonest ones, constants for the compiler. Their blocks are of the same heap.
pub(crate) const DEFAULT: Oubliette = HEAPS[0];
pub(crate) const WITHOUT_FLUSH: Oubliette = HEAPS[1];

#[inline(always)]
pub(crate) fn choice() -> Choice {
    // Relaxed: nothing is published with it; threads that race here decide alike.
    match CHOICE.load(Ordering::Relaxed) {
        0 => Choice::Default,
        1 => Choice::WithoutFlush,
        _ => Choice::Other,
    }
}

/// The program's heap.
#[inline]
pub(crate) fn chosen() -> &'static Oubliette {
    match ALL.get(usize::from(CHOICE.load(Ordering::Relaxed))) {
        Some(heap) => heap,
        None => decide_slow(),
    }
}

const ALL: &[Oubliette; NR_CHOICES] = &HEAPS;

#[cold]
#[inline(never)]
fn decide_slow() -> &'static Oubliette {
    // SAFETY: a word that the C library and the program change; null before the C library is set up.
    let is_early = unsafe { environ }.is_null();
    let decided = if is_early { 0 } else { read_environment() };
    if !is_early {
        CHOICE.store(decided, Ordering::Relaxed);
    }
    ALL.get(usize::from(decided)).unwrap_or(&ALL[0])
}

fn read_environment() -> u8 {
    let flush = match variable(c"OUBLIETTE_FLUSH").map(CStr::to_bytes) {
        Some(b"off") => Flush::Off,
        Some(b"immediate") => Flush::Immediate,
        _ => Flush::Bounded,
    };
    let lock = match variable(c"OUBLIETTE_LOCK").map(CStr::to_bytes) {
        Some(b"off") => Lock::Off,
        _ => Lock::BestEffort,
    };
    let wanted = Policy::PROGRAM.with_lock(lock).with_flush(flush);
    let index = HEAPS.iter().position(|heap| heap.policy() == wanted);
    index.and_then(|index| u8::try_from(index).ok()).unwrap_or(0)
}

/// The value of a variable, unless the program runs with the rights of others.
pub(crate) fn variable(name: &CStr) -> Option<&'static CStr> {
    // SAFETY: the name ends with a NUL. No other thread changes the environment at the first allocation of a
    // program, nor when its libraries are set up.
    let value = unsafe { secure_getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: a string of the environment, which stays where it is: it is the one that the program was started
    // with (secure_getenv(3)).
    Some(unsafe { CStr::from_ptr(value) })
}
