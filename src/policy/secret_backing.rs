//! What backs the secret types: one choice for the process, made before the first secret.

use core::sync::atomic::{AtomicU8, Ordering};

use super::Backing;
use crate::Error;

/// The backing, and [`SETTLED`] once a secret was made with it.
static CHOICE: AtomicU8 = AtomicU8::new(encode(Backing::Auto));
const SETTLED: u8 = 1 << 7;

/// Chooses what backs every secret type of the process: [`SecretBox`](crate::SecretBox) and its kind,
/// [`IsolatedBox`](crate::IsolatedBox), secret [`GuardedPages`](crate::GuardedPages), what runs in a scope. The default
/// is that of [`Policy::SECRET`](crate::Policy::SECRET): [`Backing::Auto`].
///
/// Buffers for devices ([`DmaBuffer`](crate::DmaBuffer)) are not among them: no device reads hidden memory.
///
/// Chosen once, by the program and not by a library: [`Backing::Hidden`] keeps the whole machine from hibernating.
///
/// ```
/// use oubliette::{Backing, Error, SecretBox, secret_backing, set_secret_backing};
///
/// set_secret_backing(Backing::Hidden)?;
/// match SecretBox::<[u8; 32]>::random() {
///     Ok(key) => assert!(oubliette::report().hidden_bytes() > 0),
///     Err(Error::CannotHide { errno }) => println!("no hidden memory here: errno {errno}"),
///     Err(error) => return Err(error),
/// }
/// assert_eq!(set_secret_backing(Backing::Auto), Err(Error::TooLate));
/// # Ok::<(), Error>(())
/// ```
///
/// # Errors
///
/// [`Error::TooLate`] if there was a secret already, unless it is backed by the same.
pub fn set_secret_backing(backing: Backing) -> Result<(), Error> {
    let wanted = encode(backing);
    // Relaxed, here and below: the byte says all.
    let set = CHOICE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seen| match seen {
        _ if seen & SETTLED == 0 => Some(wanted),
        _ if seen == wanted | SETTLED => Some(seen),
        _ => None,
    });
    set.map(drop).map_err(|_| Error::TooLate)
}

/// What backs the secret types: what [`set_secret_backing`] chose, or the default.
#[must_use]
pub fn secret_backing() -> Backing {
    decode(CHOICE.load(Ordering::Relaxed))
}

/// The same for the first secret of some kind: from now on it stays.
pub(crate) fn settle_secret_backing() -> Backing {
    decode(CHOICE.fetch_or(SETTLED, Ordering::Relaxed))
}

const fn encode(backing: Backing) -> u8 {
    match backing {
        Backing::Auto => 0,
        Backing::Locked => 1,
        Backing::Hidden => 2,
    }
}

const fn decode(choice: u8) -> Backing {
    match choice & !SETTLED {
        1 => Backing::Locked,
        2 => Backing::Hidden,
        _ => Backing::Auto,
    }
}
