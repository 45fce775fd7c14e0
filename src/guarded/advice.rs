//! What may be said to the kernel about a run of pages: a type for each kind of memory, so that what would
//! betray a secret cannot be said of one.

use core::fmt;
use core::marker::PhantomData;

use crate::os::{Errno, Hint};
use crate::pages::Kind;
use crate::policy::settle_secret_backing;
use crate::{Error, Policy, Refusal};

/// Marks memory that holds secrets: locked, pinned where possible, out of core dumps, zeros in a forked child,
/// wiped at its end.
#[derive(Debug)]
pub enum Secret {}

/// Marks memory that holds none: guarded, and otherwise as the kernel makes it.
#[derive(Debug)]
pub enum Ordinary {}

/// What a run of pages holds: [`Secret`] or [`Ordinary`].
pub trait Contents: private::Sealed {}

impl Contents for Secret {}
impl Contents for Ordinary {}

pub(super) mod private {
    use super::{Kind, Ordinary, Policy, Secret, settle_secret_backing};

    /// Nobody else implements it.
    pub trait Sealed {
        #[doc(hidden)]
        fn kind() -> Kind;
    }

    impl Sealed for Secret {
        fn kind() -> Kind {
            Kind::Secret(Policy::SECRET.with_backing(settle_secret_backing()))
        }
    }

    impl Sealed for Ordinary {
        fn kind() -> Kind {
            Kind::Ordinary
        }
    }
}

/// A hint to the kernel about memory of one kind, for [`GuardedPages::advise`](crate::GuardedPages::advise).
///
/// What all memory takes is there for both kinds. What would betray a secret (writing it to swap or a core dump,
/// moving it, merging it with other pages, leaving it to a child) is there for [`Ordinary`] memory only:
///
/// ```compile_fail,E0308
/// use oubliette::{Advice, GuardedPages, Secret};
/// let mut key = GuardedPages::<Secret>::new(32)?;
/// key.advise(Advice::PageOut)?;
/// # Ok::<(), oubliette::Error>(())
/// ```
///
/// Names are those of madvise(2), which tells more of each, in the spelling of an enum. It is none, so that each kind of
/// memory can have its own.
pub struct Advice<K: Contents> {
    pub(super) said: Said,
    _kind: PhantomData<fn() -> K>,
}

/// What is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// To the kernel.
    Hint(Hint),
    /// To us first: see `GuardedPages::discard`.
    DontNeed,
}

macro_rules! advices {
    ($(#[doc = $text:literal] $name:ident = $hint:ident;)*) => {$(
        #[doc = $text]
        #[expect(non_upper_case_globals, reason = "spelled like the variants that they stand for")]
        pub const $name: Self = Self::new(Said::Hint(Hint::$hint));
    )*};
}

impl<K: Contents> Advice<K> {
    advices! {
        /// It will be used soon: read it back from swap.
        WillNeed = WillNeed;
        /// It will be used from start to end.
        Sequential = Sequential;
        /// It will be used in no order.
        Random = Random;
        /// No huge pages: the kernel then does not move small pages together into one.
        NoHugePage = NoHugePage;
        /// Fault every page in now, to be read.
        PopulateRead = PopulateRead;
        /// Fault every page in now, to be written.
        PopulateWrite = PopulateWrite;
        /// Keep it out of core dumps.
        DontDump = DontDump;
        /// A forked child has no such memory: touching it there is a fault.
        DontFork = DontFork;
        /// Undoes [`DontFork`](Self::DontFork): a child finds what it found before, of a secret zeros.
        DoFork = DoFork;
        /// A forked child finds zeros.
        WipeOnFork = WipeOnFork;
        /// Never merge equal pages with those of other processes.
        Unmergeable = Unmergeable;
    }

    /// It is not needed any more: as [`GuardedPages::discard`](crate::GuardedPages::discard), which wipes a secret first.
    /// Reads as zeros.
    #[expect(non_upper_case_globals, reason = "spelled like the variants that they stand for")]
    pub const DontNeed: Self = Self::new(Said::DontNeed);

    const fn new(said: Said) -> Self {
        Self { said, _kind: PhantomData }
    }
}

impl Advice<Ordinary> {
    advices! {
        /// It will not be used for a while: the first to go when memory is short.
        Cold = Cold;
        /// Write it to swap now.
        PageOut = PageOut;
        /// The kernel may take each page back, to read as zeros, until it is written to again.
        Free = Free;
        /// Use huge pages where they fit. The kernel moves pages for it.
        HugePage = HugePage;
        /// Move it into huge pages now.
        Collapse = Collapse;
        /// Undoes [`DontDump`](Self::DontDump).
        DoDump = DoDump;
        /// Undoes [`WipeOnFork`](Self::WipeOnFork).
        KeepOnFork = KeepOnFork;
        /// Merge equal pages with those of other processes.
        Mergeable = Mergeable;
    }
}

/// What a refusal of a hint means.
pub(super) fn refused(hint: Hint, errno: Errno, is_locked: bool) -> Error {
    let refusal = match (hint, errno) {
        (Hint::Cold | Hint::PageOut | Hint::Free, Errno::INVAL) if is_locked => Refusal::Locked,
        (_, Errno::OPNOTSUPP) => Refusal::Hidden,
        (Hint::Collapse, Errno::INVAL) => Refusal::NoHugePageFits,
        (Hint::Collapse, Errno::AGAIN | Errno::BUSY) => Refusal::CannotMove,
        (_, Errno::INVAL | Errno::NOSYS) => Refusal::Unknown,
        (_, Errno::NOMEM | Errno::AGAIN) => Refusal::NoMemory,
        (_, errno) => Refusal::Other(errno.0),
    };
    Error::Refused(refusal)
}

impl<K: Contents> Clone for Advice<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K: Contents> Copy for Advice<K> {}

impl<K: Contents> fmt::Debug for Advice<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.said {
            Said::Hint(hint) => write!(f, "Advice::{hint:?}"),
            Said::DontNeed => f.write_str("Advice::DontNeed"),
        }
    }
}
