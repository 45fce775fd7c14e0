//! How it is known that the kernel has let go of a socket's memory.
//!
//! `close(2)` tells nothing: another process may have the descriptor, and even the last close ends only what comes by
//! the program. What a device writes (`Transfer::ZeroCopy`) is ended by work that the kernel does later
//! (`xp_release_deferred`, `net/xdp/xsk_buff_pool.c`). Two designs:
//!
//! 1. *To wait for a time.* How long is nobody's promise.
//! 2. *To bind another socket to the queue.* The kernel refuses with `EBUSY` as long as the queue has a pool of frames
//!    (`xp_assign_dev`); it takes the pool away (`xp_clear_dev`) after it has unbound the socket, waited for every
//!    packet on its way (`synchronize_net` in `xsk_unbind_dev`), and had the driver stop. An interface that is
//!    gone (`ENODEV`) has unbound its sockets before.
//!
//! The second won: it is the kernel's own order, under one lock. The other socket, the *witness*, is made together with
//! the first, in the same network namespace, so that nothing has to be made at the end.

// UNSAFETY: lends the kernel a page that it maps for it.
#![expect(unsafe_code, reason = "registers a scratch page by address, see UNSAFETY above")]

use core::time::Duration;
use std::time::Instant;

use super::refused;
use super::socket::{no_memory, no_socket};
use crate::Error;
use crate::os::Errno;
use crate::os::xdp::{RingKind, Socket};
use crate::pages::{PageBytes, Reservation};

/// How long the kernel may take. It takes tens of milliseconds; a child between `fork` and `exec` longer.
const PATIENCE: Duration = Duration::from_secs(2);
const FRAME_BYTES: u32 = 2048;

/// How long to try again what the kernel refuses with `EBUSY`: for a time, and half as many tries as fit in it. A
/// process that was stopped meanwhile, or whose machine stood still, finds the time over and the kernel where it was.
#[derive(Debug)]
pub(super) struct Patience {
    start: Instant,
    longest: Duration,
    tries_left: u128,
}

impl Patience {
    /// When to try again.
    const SOON: Duration = Duration::from_millis(1);

    pub(super) fn new(longest: Duration) -> Self {
        Self { start: Instant::now(), longest, tries_left: longest.as_millis() / 2 }
    }

    /// Sleeps a little if there is reason to try again.
    pub(super) fn is_left(&mut self) -> bool {
        self.tries_left = self.tries_left.saturating_sub(1);
        let is_left = self.tries_left > 0 || self.start.elapsed() < self.longest;
        if is_left {
            std::thread::sleep(Self::SOON);
        }
        is_left
    }
}

/// A socket that is ready to be bound, and receives nothing.
#[derive(Debug)]
pub(super) struct Witness(Socket);

impl Witness {
    pub(super) fn new() -> Result<Self, Error> {
        let socket = Socket::new().map_err(no_socket)?;
        let page = PageBytes::one();
        let scratch = Reservation::new(page, page)?;
        let registered = scratch.commit(PageBytes::ZERO, page).and_then(|()| {
            // SAFETY: mapped, readable and writable. Nobody reads what the kernel writes there, which is nothing.
            unsafe { socket.register(scratch.base(), page.get(), FRAME_BYTES) }
                .map_err(|errno| no_memory(errno, page.get()))
        });
        // The kernel keeps the page itself.
        // SAFETY: reserved above, and nothing of this process uses it. After a failure it stays.
        let _ = unsafe { scratch.release() };
        registered?;
        for kind in [RingKind::Fill, RingKind::Completed, RingKind::Receive] {
            socket.make_ring(kind, 1).map_err(refused)?;
        }
        Ok(Self(socket))
    }

    /// Whether the kernel has let go of the queue, and so of the memory of the socket that was bound to it. Waits for
    /// that for a while.
    pub(super) fn sees_free(self, interface: u32, queue: u32) -> bool {
        let mut patience = Patience::new(PATIENCE);
        loop {
            match self.0.bind(interface, queue, Socket::COPY) {
                Ok(()) | Err(Errno::NODEV) => return true,
                Err(Errno::BUSY) if patience.is_left() => {}
                Err(_) => return false,
            }
        }
    }
}
