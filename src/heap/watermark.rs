//! Numbers given out from the bottom up, each once: what a pool falls back to when nothing was given back.

use core::ops::Range;

use crate::sync::{AtomicU32, Ordering};

/// Numbers below it were given out at least once.
///
/// # Invariants
/// 1. It only grows, so each number is given out here at most once.
/// 2. What `prepare` made for a number happens before anybody finds it below the mark.
#[derive(Debug)]
pub(crate) struct Watermark {
    next: AtomicU32,
}

impl Watermark {
    pub(crate) fn new(first: u32) -> Self {
        Self { next: AtomicU32::new(first) }
    }

    /// Numbers below it were given out.
    pub(crate) fn get(&self) -> u32 {
        // Acquire pairs with Release in `claim` (invariant 2).
        self.next.load(Ordering::Acquire)
    }

    /// Takes up to `wanted` numbers below `limit`, `None` if there are none. `prepare` makes what they stand for
    /// usable before anybody can know of them, perhaps more than once and perhaps for another thread.
    pub(crate) fn claim<E>(
        &self,
        wanted: u32,
        limit: u32,
        mut prepare: impl FnMut(Range<u32>) -> Result<(), E>,
    ) -> Result<Option<Range<u32>>, E> {
        let mut first = self.next.load(Ordering::Relaxed);
        loop {
            let end = first.saturating_add(wanted).min(limit);
            if end <= first {
                return Ok(None);
            }
            prepare(first..end)?;
            // Release pairs with Acquire in `get`, also over later claims, which continue the release sequence.
            match self.next.compare_exchange_weak(first, end, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return Ok(Some(first..end)),
                Err(seen) => first = seen,
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn gives_out_what_there_is_and_no_more() {
        let mark = Watermark::new(1);
        let mut prepared = Vec::new();
        let mut claim = |wanted| {
            mark.claim::<()>(wanted, 6, |range| {
                prepared.push(range);
                Ok(())
            })
        };
        assert_eq!(claim(3), Ok(Some(1..4)));
        assert_eq!(claim(3), Ok(Some(4..6)));
        assert_eq!(claim(3), Ok(None));
        assert_eq!(prepared, [1..4, 4..6]);
        assert_eq!(mark.get(), 6);
        assert_eq!(Watermark::new(1).claim(1, 6, |_| Err("no")), Err("no"));
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use crate::heap::index_stack::IndexStack;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;

    /// The pool of units: from the stack, or else two from the mark, of which one goes on the stack.
    struct Pool {
        mark: Watermark,
        ready: IndexStack,
        links: [AtomicU32; 5],
        prepared: [AtomicU32; 5],
        units: [UnsafeCell<u32>; 5],
    }

    impl Pool {
        fn new() -> Self {
            Self {
                mark: Watermark::new(1),
                ready: IndexStack::new(),
                links: core::array::from_fn(|_| AtomicU32::new(0)),
                prepared: core::array::from_fn(|_| AtomicU32::new(0)),
                units: core::array::from_fn(|_| UnsafeCell::new(0)),
            }
        }

        fn link(&self, number: u32) -> &AtomicU32 {
            &self.links[number as usize]
        }

        fn acquire(&self) -> u32 {
            if let Some(number) = self.ready.pop(|number| self.link(number)) {
                return number;
            }
            let prepare = |range: Range<u32>| -> Result<(), ()> {
                range.for_each(|number| self.prepared[number as usize].store(1, Ordering::Relaxed));
                Ok(())
            };
            let range = self.mark.claim(2, 5, prepare).unwrap().unwrap();
            for number in range.start + 1..range.end {
                self.ready.push(number, |number| self.link(number));
            }
            range.start
        }

        fn use_one(&self) {
            let number = self.acquire();
            // Loom fails the model if another thread is in here too, or if what the last user did is not before.
            self.units[number as usize].with_mut(|_| ());
            self.ready.push(number, |number| self.link(number));
        }

        fn walk(&self) {
            for number in 1..self.mark.get() {
                assert_eq!(self.prepared[number as usize].load(Ordering::Relaxed), 1, "unit {number}");
            }
        }
    }

    /// Two threads take units and give them back while a third walks over all that were ever taken. It comes
    /// last: loom backtracks from an exchange to the last access only, not to an earlier load of another thread.
    #[test]
    fn units_have_one_owner_and_are_prepared_before_they_are_known() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let pool = Arc::new(Pool::new());
            let threads = [Pool::use_one, Pool::use_one, Pool::walk].map(|work| {
                let pool = Arc::clone(&pool);
                loom::thread::spawn(move || work(&pool))
            });
            for thread in threads {
                thread.join().unwrap();
            }
            pool.use_one();
        });
    }
}
