//! What all handles of a ring share: the queues, and a record for each transfer.

// UNSAFETY: puts requests into the queue, which name memory by address.
#![expect(unsafe_code, reason = "forwards requests to the os contract, see UNSAFETY above")]

use core::sync::atomic::AtomicU64;
use core::task::Waker;
use core::time::Duration;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::reaper;
use crate::os::queue::{Locked, Queue, Request};
use crate::os::{self, Errno};
use crate::{Error, Operation};

/// How long a transfer is watched while the kernel cannot be entered: no memory for requests, too many under way, a call
/// that is forbidden by now.
const PATIENCE: Duration = Duration::from_secs(5);
/// When to look again after such an error.
const SOON: Duration = Duration::from_millis(2);

/// A ring.
#[derive(Debug)]
pub(in crate::dma) struct Shared {
    pub(super) queue: Queue<State>,
    /// Which slots of the table of buffers are taken.
    pub(super) slots: Box<[AtomicU64]>,
    pub(super) nr_slots: u32,
}

/// The records about transfers.
#[derive(Debug)]
pub(super) struct State {
    transfers: Box<[Transfer]>,
    free: Vec<u32>,
    /// A thread waits in the kernel: only it takes completions out of the queue.
    has_leader: bool,
    /// Threads that wait for the leader.
    followers: usize,
    /// The thread for futures is there, or is being started.
    pub(super) has_reaper: bool,
    /// The thread for futures could not enter the kernel for a long time.
    broken: Option<Lost>,
}

#[derive(Debug)]
struct Transfer {
    /// Tells this use of the record from others.
    generation: u32,
    progress: Progress,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nobody's.
    Free,
    /// In the queue of submissions or in the kernel.
    UnderWay,
    /// Bytes transferred, or a negative `errno`. Nobody has asked yet.
    Ended(i32),
}

/// Names a transfer from its start until its result is taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    index: u32,
    generation: u32,
}

/// Marks completions that answer to a request to cancel.
const ANSWER: u64 = 1 << 63;
/// Generations are below.
const GENERATIONS: u32 = 1 << 31;

impl Ticket {
    fn tag(self) -> u64 {
        (u64::from(self.generation) << 32) | u64::from(self.index)
    }

    fn of(tag: u64) -> Option<Self> {
        let generation = u32::try_from(tag >> 32).ok()?;
        let index = u32::try_from(tag & u64::from(u32::MAX)).ok()?;
        (tag & ANSWER == 0).then_some(Self { index, generation })
    }
}

/// Why the end of a transfer is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// It is the parent's: this is a child made by fork, whose memory it never touched.
    LeftBehind,
    /// The kernel does not answer any more.
    Broken(Errno),
    /// It did not end in time.
    Late,
}

impl Lost {
    pub(super) const fn error(self) -> Error {
        match self {
            Self::LeftBehind => Error::LeftBehind,
            Self::Broken(Errno(errno)) => Error::Os { operation: Operation::Transfer, errno },
            Self::Late => Error::Os { operation: Operation::Transfer, errno: Errno::AGAIN.0 },
        }
    }
}

impl State {
    pub(super) fn new(places: u32) -> Self {
        let blank = |_| Transfer { generation: 0, progress: Progress::Free, waker: None };
        Self {
            transfers: (0..places).map(blank).collect(),
            free: (0..places).rev().collect(),
            has_leader: false,
            followers: 0,
            has_reaper: false,
            broken: None,
        }
    }

    /// A record for a new transfer.
    fn open(&mut self) -> Option<Ticket> {
        let index = self.free.pop()?;
        let transfer = self.transfers.get_mut(usize::try_from(index).ok()?)?;
        transfer.generation = transfer.generation.wrapping_add(1) % GENERATIONS;
        transfer.progress = Progress::UnderWay;
        Some(Ticket { index, generation: transfer.generation })
    }

    fn get(&mut self, ticket: Ticket) -> Option<&mut Transfer> {
        let transfer = self.transfers.get_mut(usize::try_from(ticket.index).ok()?)?;
        (transfer.generation == ticket.generation).then_some(transfer)
    }

    /// The result, if it is there. The ticket is worth nothing afterwards.
    fn take(&mut self, ticket: Ticket) -> Option<i32> {
        match self.get(ticket)?.progress {
            Progress::Ended(result) => {
                self.close(ticket);
                Some(result)
            }
            Progress::Free | Progress::UnderWay => None,
        }
    }

    fn close(&mut self, ticket: Ticket) {
        if let Some(transfer) = self.get(ticket) {
            transfer.progress = Progress::Free;
            transfer.waker = None;
            // Within the capacity: each index is in there once.
            self.free.push(ticket.index);
        }
    }

    /// Notes one completion.
    fn note(&mut self, tag: u64, result: i32, wakers: &mut Vec<Waker>) {
        let Some(ticket) = Ticket::of(tag) else { return };
        if let Some(transfer) = self.get(ticket)
            && transfer.progress == Progress::UnderWay
        {
            transfer.progress = Progress::Ended(result);
            wakers.extend(transfer.waker.take());
        }
    }

    /// Whether a future waits for any of them.
    pub(super) fn has_wakers(&self) -> bool {
        self.transfers.iter().any(|transfer| transfer.waker.is_some())
    }
}

impl Shared {
    /// Has every future that waits, and every later one, end with this.
    pub(super) fn give_up(&self, lost: Lost) {
        let Some(mut locked) = self.queue.lock() else { return };
        locked.broken = Some(lost);
        let wakers = locked.transfers.iter_mut().filter_map(|transfer| transfer.waker.take()).collect();
        drop(locked);
        wake(wakers);
    }
}

/// Wakes futures, after the lock is gone, since that runs code of others. Where it panics the others are woken all the
/// same, and the thread that happened to do it goes on.
fn wake(wakers: Vec<Waker>) {
    for waker in wakers {
        let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
}

fn reap(locked: &mut Locked<'_, State>) -> Vec<Waker> {
    let mut wakers = Vec::new();
    if !locked.has_leader {
        locked.reap(|state, tag, result| state.note(tag, result, &mut wakers));
    }
    wakers
}

impl Shared {
    /// Starts a transfer. On success it is in the queue, submitted or not, and has ended when its result was given.
    ///
    /// # Safety
    ///
    /// - Those of `Locked::push`, until the result was given.
    pub(super) unsafe fn start(&self, request: &Request) -> Result<Ticket, Error> {
        let mut locked = self.queue.lock().ok_or(Error::LeftBehind)?;
        let limit = u32::try_from(locked.transfers.len()).unwrap_or(u32::MAX);
        let ticket = locked.open().ok_or(Error::TooManyTransfers { limit })?;
        // SAFETY: forwarded: the caller promises the same.
        if let Err(errno) = unsafe { locked.push(request, ticket.tag()) } {
            locked.close(ticket);
            return Err(Error::Os { operation: Operation::Transfer, errno: errno.0 });
        }
        // Whatever comes of this, the entry is in the queue. Who waits for it tries again.
        let _ = locked.submit();
        Ok(ticket)
    }

    /// Asks the kernel to end a transfer early. Its result still has to be waited for.
    pub(super) fn cancel(&self, ticket: Ticket) {
        if let Some(mut locked) = self.queue.lock() {
            let wakers = reap(&mut locked);
            let is_under_way = locked.get(ticket).is_some_and(|it| it.progress == Progress::UnderWay);
            if is_under_way && locked.push_cancel(ticket.tag(), ticket.tag() | ANSWER).is_ok() {
                let _ = locked.submit();
            }
            drop(locked);
            wake(wakers);
        }
    }

    /// The result, if it is there.
    pub(super) fn try_take(&self, ticket: Ticket) -> Result<Option<i32>, Lost> {
        let mut locked = self.queue.lock().ok_or(Lost::LeftBehind)?;
        let wakers = reap(&mut locked);
        let result = locked.take(ticket);
        if result.is_none() {
            let _ = locked.submit();
        }
        drop(locked);
        wake(wakers);
        Ok(result)
    }

    /// The result, or this waker is woken when it is there.
    pub(super) fn poll(self: &Arc<Self>, ticket: Ticket, waker: &Waker) -> Result<Option<i32>, Lost> {
        // Copied before, and the old one dropped after: both run code of others.
        let mut copy = Some(waker.clone());
        let mut locked = self.queue.lock().ok_or(Lost::LeftBehind)?;
        let wakers = reap(&mut locked);
        let result = locked.take(ticket);
        let mut wants_reaper = false;
        if result.is_none() {
            if let Some(lost) = locked.broken {
                drop(locked);
                wake(wakers);
                return Err(lost);
            }
            let _ = locked.submit();
            if let Some(transfer) = locked.get(ticket) {
                core::mem::swap(&mut transfer.waker, &mut copy);
            }
            wants_reaper = !core::mem::replace(&mut locked.has_reaper, true);
        }
        drop(locked);
        drop(copy);
        wake(wakers);
        if wants_reaper && reaper::start(self).is_err() {
            // Without a thread the future asks again and again, as slowly as its executor lets it.
            if let Some(mut locked) = self.queue.lock() {
                locked.has_reaper = false;
            }
            std::thread::yield_now();
            waker.wake_by_ref();
        }
        Ok(result)
    }

    /// Waits for the result, until then if a time is given.
    pub(super) fn wait(&self, ticket: Ticket, until: Option<Instant>) -> Result<i32, Lost> {
        let mut trouble = Trouble::default();
        loop {
            let mut locked = self.queue.lock().ok_or(Lost::LeftBehind)?;
            let wakers = reap(&mut locked);
            if let Some(result) = locked.take(ticket) {
                drop(locked);
                wake(wakers);
                return Ok(result);
            }
            let submitted = locked.submit();
            if !wakers.is_empty() {
                drop(locked);
                wake(wakers);
                continue;
            }
            if let Err(errno) = submitted
                && !may_pass(errno)
            {
                // It, or what is before it in the queue, will never begin.
                return Err(Lost::Broken(errno));
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(Lost::Late);
            }
            let most = if submitted.is_ok() { left } else { Some(left.map_or(SOON, |left| left.min(SOON))) };
            let waited = self.step(locked, most);
            trouble.note(submitted.and(waited))?;
            if trouble.since.is_some() {
                std::thread::sleep(SOON);
            }
        }
    }

    /// Waits in the kernel, or for the thread that does.
    pub(super) fn step(&self, mut locked: Locked<'_, State>, most: Option<Duration>) -> Result<(), Errno> {
        if locked.has_leader {
            locked.followers = locked.followers.saturating_add(1);
            let mut locked = locked.park(most);
            locked.followers = locked.followers.saturating_sub(1);
            return Ok(());
        }
        locked.has_leader = true;
        drop(locked);
        let waited = self.queue.wait(most);
        // In a child that was forked meanwhile there is no such thread.
        let Some(mut locked) = self.queue.lock() else { return Ok(()) };
        locked.has_leader = false;
        let wakers = reap(&mut locked);
        if locked.followers > 0 {
            // All of them: the next leader is among them.
            locked.wake_all();
        }
        drop(locked);
        wake(wakers);
        match waited {
            Err(Errno::INTR | Errno::TIME) => Ok(()),
            waited => waited,
        }
    }
}

/// How long entering the kernel has failed.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    since: Option<Instant>,
}

impl Trouble {
    pub(super) fn note(&mut self, entered: os::Result<()>) -> Result<(), Lost> {
        match entered {
            Ok(()) => self.since = None,
            // Even where the kernel cannot be entered any more it writes its completions.
            Err(errno) => {
                let since = *self.since.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE {
                    return Err(Lost::Broken(errno));
                }
            }
        }
        Ok(())
    }
}

/// Whether the next attempt may do what this one did not.
const fn may_pass(errno: Errno) -> bool {
    matches!(errno, Errno::AGAIN | Errno::BUSY | Errno::INTR | Errno::NOMEM)
}
