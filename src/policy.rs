//! What a heap promises: enums, never bools.

mod secret_backing;

pub(crate) use secret_backing::settle_secret_backing;
pub use secret_backing::{secret_backing, set_secret_backing};

/// What keeps a secret page in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backing {
    /// Pinned where the kernel offers it (an io_uring fixed buffer, which the kernel never moves), else
    /// locked only. Which of the two it became shows in `report()`.
    Auto,
    /// Locked, never pinned. A locked page stays in RAM, but the kernel may still move it to another
    /// frame and leave a copy in the old one (`mlock(2)`, and compaction in the kernel documentation).
    Locked,
    /// Hidden (`memfd_secret(2)`, Linux 5.14): the kernel takes the pages out of its own map of memory. Neither a
    /// debugger (`ptrace(2)`), nor `/proc/PID/mem`, nor `process_vm_readv(2)`, nor a device or `O_DIRECT` gets at them,
    /// whatever its rights. They are never moved or swapped, are in no core dump, and a forked child does
    /// not have them: touching a secret there is a fault, whatever [`Fork`] says.
    ///
    /// Never a step down: where there is no hidden memory an allocation fails, whatever [`Lock`] says, with
    /// [`Error::CannotHide`](crate::Error::CannotHide), or [`Error::LockLimit`](crate::Error::LockLimit), since it counts
    /// against `RLIMIT_MEMLOCK`.
    ///
    /// The price: **the whole machine does not hibernate** while there is any ([`report()`](crate::report()) says
    /// so), a page takes some 6 µs to be had (0.3 µs else), and the kernel's own map of memory is split
    /// into small pages around it. System calls still read and write it for its own process (`write(2)`). Not for
    /// the heap of a whole program, whose children could not live without it.
    Hidden,
}

/// What to do about `mlock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lock {
    /// A page that cannot be locked is not used: the allocation fails with an [`Error`](crate::Error)
    /// that names the limit.
    Required,
    /// Pages are locked while the limit lasts and are wiped only after that; every step down is counted
    /// in `report()`.
    BestEffort,
    /// Pages are never locked.
    Off,
}

/// What a child process made by `fork(2)` finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fork {
    /// Zeros (`MADV_WIPEONFORK`, Linux 4.14).
    Wipe,
    /// No mapping at all: touching an inherited secret is a fault (`MADV_DONTFORK`, Linux 2.6.16).
    Exclude,
    /// A copy, as for any other memory. A program that runs on this heap needs it.
    Inherit,
}

/// When freed memory leaves the CPU's caches. Zero it is at once, whatever the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flush {
    /// Past the caches when the call that frees returns.
    Immediate,
    /// Past the caches within a stated bound: each thread remembers the cache lines that it freed, 4 MiB of
    /// them at most, and writes them back in bulk.
    Bounded,
    /// Left to the hardware.
    Off,
}

/// What keeps secrets at rest from being read and written by the process itself.
///
/// Chosen for the secret types by [`set_secret_seal`](crate::set_secret_seal).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Seal {
    /// Page tables: an [`IsolatedBox`](crate::IsolatedBox) has no access at rest, and opening and sealing it
    /// are a system call each (`mprotect(2)`). Open, it is open to every thread. Secrets that share a page
    /// ([`SecretBox`](crate::SecretBox) and its kind) cannot be sealed that way, and are not.
    Pages,
    /// Memory protection keys (`pkeys(7)`): opening and sealing are a write to a register of the CPU each, for
    /// the thread that does it only. Seals dense secrets as well. Needs Linux 4.9 on an x86-64 CPU that has
    /// them (Intel server CPUs since Skylake, AMD since Zen 3).
    ProtectionKey,
    /// Nothing: what is at rest can be read by any pointer. An `IsolatedBox` keeps its guard pages.
    None,
}

/// What a heap promises. A value of it is a constant: build it with the `with_` functions in a `const`.
///
/// ```
/// use oubliette::{Backing, Policy};
/// const PINNED: Policy = Policy::PROGRAM.with_backing(Backing::Auto);
/// assert_eq!(PINNED.backing(), Backing::Auto);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    backing: Backing,
    lock: Lock,
    fork: Fork,
    flush: Flush,
    seal: Seal,
}

impl Policy {
    /// For secrets: pinned where possible, locked always, zeros in a forked child, flushed at once, not sealed.
    pub const SECRET: Self = Self {
        backing: Backing::Auto,
        lock: Lock::Required,
        fork: Fork::Wipe,
        flush: Flush::Immediate,
        seal: Seal::None,
    };

    /// For whole programs: locked while the limit lasts, inherited by children, flushed within a bound, not
    /// sealed.
    pub const PROGRAM: Self = Self {
        backing: Backing::Locked,
        lock: Lock::BestEffort,
        fork: Fork::Inherit,
        flush: Flush::Bounded,
        seal: Seal::None,
    };

    /// The same with another backing.
    #[must_use]
    pub const fn with_backing(self, backing: Backing) -> Self {
        Self { backing, ..self }
    }

    /// The same with another answer to a failing lock.
    #[must_use]
    pub const fn with_lock(self, lock: Lock) -> Self {
        Self { lock, ..self }
    }

    /// The same with another view for forked children.
    #[must_use]
    pub const fn with_fork(self, fork: Fork) -> Self {
        Self { fork, ..self }
    }

    /// The same with another time of flushing.
    #[must_use]
    pub const fn with_flush(self, flush: Flush) -> Self {
        Self { flush, ..self }
    }

    /// The same with another seal.
    ///
    /// A program cannot run on sealed memory, which only the secret types know how to open:
    /// [`Oubliette::with_policy`](crate::Oubliette::with_policy) refuses it. For the secret types the seal is
    /// chosen by [`set_secret_seal`](crate::set_secret_seal); here it names their heap in a report.
    #[must_use]
    pub const fn with_seal(self, seal: Seal) -> Self {
        Self { seal, ..self }
    }

    /// What keeps a page in place.
    #[must_use]
    pub const fn backing(self) -> Backing {
        self.backing
    }

    /// What to do about `mlock`.
    #[must_use]
    pub const fn lock(self) -> Lock {
        self.lock
    }

    /// What a forked child finds.
    #[must_use]
    pub const fn fork(self) -> Fork {
        self.fork
    }

    /// When freed memory leaves the caches.
    #[must_use]
    pub const fn flush(self) -> Flush {
        self.flush
    }

    /// What seals secrets at rest.
    #[must_use]
    pub const fn seal(self) -> Seal {
        self.seal
    }
}
