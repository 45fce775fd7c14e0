//! What a transfer goes to or comes from.

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd};
use std::sync::Arc;

use crate::os::queue::Request;
use crate::{Error, Operation};

/// A file, socket or pipe for many transfers, shared without a system call for each.
///
/// ```
/// use oubliette::dma::Descriptor;
/// let file = Descriptor::new(std::fs::File::open("/dev/null")?);
/// let _same = file.clone();
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Descriptor(Arc<OwnedFd>);

impl Descriptor {
    /// Takes a file, or anything else that owns a descriptor.
    #[must_use]
    pub fn new(file: impl Into<OwnedFd>) -> Self {
        Self(Arc::new(file.into()))
    }

    pub(super) fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl From<Arc<OwnedFd>> for Descriptor {
    fn from(shared: Arc<OwnedFd>) -> Self {
        Self(shared)
    }
}

/// What names a file for a transfer: `&File` (or any other `&impl AsFd`), which is duplicated (`fcntl(2)`), so that
/// it may be closed meanwhile; or a [`Descriptor`], which is shared.
pub trait Source: private::Sealed {}

impl<T: AsFd> Source for &T {}
impl Source for Descriptor {}
impl Source for &Descriptor {}

pub(super) mod private {
    use super::{AsFd, Descriptor, Error, Operation};

    /// Nobody else implements it.
    pub trait Sealed {
        #[doc(hidden)]
        fn into_descriptor(self) -> Result<Descriptor, Error>;
    }

    impl<T: AsFd> Sealed for &T {
        fn into_descriptor(self) -> Result<Descriptor, Error> {
            match self.as_fd().try_clone_to_owned() {
                Ok(owned) => Ok(Descriptor::new(owned)),
                Err(error) => Err(Error::Os {
                    operation: Operation::Transfer,
                    errno: error.raw_os_error().unwrap_or_default(),
                }),
            }
        }
    }

    impl Sealed for Descriptor {
        fn into_descriptor(self) -> Result<Descriptor, Error> {
            Ok(self)
        }
    }

    impl Sealed for &Descriptor {
        fn into_descriptor(self) -> Result<Descriptor, Error> {
            Ok(self.clone())
        }
    }
}

/// Where in a file a transfer begins. A `u64` is [`Offset::At`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Offset {
    /// So many bytes from its start; its own position is neither used nor moved. For sockets this must be 0; pipes
    /// ignore it.
    At(u64),
    /// Where the file stands, which moves on by as much as is transferred. For sockets and pipes: the next bytes. Two
    /// such transfers on one file at once may come in any order.
    Current,
}

impl Offset {
    pub(super) fn encode(self) -> Result<u64, Error> {
        match self {
            // What the kernel takes for "the current one" and other negative numbers are no places in a file.
            Self::At(offset) if i64::try_from(offset).is_err() => Err(Error::TooLarge),
            Self::At(offset) => Ok(offset),
            Self::Current => Ok(Request::CURRENT),
        }
    }
}

impl From<u64> for Offset {
    fn from(offset: u64) -> Self {
        Self::At(offset)
    }
}
