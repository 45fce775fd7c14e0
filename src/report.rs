//! What is there, and what protects it: asked from the heaps' records and from the kernel.

use core::fmt;

use crate::dma;
use crate::heap::{self, HEAPS, IsolatedStats, NR_HEAPS, PENDING_LINES, Stats, isolated_stats};
use crate::os::{self, Support};
use crate::pages;
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(miri, loom, oubliette_portable))
))]
use crate::scope::ScopeReport;
use crate::secret::secret_seal;
use crate::wipe::{self, Reach};
use crate::{Backing, Lock, Policy, Seal, keys, secret_backing};

/// A picture of every heap of the process at about one moment. Made by [`report`].
///
/// Holds plain numbers and never allocates; `Display` prints it for people.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    heaps: [Option<HeapReport>; NR_HEAPS],
    isolated: IsolatedReport,
    dma: DmaReport,
    seal: SealReport,
    lock_limit: LockLimit,
    flush_reach: Reach,
    #[cfg(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64"),
        not(any(miri, loom, oubliette_portable))
    ))]
    scopes: ScopeReport,
}

/// `RLIMIT_MEMLOCK` and what is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockLimit {
    /// The soft limit in bytes; `None` if unlimited.
    pub soft_bytes: Option<usize>,
    /// How far the process may raise it on its own (`setrlimit`); `None` if unlimited.
    pub hard_bytes: Option<usize>,
    /// Bytes that the whole process has locked, by whatever means, as the kernel counts them
    /// (`VmLck` in `proc_pid_status(5)`); `None` if it does not tell.
    pub locked_bytes: Option<usize>,
    /// Bytes that can still be locked; `None` if there is no limit, or the process may exceed it
    /// (`CAP_IPC_LOCK`).
    pub left_bytes: Option<usize>,
}

/// What seals secrets at rest ([`set_secret_seal`](crate::set_secret_seal)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SealReport {
    /// The seal in force.
    pub seal: Seal,
    /// Where protection keys were asked for and could not be had, the `errno` of the refusal: the seal is then
    /// what it was before.
    pub keys_refused_errno: Option<i32>,
}

/// What one heap holds, and what protects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeapReport {
    /// What the heap was asked to promise.
    pub policy: Policy,
    /// Addresses set aside for blocks: virtual size, which costs no memory.
    pub reserved_bytes: usize,
    /// Addresses set aside for the heap's own records: virtual size.
    pub records_reserved_bytes: usize,
    /// Bytes that were made usable: virtual size still.
    pub committed_bytes: usize,
    /// Bytes for blocks that are in memory at the moment, as the kernel says (`mincore(2)`). Counts pages that are
    /// kept for the next large block, too, which are not committed meanwhile: nobody can access them.
    pub resident_bytes: usize,
    /// Bytes locked (`mlock2(2)`), guard pages included, since they count against the limit.
    pub locked_bytes: usize,
    /// Bytes pinned (io_uring fixed buffers).
    pub pinned_bytes: usize,
    /// Bytes hidden ([`Backing::Hidden`]), which are locked by nature.
    pub hidden_bytes: usize,
    /// Blocks in use.
    pub live_blocks: usize,
    /// Bytes in use, as asked for.
    pub live_bytes: usize,
    /// Bytes of slabs and large blocks in use.
    pub in_use_bytes: usize,
    /// The most that `in_use_bytes` ever was.
    pub peak_bytes: usize,
    /// Blocks given up on purpose (`leak`) or because they could not be freed.
    pub leaked_blocks: usize,
    /// Their bytes.
    pub leaked_bytes: usize,
    /// Freed cache lines that no thread has written back yet ([`Flush::Bounded`](crate::Flush::Bounded)).
    pub pending_lines: usize,
    /// Blocks that a parent process made before it forked, freed in this one.
    pub inherited_frees: usize,
    /// Threads that use the heap, or did.
    pub threads: usize,
    /// Where the heap is less than its policy asks for.
    pub steps_down: StepsDown,
}

/// Where a heap is less than its policy asks for, and why. All zero: it is what was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepsDown {
    /// Times that memory was locked but could not be pinned.
    pub not_pinned: usize,
    /// The `errno` of the last such refusal: `ENOSYS` or `EPERM` where io_uring is off, `ENOMEM` at the limit.
    pub not_pinned_errno: i32,
    /// Whether pins ended because somebody closed the ring's file descriptor: those pages are only locked now.
    pub is_pin_lost: bool,
    /// Times that memory could not be locked, although it should have been; a fork counts as one in the child,
    /// which inherits memory but no locks.
    pub not_locked: usize,
    /// Bytes of it: wiped when freed, like all, but the kernel may swap them out meanwhile.
    pub not_locked_bytes: usize,
    /// Guards made by `mprotect(2)`, at two mappings each, since the kernel has no `MADV_GUARD_INSTALL`.
    pub guards_by_mprotect: usize,
    /// Hints that the kernel does not know (no huge pages or no KSM built in): nothing to fear from either.
    pub hints_refused: u32,
}

/// The secrets on pages of their own ([`IsolatedBox`](crate::IsolatedBox)), and what protects them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IsolatedReport {
    /// Addresses set aside for them: virtual size, which costs no memory.
    pub reserved_bytes: usize,
    /// Addresses set aside for the records about them: virtual size.
    pub records_reserved_bytes: usize,
    /// Bytes of their pages that are in memory at the moment, as the kernel says (`mincore(2)`).
    pub resident_bytes: usize,
    /// Secrets alive.
    pub live: usize,
    /// Their bytes, as asked for.
    pub live_bytes: usize,
    /// Places kept ready for new ones: locked, wiped.
    pub ready: usize,
    /// Bytes of their pages, and of those kept ready. All of it is locked, guards not counted.
    pub locked_bytes: usize,
    /// Bytes of those that are pinned.
    pub pinned_bytes: usize,
    /// Bytes of those, and of secret runs, that are hidden ([`Backing::Hidden`]).
    pub hidden_bytes: usize,
    /// Secrets that could not be wiped when they were dropped, since the kernel gave no access to them: sealed,
    /// and wiped when the process ends.
    pub leaked: usize,
    /// Secret runs of pages alive ([`GuardedPages`](crate::GuardedPages)), leaked ones included.
    pub runs: usize,
    /// Bytes of their pages.
    pub run_bytes: usize,
    /// Runs leaked on purpose ([`GuardedPages::leak`](crate::GuardedPages::leak)).
    pub leaked_runs: usize,
    /// Bytes of their pages.
    pub leaked_run_bytes: usize,
    /// What seals them at rest.
    pub seal: Seal,
    /// Where they are less than they could be.
    pub steps_down: StepsDown,
}

impl IsolatedReport {
    fn new(stats: &IsolatedStats) -> Self {
        let runs = pages::run_stats();
        Self {
            runs: runs.runs,
            run_bytes: runs.bytes,
            leaked_runs: runs.leaked_runs,
            leaked_run_bytes: runs.leaked_bytes,
            reserved_bytes: stats.reserved_bytes,
            records_reserved_bytes: stats.records_reserved_bytes,
            resident_bytes: stats.resident_bytes,
            live: stats.live,
            live_bytes: stats.live_bytes,
            ready: stats.ready,
            locked_bytes: stats.locked_bytes,
            pinned_bytes: stats.pinned_bytes,
            // One choice for the process, which all of them were made with.
            hidden_bytes: match secret_backing() {
                Backing::Hidden => stats.locked_bytes.saturating_add(runs.bytes),
                _ => 0,
            },
            leaked: stats.leaked,
            seal: secret_seal(),
            steps_down: StepsDown {
                not_pinned: stats.pin_refused,
                not_pinned_errno: stats.pin_errno,
                is_pin_lost: stats.is_pin_lost,
                guards_by_mprotect: stats.guards_without_marker,
                hints_refused: stats.hints_refused,
                ..StepsDown::default()
            },
        }
    }
}

/// The buffers for devices ([`DmaBuffer`](crate::DmaBuffer)), and what protects them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DmaReport {
    /// Buffers alive, those of pools and of transfers under way included.
    pub live: usize,
    /// Bytes of their pages.
    pub live_bytes: usize,
    /// Bytes of them that are locked: all, or the buffer would not be there.
    pub locked_bytes: usize,
    /// Bytes of them that are pinned. The others were allowed to be locked only.
    pub pinned_bytes: usize,
    /// Buffers given up, since nobody knows whether a device still writes to them: never freed, in use by nobody.
    /// They are among the live ones.
    pub quarantined: usize,
    /// Bytes of their pages.
    pub quarantined_bytes: usize,
    /// Where they are less than they could be.
    pub steps_down: StepsDown,
}

impl DmaReport {
    fn new(stats: &dma::Stats) -> Self {
        Self {
            live: stats.buffers,
            live_bytes: stats.bytes,
            locked_bytes: stats.bytes,
            pinned_bytes: stats.pinned_bytes,
            quarantined: stats.quarantined,
            quarantined_bytes: stats.quarantined_bytes,
            steps_down: StepsDown {
                not_pinned: stats.not_pinned,
                not_pinned_errno: stats.not_pinned_errno,
                is_pin_lost: stats.is_pin_lost,
                ..StepsDown::default()
            },
        }
    }
}

impl StepsDown {
    /// Whether the heap is all that its policy asks for.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// The state of every heap of the process.
///
/// Costs a pass over the heaps' records and one system call for each 2 MiB in use; touches no page of a
/// secret. Other threads may go on meanwhile, so figures of different moments may stand side by side.
#[must_use]
pub fn report() -> Report {
    let mut heaps = [None; NR_HEAPS];
    for (place, heap) in heaps.iter_mut().zip(HEAPS) {
        *place = heap.stats().map(|(policy, stats)| HeapReport::new(policy, &stats));
    }
    Report {
        heaps,
        isolated: IsolatedReport::new(&isolated_stats()),
        dma: DmaReport::new(&dma::stats()),
        seal: SealReport { seal: secret_seal(), keys_refused_errno: keys::refused() },
        lock_limit: LockLimit::now(),
        flush_reach: wipe::reach(),
        #[cfg(all(
            target_os = "linux",
            any(target_arch = "x86_64", target_arch = "aarch64"),
            not(any(miri, loom, oubliette_portable))
        ))]
        scopes: ScopeReport::now(),
    }
}

impl Report {
    /// The isolated secrets.
    #[must_use]
    pub const fn isolated(&self) -> &IsolatedReport {
        &self.isolated
    }

    /// The buffers for devices.
    #[must_use]
    pub const fn dma(&self) -> &DmaReport {
        &self.dma
    }

    /// The heaps that were ever used.
    pub fn heaps(&self) -> impl Iterator<Item = &HeapReport> {
        self.heaps.iter().flatten()
    }

    /// The heap of this policy, if it was ever used. How a policy flushes makes no difference. That of
    /// [`Policy::SECRET`] may have another backing: see [`set_secret_backing`](crate::set_secret_backing).
    #[must_use]
    pub fn heap(&self, policy: Policy) -> Option<&HeapReport> {
        self.heaps.get(heap::of(policy).index())?.as_ref()
    }

    /// The heap of [`SecretBox`](crate::SecretBox) and its kind, if it was ever used. Where a protection key seals
    /// it, scopes and `SecretAlloc` have another one, that of [`Policy::SECRET`].
    #[must_use]
    pub fn secrets(&self) -> Option<&HeapReport> {
        match self.seal.seal {
            Seal::ProtectionKey => self.heap(Policy::SECRET.with_seal(Seal::ProtectionKey)),
            Seal::Pages | Seal::None => self.heap(Policy::SECRET),
        }
    }

    /// What seals secrets at rest.
    #[must_use]
    pub const fn seal(&self) -> SealReport {
        self.seal
    }

    /// Bytes of hidden memory ([`Backing::Hidden`]) that the process has: as long as it has any, the machine does
    /// not hibernate (`memfd_secret(2)`).
    #[must_use]
    pub fn hidden_bytes(&self) -> usize {
        self.heaps().map(|heap| heap.hidden_bytes).fold(self.isolated.hidden_bytes, usize::saturating_add)
    }

    /// The limit of locked memory.
    #[must_use]
    pub const fn lock_limit(&self) -> LockLimit {
        self.lock_limit
    }

    /// The stacks of scopes.
    #[cfg(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64"),
        not(any(miri, loom, oubliette_portable))
    ))]
    #[must_use]
    pub const fn scopes(&self) -> ScopeReport {
        self.scopes
    }

    /// How far a flush gets on this machine.
    #[must_use]
    pub const fn flush_reach(&self) -> Reach {
        self.flush_reach
    }
}

impl LockLimit {
    fn now() -> Self {
        let limit = os::memlock_limit();
        let locked_bytes = os::locked_bytes();
        let left_bytes = match limit.soft {
            Some(soft) if !os::may_exceed_memlock_limit() => {
                Some(soft.saturating_sub(locked_bytes.unwrap_or(0)))
            }
            _ => None,
        };
        Self { soft_bytes: limit.soft, hard_bytes: limit.hard, locked_bytes, left_bytes }
    }
}

impl HeapReport {
    fn new(policy: Policy, stats: &Stats) -> Self {
        Self {
            policy,
            reserved_bytes: stats.reserved_bytes,
            records_reserved_bytes: stats.metadata_reserved_bytes,
            committed_bytes: stats.committed_bytes,
            resident_bytes: stats.resident_bytes,
            locked_bytes: stats.locked_bytes,
            pinned_bytes: stats.pinned_bytes,
            hidden_bytes: if policy.backing() == Backing::Hidden { stats.locked_bytes } else { 0 },
            live_blocks: stats.live_blocks,
            live_bytes: stats.live_bytes,
            in_use_bytes: stats.in_use_bytes,
            peak_bytes: stats.peak_bytes,
            leaked_blocks: stats.leaked_blocks,
            leaked_bytes: stats.leaked_bytes,
            pending_lines: stats.pending_lines,
            inherited_frees: stats.inherited_frees,
            threads: stats.thread_heaps,
            steps_down: StepsDown {
                not_pinned: stats.pin_refused,
                not_pinned_errno: stats.pin_errno,
                is_pin_lost: stats.is_pin_lost,
                not_locked: stats.lock_refused,
                not_locked_bytes: stats.unlocked_bytes,
                guards_by_mprotect: stats.guards_by_mprotect,
                hints_refused: stats.hints_refused,
            },
        }
    }

    /// What is in force for the blocks of this heap, in words.
    fn protection(&self) -> &'static str {
        let steps = &self.steps_down;
        match (self.policy.lock(), self.policy.backing()) {
            (Lock::Off, _) => "guarded, wiped when freed",
            _ if steps.not_locked_bytes > 0 => "guarded, wiped when freed, locked in part",
            (_, Backing::Hidden) => "guarded, wiped when freed, locked, hidden",
            (_, Backing::Auto) if steps.is_pin_lost => "guarded, wiped when freed, locked (pins lost)",
            (_, Backing::Auto) if steps.not_pinned == 0 => "guarded, wiped when freed, locked, pinned",
            (_, Backing::Auto) if self.pinned_bytes > 0 => {
                "guarded, wiped when freed, locked, pinned in part"
            }
            _ => "guarded, wiped when freed, locked",
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for heap in self.heaps() {
            write!(f, "{heap}")?;
        }
        if self.isolated.reserved_bytes != 0 || self.isolated.runs != 0 {
            write!(f, "{}", self.isolated)?;
        } else if self.heaps().next().is_none() {
            writeln!(f, "no heap in use")?;
        }
        if self.dma.live != 0 || !self.dma.steps_down.is_none() {
            write!(f, "{}", self.dma)?;
        }
        #[cfg(all(
            target_os = "linux",
            any(target_arch = "x86_64", target_arch = "aarch64"),
            not(any(miri, loom, oubliette_portable))
        ))]
        write!(f, "{}", self.scopes)?;
        write!(f, "{}", self.seal)?;
        match self.hidden_bytes() {
            0 => {}
            bytes => writeln!(
                f,
                "hidden: {bytes} bytes; this machine does not hibernate as long as there are any"
            )?,
        }
        let limit = self.lock_limit;
        write!(f, "lock limit: ")?;
        match (limit.soft_bytes, limit.left_bytes) {
            (None, _) => writeln!(f, "none")?,
            (Some(soft), Some(left)) => writeln!(f, "{soft} bytes, {left} left")?,
            (Some(soft), None) => writeln!(f, "{soft} bytes, which this process may exceed")?,
        }
        match self.flush_reach {
            Reach::PastCaches(instruction) => writeln!(f, "flush: past the CPU caches ({instruction:?})"),
            Reach::CacheOnly => {
                writeln!(f, "flush: into the cache only, this CPU has no instruction for more")
            }
        }
    }
}

impl fmt::Display for SealReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.seal {
            Seal::Pages => "seal: isolated secrets by their pages, dense ones not",
            Seal::ProtectionKey => "seal: isolated and dense secrets by protection keys",
            Seal::None => "seal: none",
        })?;
        match self.keys_refused_errno {
            Some(errno) => writeln!(f, " (protection keys refused with errno {errno})"),
            None => writeln!(f),
        }
    }
}

impl fmt::Display for HeapReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sealed = match self.policy.seal() {
            Seal::ProtectionKey => ", sealed by a protection key",
            Seal::Pages | Seal::None => "",
        };
        writeln!(
            f,
            "heap {:?} / {:?} / {:?}: {}{sealed}",
            self.policy.backing(),
            self.policy.lock(),
            self.policy.fork(),
            self.protection()
        )?;
        writeln!(
            f,
            "  virtual: reserved {} (records {}), committed {}",
            self.reserved_bytes, self.records_reserved_bytes, self.committed_bytes
        )?;
        writeln!(
            f,
            "  memory:  resident {}, locked {}, pinned {}, in use {}, peak {}",
            self.resident_bytes, self.locked_bytes, self.pinned_bytes, self.in_use_bytes, self.peak_bytes
        )?;
        writeln!(
            f,
            "  blocks:  live {} ({} bytes), leaked {} ({} bytes), lines to write back {} (bound {} a thread)",
            self.live_blocks,
            self.live_bytes,
            self.leaked_blocks,
            self.leaked_bytes,
            self.pending_lines,
            PENDING_LINES
        )?;
        write!(f, "{}", self.steps_down)
    }
}

impl fmt::Display for IsolatedReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sealed = match self.seal {
            Seal::Pages => ", sealed at rest",
            Seal::ProtectionKey => ", sealed at rest by a protection key",
            Seal::None => "",
        };
        let pinned = match self.pinned_bytes {
            _ if self.hidden_bytes > 0 => ", hidden",
            0 => "",
            bytes if bytes == self.locked_bytes => ", pinned",
            _ => ", pinned in part",
        };
        writeln!(f, "isolated: guarded{sealed}, wiped when dropped, locked{pinned}")?;
        writeln!(f, "  virtual: reserved {} (records {})", self.reserved_bytes, self.records_reserved_bytes)?;
        let (resident, locked, pinned) = (self.resident_bytes, self.locked_bytes, self.pinned_bytes);
        writeln!(f, "  memory:  resident {resident}, locked {locked}, pinned {pinned}")?;
        writeln!(
            f,
            "  secrets: live {} ({} bytes), leaked {}, ready {}",
            self.live, self.live_bytes, self.leaked, self.ready
        )?;
        writeln!(
            f,
            "  runs:    {} ({} bytes), leaked {} ({} bytes)",
            self.runs, self.run_bytes, self.leaked_runs, self.leaked_run_bytes
        )?;
        write!(f, "{}", self.steps_down)
    }
}

impl fmt::Display for DmaReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pinned = match self.pinned_bytes {
            0 => "",
            bytes if bytes == self.live_bytes => ", pinned",
            _ => ", pinned in part",
        };
        writeln!(f, "dma: guarded, wiped when dropped, locked{pinned}")?;
        writeln!(f, "  memory:  locked {}, pinned {}", self.locked_bytes, self.pinned_bytes)?;
        writeln!(
            f,
            "  buffers: live {} ({} bytes), quarantined {} ({} bytes)",
            self.live, self.live_bytes, self.quarantined, self.quarantined_bytes
        )?;
        write!(f, "{}", self.steps_down)
    }
}

impl fmt::Display for StepsDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.not_pinned > 0 {
            let known = match os::features().io_uring {
                Support::No(_) => "io_uring is not to be had here",
                Support::Yes | Support::Untried => "the kernel refused",
            };
            let (n, errno) = (self.not_pinned, self.not_pinned_errno);
            writeln!(f, "  step down: locked, not pinned, {n} times: {known} (errno {errno})")?;
        }
        if self.is_pin_lost {
            writeln!(f, "  step down: pins lost, the ring's file descriptor was closed")?;
        }
        if self.not_locked > 0 {
            writeln!(
                f,
                "  step down: not locked, {} times, {} bytes: RLIMIT_MEMLOCK (half of it is left for secrets), or \
                 inherited by a fork",
                self.not_locked, self.not_locked_bytes
            )?;
        }
        if self.guards_by_mprotect > 0 {
            writeln!(f, "  step down: {} guards by mprotect, at two mappings each", self.guards_by_mprotect)?;
        }
        if self.hints_refused > 0 {
            writeln!(f, "  note: {} hints that this kernel does not know", self.hints_refused)?;
        }
        Ok(())
    }
}
