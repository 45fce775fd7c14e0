//! What seals secrets at rest: chosen once, before the first secret of the process.

use core::sync::atomic::{AtomicU8, Ordering};

use crate::keys::{self, Rights, Zone};
use crate::os::Access;
use crate::policy::Seal;
use crate::{Error, exit};

/// The choice, and whether there is a secret already, after which it stays.
static CHOSEN: AtomicU8 = AtomicU8::new(PAGES);

const PAGES: u8 = 0;
const KEY: u8 = 1;
const NONE: u8 = 2;
/// Set at the first secret.
const IN_FORCE: u8 = 1 << 7;

/// Chooses what seals the secrets of the process while nobody looks at them. The default is [`Seal::Pages`]:
/// each [`IsolatedBox`](crate::IsolatedBox) by its pages, dense secrets not at all.
///
/// To be called before the first secret of the process.
///
/// # `Seal::ProtectionKey`
///
/// Opening an `IsolatedBox` costs a few instructions instead of a system call, and opens it (and every other
/// isolated secret with it) to the calling thread only. [`SecretBox`](crate::SecretBox),
/// [`SecretVec`](crate::SecretVec) and [`SecretString`](crate::SecretString) are sealed as well: who looks at
/// them holds a guard ([`SecretBox::open`](crate::SecretBox::open)) or runs in [`unsealed`]. **Without either,
/// touching what `expose` gives is a fault that ends the process** (`SIGSEGV` with `SEGV_PKUERR`); so is
/// touching it on another thread than the one that opened. Memory of `SecretAlloc` and of scopes stays unsealed,
/// for whoever uses it knows of no guards.
///
/// Two keys of the 15 that a process has are taken, and never given back.
///
/// ```
/// use oubliette::{Error, Seal, SecretBox, secret_seal, set_secret_seal};
///
/// # fn run() -> Result<(), Error> {
/// // Keys if there are any, else what there was before; `?` in place of the `match` would insist.
/// match set_secret_seal(Seal::ProtectionKey) {
///     Ok(()) => assert_eq!(secret_seal(), Seal::ProtectionKey),
///     Err(why) => assert_eq!(secret_seal(), Seal::Pages, "{why}"),
/// }
/// let key = SecretBox::<[u8; 32]>::random()?;
/// assert_ne!(*key.open(), [0; 32]); // works under every seal
/// # Ok(()) }
/// # run().unwrap();
/// ```
///
/// # Errors
///
/// * [`Error::NoProtectionKey`] where the CPU or the kernel has none or too few are free. Nothing has changed,
///   and [`report()`](crate::report()) says so from then on.
/// * [`Error::TooLate`] once there is a secret, unless this seal is in force already.
pub fn set_secret_seal(seal: Seal) -> Result<(), Error> {
    let wanted = encode(seal);
    let mut seen = CHOSEN.load(Ordering::Relaxed);
    loop {
        if seen & IN_FORCE != 0 {
            return if seen & !IN_FORCE == wanted { Ok(()) } else { Err(Error::TooLate) };
        }
        if seal == Seal::ProtectionKey {
            keys::acquire()?;
        }
        // Release pairs with Acquire in `settle`: who makes the first secret sees the keys.
        match CHOSEN.compare_exchange_weak(seen, wanted, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return Ok(()),
            Err(now) => seen = now,
        }
    }
}

/// What seals the secrets of the process: what [`set_secret_seal`] last set.
#[must_use]
#[inline]
pub fn secret_seal() -> Seal {
    decode(CHOSEN.load(Ordering::Relaxed))
}

/// Runs `f` with every dense secret of the process open to this thread, to be read and written.
///
/// Where [`Seal::ProtectionKey`] is not in force that makes no difference, and costs a compare. Not for the
/// secrets of an [`IsolatedBox`](crate::IsolatedBox), whose guards say what they open. May be nested; a panic in
/// `f` seals again and goes on.
///
/// Call `expose` in `f`, not before it: a reference from outside may be read by the compiler as soon as it is there.
/// A thread that `f` starts begins with the rights of this one: see [`seal_thread`].
///
/// ```
/// use oubliette::{SecretBox, unsealed};
///
/// # fn cipher(_key: &[u8; 32], _nonce: &[u8; 12]) {}
/// let (key, nonce) = (SecretBox::<[u8; 32]>::random()?, SecretBox::<[u8; 12]>::random()?);
/// unsealed(|| cipher(key.expose(), nonce.expose()));
/// # Ok::<(), oubliette::Error>(())
/// ```
#[inline]
pub fn unsealed<R>(f: impl FnOnce() -> R) -> R {
    let _rights = dense_rights(Access::ReadWrite);
    f()
}

/// Takes from this thread every right to sealed secrets for which it holds no guard.
///
/// Linux gives a new thread the rights of the one that starts it (`pkeys(7)`), so one that is started while a
/// secret is open can read every secret, until it first opens, makes or drops one itself, after which it has only
/// what its own guards ask for. Call this first in such a thread, or start threads while nothing is open. Costs
/// one write to a register, and nothing where no key is in use.
pub fn seal_thread() {
    keys::forget_inherited();
}

/// The seal of the secret that is about to be made: from now on that of all. Arms the end of the process first.
#[inline]
pub(super) fn in_force() -> Seal {
    // Relaxed: once it is in force it never changes, and `settle` has ordered what came before.
    let seen = CHOSEN.load(Ordering::Relaxed);
    if seen & IN_FORCE == 0 { settle() } else { decode(seen) }
}

#[cold]
fn settle() -> Seal {
    exit::arm();
    // Acquire pairs with Release in `set_secret_seal`.
    decode(CHOSEN.fetch_or(IN_FORCE, Ordering::Acquire))
}

/// Whether dense secrets are sealed. Constant once there is one.
#[inline(always)]
pub(super) fn seals_dense() -> bool {
    CHOSEN.load(Ordering::Relaxed) & !IN_FORCE == KEY
}

/// The right to touch dense secrets, for as long as it lives, where one is needed. For spans in which code of
/// others runs.
#[inline(always)]
pub(super) fn dense_rights(access: Access) -> Option<Rights> {
    if seals_dense() { Some(Rights::new(Zone::Dense, access)) } else { None }
}

const fn encode(seal: Seal) -> u8 {
    match seal {
        Seal::Pages => PAGES,
        Seal::ProtectionKey => KEY,
        Seal::None => NONE,
    }
}

const fn decode(word: u8) -> Seal {
    match word & !IN_FORCE {
        KEY => Seal::ProtectionKey,
        NONE => Seal::None,
        _ => Seal::Pages,
    }
}
