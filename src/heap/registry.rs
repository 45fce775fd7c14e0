//! Which thread holds which thread heap.
//!
//! A thread heap is never freed: when its thread ends it goes to a stack of idle ones, blocks and all, and
//! the next thread that starts takes it over whole. So a slab has one owner from beginning to end, and a
//! block can be sent home at any time.

use core::sync::atomic::{AtomicU32, Ordering};

use super::index_stack::IndexStack;

/// The places for thread heaps. Numbers here are indexes plus one.
#[derive(Debug)]
pub(crate) struct Registry {
    /// Places ever used.
    used: AtomicU32,
    /// Thread heaps that no thread holds.
    idle: IndexStack,
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self { used: AtomicU32::new(0), idle: IndexStack::new() }
    }

    /// Places ever used: thread heaps of lower index are set up, or being set up.
    pub(crate) fn used(&self) -> u32 {
        self.used.load(Ordering::Acquire)
    }

    /// Takes an idle thread heap. `link` gives the place of the link of a number.
    pub(crate) fn take_idle<'a>(&self, link: impl Fn(u32) -> &'a AtomicU32) -> Option<u32> {
        self.idle.pop(link)
    }

    /// Claims the number of a place that was never used, if `limit` places are not used up. `prepare` makes
    /// the place of an index usable before anybody can know of it, perhaps more than once.
    pub(crate) fn claim_fresh<E>(
        &self,
        limit: u32,
        mut prepare: impl FnMut(u32) -> Result<(), E>,
    ) -> Result<Option<u32>, E> {
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            let number = used.saturating_add(1);
            if number > limit {
                return Ok(None);
            }
            prepare(used)?;
            // Release pairs with Acquire in `used`.
            match self.used.compare_exchange(used, number, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(Some(number)),
                Err(seen) => used = seen,
            }
        }
    }

    /// Gives a thread heap up.
    pub(crate) fn put_idle<'a>(&self, number: u32, link: impl Fn(u32) -> &'a AtomicU32) {
        self.idle.push(number, link);
    }

    /// In a forked child whose thread heaps were wiped: none is idle.
    pub(crate) fn forget_after_fork(&self) {
        self.idle.clear();
    }
}
