//! A lock-free stack of numbers whose links live in a side table.
//!
//! Used for free units, idle thread heaps and free large runs. Nothing is ever stored in the memory that
//! a number stands for (promise 2 of the design), and nobody ever waits: a thread that is stopped, or
//! that does not exist any more after a fork, can at worst keep the one number it was about to push.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// A stack of non-zero `u32`s.
///
/// # Invariants
/// 1. The low half of `head` is the number on top, or 0 if the stack is empty.
/// 2. The high half changes at every exchange, so that a number popped and pushed again between another
///    thread's load and its exchange is noticed (2^32 exchanges would have to fall in between).
/// 3. The link of a number on the stack is the number below it, or 0.
#[derive(Debug)]
pub(crate) struct IndexStack {
    head: AtomicU64,
}

impl IndexStack {
    /// An empty stack.
    pub(crate) fn new() -> Self {
        Self { head: AtomicU64::new(0) }
    }

    /// Puts `index` on top. `link` gives the place of a number's link; the caller owns `index`.
    pub(crate) fn push<'a>(&self, index: u32, link: impl Fn(u32) -> &'a AtomicU32) {
        // Relaxed: the exchange validates it, and only the half that is a number is used here.
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            link(index).store(top(head), Ordering::Relaxed);
            // Release pairs with Acquire in `pop` and `take_all`: the link and all that the caller wrote
            // about `index` are seen by who takes it.
            match self.head.compare_exchange_weak(
                head,
                next_head(head, index),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(seen) => head = seen,
            }
        }
    }

    /// Takes the top number, which the caller then owns.
    pub(crate) fn pop<'a>(&self, link: impl Fn(u32) -> &'a AtomicU32) -> Option<u32> {
        // Acquire pairs with Release in `push`.
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let index = top(head);
            if index == 0 {
                return None;
            }
            // May be stale if another thread takes `index` now; then the exchange fails (invariant 2).
            let below = link(index).load(Ordering::Relaxed);
            match self.head.compare_exchange_weak(
                head,
                next_head(head, below),
                Ordering::Acquire,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(index),
                Err(seen) => head = seen,
            }
        }
    }

    /// Forgets every number. Only for a process that has just been forked.
    pub(crate) fn clear(&self) {
        self.head.store(0, Ordering::Relaxed);
    }
}

#[expect(clippy::as_conversions, reason = "takes the low half")]
fn top(head: u64) -> u32 {
    head as u32
}

fn next_head(head: u64, index: u32) -> u64 {
    ((head >> 32).wrapping_add(1) << 32) | u64::from(index)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn last_in_first_out() {
        let links: Vec<AtomicU32> = (0..4).map(|_| AtomicU32::new(0)).collect();
        let stack = IndexStack::new();
        let link = |i: u32| &links[i as usize];
        assert_eq!(stack.pop(link), None);
        for i in 1..4 {
            stack.push(i, link);
        }
        assert_eq!([stack.pop(link), stack.pop(link), stack.pop(link)], [Some(3), Some(2), Some(1)]);
        assert_eq!(stack.pop(link), None);
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::sync::Arc;

    struct Model {
        stack: IndexStack,
        links: [AtomicU32; 4],
        owners: [AtomicU32; 4],
    }

    impl Model {
        fn with(first: u32) -> Arc<Self> {
            let model = Arc::new(Self {
                stack: IndexStack::new(),
                links: core::array::from_fn(|_| AtomicU32::new(0)),
                owners: core::array::from_fn(|_| AtomicU32::new(0)),
            });
            for i in 1..=first {
                model.push(i);
            }
            model
        }

        fn push(&self, index: u32) {
            self.stack.push(index, |i| &self.links[i as usize]);
        }

        fn pop_owned(&self) -> Option<u32> {
            let index = self.stack.pop(|i| &self.links[i as usize])?;
            assert_eq!(self.owners[index as usize].fetch_add(1, Ordering::Relaxed), 0, "taken twice");
            Some(index)
        }

        fn give_back(&self, index: u32) {
            self.owners[index as usize].fetch_sub(1, Ordering::Relaxed);
            self.push(index);
        }
    }

    /// The classic ABA: one thread is about to exchange while the other pops two and pushes one back.
    #[test]
    fn no_number_has_two_owners() {
        loom::model(|| {
            let model = Model::with(2);
            let other = Arc::clone(&model);
            let thread = loom::thread::spawn(move || {
                let first = other.pop_owned();
                let second = other.pop_owned();
                if let Some(index) = first {
                    other.give_back(index);
                }
                usize::from(second.is_some())
            });
            let here = usize::from(model.pop_owned().is_some());
            let there = thread.join().unwrap();
            let mut left = 0;
            while model.pop_owned().is_some() {
                left += 1;
            }
            assert_eq!(here + there + left, 2);
        });
    }
}
