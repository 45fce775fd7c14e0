//! Why a secret was not made: for lack of memory, or because the caller's closure refused.

use core::fmt;

use crate::Error;

/// Why [`try_new_with`](crate::SecretBox::try_new_with) made nothing: our error and the caller's apart.
///
/// Whatever the closure had written is wiped already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewWithError<E> {
    /// No protected memory could be had. The closure did not run.
    Memory(Error),
    /// The closure refused, with this error.
    Refused(E),
}

impl<E> From<Error> for NewWithError<E> {
    fn from(error: Error) -> Self {
        Self::Memory(error)
    }
}

impl<E: fmt::Display> fmt::Display for NewWithError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(error) => error.fmt(f),
            Self::Refused(error) => error.fmt(f),
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for NewWithError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Memory(error) => error.source(),
            Self::Refused(error) => error.source(),
        }
    }
}
