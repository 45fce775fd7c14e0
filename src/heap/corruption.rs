//! What ends the process: a static message for each crime.

use crate::os;

/// A proof that the program wrote or freed where it must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Corruption {
    /// The bytes behind a block changed.
    Overflow,
    /// The bytes before a block changed.
    Underflow,
    /// A block was freed that is free already.
    DoubleFree,
    /// A pointer was freed that no block starts at.
    InvalidFree,
    /// A block was freed with another layout than it was allocated with.
    WrongLayout,
    /// A free block was written to.
    WriteAfterFree,
    /// The heap's own records contradict each other.
    Metadata,
}

impl Corruption {
    /// Ends the process. Allocates nothing, runs no destructor; live secrets are wiped by the handler of
    /// the abort signal, where that is installed.
    #[cold]
    #[inline(never)]
    pub(crate) fn abort(self) -> ! {
        os::abort_with(self.message())
    }

    const fn message(self) -> &'static str {
        match self {
            Self::Overflow => "block overflow",
            Self::Underflow => "block underflow",
            Self::DoubleFree => "double free",
            Self::InvalidFree => "invalid free",
            Self::WrongLayout => "free with a wrong layout",
            Self::WriteAfterFree => "write after free",
            Self::Metadata => "heap metadata corrupted",
        }
    }
}
