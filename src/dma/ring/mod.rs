//! Transfers between pinned buffers and files, sockets and pipes, by io_uring.
//!
//! ```text
//! Ring ----.                      .-- Shared: queues, records of transfers, table of buffers
//! InFlight +-- each an Arc of --> |     under one lock; waiting is done without it
//! DmaBuffer (its registration) --'     closed when the last of them is dropped
//! ```
//!
//! # When a transfer has ended
//!
//! When the kernel said so in the queue of completions, and by nothing else: not after a time, not since it was
//! cancelled, not since its buffer was unregistered (Linux 6.18 ends that call while transfers still write). So
//! [`InFlight`] owns its buffer until then. Dropped before, it asks the kernel to cancel and waits for the end;
//! where that does not come, or cannot be waited for, the buffer is left alone for good (*quarantined*): never
//! freed, wiped or lent again, and counted by [`report`](crate::report()).
//!
//! An entry that was put into the queue stays there when submitting it fails, and whoever enters the kernel next
//! submits it. So from the moment that it is in the queue it is a transfer like any other.
//!
//! # Who waits
//!
//! One thread at a time waits in the kernel (the leader), and while it does nobody else takes completions out of
//! the queue: the leader could sleep over one that is gone. The others wait for the leader, which hands over when it
//! returns.
//!
//! # Futures: two designs, and why one won
//!
//! 1. *An event descriptor* that the program's runtime watches, and a task that takes completions when it is
//!    readable. No thread, but each runtime needs its own adapter, and a program that forgets the task hangs.
//! 2. *A thread for each ring that has futures to wake* ([`reaper`]), which is the leader like any other. It is
//!    started by the first poll that finds a transfer under way, and ends after a second without work.
//!
//! The second won: it works on tokio and on any other executor, with nothing to set up. A program that only waits
//! has no such thread.

mod descriptor;
mod in_flight;
mod pool;
mod reaper;
mod registration;
mod shared;
mod submit;

pub use descriptor::{Descriptor, Offset, Source};
pub use in_flight::{Attempt, InFlight, TransferBuffer, TransferError};
pub use pool::{BufferPool, PooledBuffer};
pub(super) use registration::Registration;
pub(super) use shared::Shared;
pub use submit::Ring;

#[cfg(test)]
mod tests;
