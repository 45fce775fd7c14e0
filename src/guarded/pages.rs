//! Guarded memory as a tool of its own: the public face of a guarded run.

// UNSAFETY: asks the kernel about a mapping, and leaves one mapped for good.
#![expect(unsafe_code, reason = "names its own mapping to the os contract")]

use core::alloc::Layout;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::slice;

use super::advice::{Advice, Contents, Said, Secret, refused};
use crate::os::{self, Errno};
use crate::pages::{GuardedRun, HugePages, Kind, Owner, Placement, Registered};
use crate::{Error, Operation, Refusal, exit};

/// A run of zeroed pages of its own between two guard pages; derefs to its bytes.
///
/// [`GuardedPages<Secret>`] is locked, pinned where possible, out of core dumps and of huge pages, zeros in a forked
/// child ([`Policy::SECRET`](crate::Policy::SECRET)), and wiped when it is dropped, by [`purge`](crate::purge),
/// and when the process ends. [`GuardedPages<Ordinary>`](crate::Ordinary) is guarded only, and takes every hint
/// that the kernel has.
///
/// The bytes end as close to the guard behind them as their alignment allows, so that an overrun is a fault.
///
/// ```
/// use oubliette::{Advice, GuardedPages, Ordinary, Secret};
///
/// let mut key = GuardedPages::<Secret>::new(32)?;
/// key[0] = 7;
/// assert!(key.is_locked()?);
///
/// let mut buffer = GuardedPages::<Ordinary>::new(1 << 20)?;
/// buffer.advise(Advice::Sequential)?;
/// buffer.fill(1);
/// buffer.discard()?; // the memory goes back; zeros from now on
/// assert_eq!(buffer[0], 0);
/// # Ok::<(), oubliette::Error>(())
/// ```
pub struct GuardedPages<K: Contents = Secret> {
    run: Option<GuardedRun>,
    registered: Option<Registered>,
    placement: Placement,
    _kind: PhantomData<fn() -> K>,
}

impl<K: Contents> GuardedPages<K> {
    /// Maps a run for this many bytes, all zero.
    ///
    /// # Errors
    ///
    /// The system has no room for it, or, for secrets, does not let it be locked.
    pub fn new(bytes: usize) -> Result<Self, Error> {
        Self::with_layout(Layout::from_size_align(bytes, 1).map_err(|_| Error::TooLarge)?)
    }

    /// Maps a run for a block of this size and alignment, all zero.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn with_layout(block: Layout) -> Result<Self, Error> {
        Self::make(block, HugePages::Off, None)
    }

    /// The same on pages of 2 MiB: rounded up to whole ones, the block still against the guard behind it.
    ///
    /// Each saves the processor 511 steps of finding a page, where much memory is used in no order: a byte of each of
    /// the 262,144 small pages of a gibibyte took 109 ns each, on huge ones 31 to 47 (Zen 4 in a virtual machine,
    /// Linux 6.18, `cargo bench --bench huge_pages -- --ratio`). For secrets:
    ///
    /// * [`HugePages::Transparent`]: gathered, locked and pinned as it is made. Where the kernel finds no huge
    ///   pages they are small.
    /// * [`HugePages::Explicit`]: never swapped, and so not counted as locked; a forked child has none of it.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new); [`Error::HugePages`] where the pool (`vm.nr_hugepages`) has too few,
    /// [`Error::Refused`] where the kernel has no transparent ones, or the memory is to be hidden.
    pub fn with_huge_pages(block: Layout, pages: HugePages) -> Result<Self, Error> {
        Self::make(block, pages, None)
    }

    /// The same on the page of this address, if that is to be had; [`placement`](Self::placement) tells.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new). A place that is taken is no error.
    pub fn near(address: usize, block: Layout) -> Result<Self, Error> {
        Self::make(block, HugePages::Off, Some(address))
    }

    fn make(block: Layout, pages: HugePages, near: Option<usize>) -> Result<Self, Error> {
        let kind = K::kind();
        let (run, placement) = GuardedRun::new_near(block, kind, pages, near)?;
        let registered = match kind {
            Kind::Ordinary => None,
            Kind::Secret(_) => {
                exit::arm();
                let (data, bytes) = run.data();
                // SAFETY: mapped, readable and writable as long as `run` lives, and `drop` ends this first.
                Some(unsafe { Registered::new(data, bytes, Owner::Guarded) }.ok_or(Error::MappingLimit)?)
            }
        };
        Ok(Self { run: Some(run), registered, placement, _kind: PhantomData })
    }

    /// Whether it lies where it was wanted.
    #[must_use]
    pub const fn placement(&self) -> Placement {
        self.placement
    }

    /// Bytes of the pages that hold it: its size, rounded up. Guards are not counted.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        self.run.as_ref().map_or(0, |run| run.data().1)
    }

    /// Tells the kernel how to treat it.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`], which says why.
    pub fn advise(&mut self, advice: Advice<K>) -> Result<(), Error> {
        let Some(run) = &mut self.run else { return Ok(()) };
        let Said::Hint(hint) = advice.said else { return self.discard() };
        run.advise(hint).map_err(|errno| {
            let is_locked = self.is_locked().unwrap_or(false);
            refused(hint, errno, is_locked)
        })
    }

    /// Wipes it if it is secret, then gives its memory back. It reads as zeros, and keeps its place, its guards,
    /// its hints and its lock. A secret's pin is made anew.
    ///
    /// # Errors
    ///
    /// The kernel kept the memory, as it does hidden memory. A secret is wiped all the same.
    pub fn discard(&mut self) -> Result<(), Error> {
        let Some(run) = &mut self.run else { return Ok(()) };
        run.discard().map_err(|errno| match errno {
            Errno::OPNOTSUPP if run.is_hidden() => Error::Refused(Refusal::Hidden),
            errno => Error::Os { operation: Operation::Advise, errno: errno.0 },
        })
    }

    /// Whether all of its pages are in memory, says the kernel (`mincore(2)`).
    ///
    /// # Errors
    ///
    /// The kernel does not tell.
    pub fn is_resident(&self) -> Result<bool, Error> {
        const AT_ONCE: usize = 256;
        let Some(run) = &self.run else { return Ok(false) };
        let (data, bytes) = run.data();
        let page_bytes = os::page_size();
        let mut offset = 0;
        while offset < bytes {
            let mut pages = [0; AT_ONCE];
            let len = bytes.wrapping_sub(offset).min(page_bytes.wrapping_mul(AT_ONCE));
            // SAFETY: `offset < bytes`, so within the data.
            let start = unsafe { data.add(offset) };
            // SAFETY: reserved as long as `run` lives.
            unsafe { os::resident(start, len, &mut pages) }.map_err(not_told)?;
            let count = len.checked_div(page_bytes).unwrap_or(0);
            if pages.iter().take(count).any(|page| page & 1 == 0) {
                return Ok(false);
            }
            offset = offset.wrapping_add(len);
        }
        Ok(true)
    }

    /// Whether it is locked, says the kernel (`msync(2)` refuses to invalidate what is locked).
    ///
    /// # Errors
    ///
    /// The kernel does not tell.
    pub fn is_locked(&self) -> Result<bool, Error> {
        let Some(run) = &self.run else { return Ok(false) };
        let (data, bytes) = run.data();
        // SAFETY: reserved as long as `run` lives.
        unsafe { os::is_locked(data, bytes) }.map_err(not_told)
    }

    /// Whether it is pinned: the kernel gave a pin, and the descriptor that it lives by is still the one
    /// that it was (`fstat(2)`).
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.run.as_ref().is_some_and(GuardedRun::is_pinned)
    }

    /// Keeps it mapped for as long as the process lives.
    ///
    /// A secret is still wiped by [`purge`](crate::purge) and when the process ends; `report()` counts it as leaked.
    #[must_use = "the memory can be reached through the reference only"]
    pub fn leak(mut self) -> &'static mut [u8] {
        if let Some(registered) = self.registered.take() {
            registered.leak();
        }
        let Some(run) = self.run.take() else { return &mut [] };
        let mut run = core::mem::ManuallyDrop::new(run);
        let block = run.block_mut();
        // SAFETY: the run is never dropped, so its block stays mapped, and nobody else can reach it.
        unsafe { slice::from_raw_parts_mut(block.as_mut_ptr(), block.len()) }
    }
}

impl<K: Contents> Deref for GuardedPages<K> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.run.as_ref().map_or(&[], GuardedRun::block)
    }
}

impl<K: Contents> DerefMut for GuardedPages<K> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.run.as_mut().map_or(&mut [], GuardedRun::block_mut)
    }
}

impl<K: Contents> Drop for GuardedPages<K> {
    fn drop(&mut self) {
        // Wiped, then out of the registry, then unmapped: purge must not find what is gone, and must find what
        // is not yet wiped.
        if let Some(run) = &mut self.run {
            run.clear();
        }
        if let Some(registered) = self.registered.take() {
            registered.end();
        }
        drop(self.run.take());
    }
}

/// Prints no byte.
impl<K: Contents> fmt::Debug for GuardedPages<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedPages").field("page_bytes", &self.page_bytes()).finish_non_exhaustive()
    }
}

fn not_told(errno: os::Errno) -> Error {
    Error::Os { operation: Operation::Advise, errno: errno.0 }
}
