//! Which thread holds which thread heap.
//!
//! A thread heap is never freed: when its thread ends it goes to a stack of idle ones, blocks and all, and
//! the next thread that starts takes it over whole. So a slab has one owner from beginning to end, and a
//! block can be sent home at any time.

use crate::sync::AtomicU32;

use super::index_stack::IndexStack;
use super::watermark::Watermark;

/// The places for thread heaps. Numbers here are indexes plus one.
#[derive(Debug)]
pub(crate) struct Registry {
    /// Places ever used.
    used: Watermark,
    /// Thread heaps that no thread holds.
    idle: IndexStack,
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self { used: Watermark::new(0), idle: IndexStack::new() }
    }

    /// Places ever used: thread heaps of lower index are set up, or being set up.
    pub(crate) fn used(&self) -> u32 {
        self.used.get()
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
        let range = self.used.claim(1, limit, |range| prepare(range.start))?;
        Ok(range.map(|range| range.end))
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

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use crate::sync::Ordering;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;

    /// Three places for thread heaps, by their numbers.
    struct Model {
        registry: Registry,
        links: [AtomicU32; 4],
        prepared: [AtomicU32; 4],
        heaps: [UnsafeCell<u32>; 4],
    }

    impl Model {
        fn link(&self, number: u32) -> &AtomicU32 {
            &self.links[number as usize]
        }

        /// What a thread does that starts, uses its thread heap, and ends.
        fn live(&self) {
            let number = self.registry.take_idle(|number| self.link(number)).unwrap_or_else(|| {
                let prepare = |index: u32| -> Result<(), ()> {
                    self.prepared[index as usize + 1].store(1, Ordering::Relaxed);
                    Ok(())
                };
                self.registry.claim_fresh(3, prepare).unwrap().expect("no more places than threads are used")
            });
            // Loom fails the model if another thread holds it too, or if what the last holder did is not before.
            self.heaps[number as usize].with_mut(|_| ());
            self.registry.put_idle(number, |number| self.link(number));
        }

        fn look(&self) {
            for index in 0..self.registry.used() {
                assert_eq!(self.prepared[index as usize + 1].load(Ordering::Relaxed), 1, "place {index}");
            }
        }
    }

    /// Threads start and end while another looks at every place ever used, as `flush` does.
    #[test]
    fn a_thread_heap_has_one_holder_and_is_handed_over_whole() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let model = Arc::new(Model {
                registry: Registry::new(),
                links: core::array::from_fn(|_| AtomicU32::new(0)),
                prepared: core::array::from_fn(|_| AtomicU32::new(0)),
                heaps: core::array::from_fn(|_| UnsafeCell::new(0)),
            });
            // The one that looks comes last: see the model of `watermark`.
            let threads = [Model::live, Model::live, Model::look].map(|work| {
                let model = Arc::clone(&model);
                loom::thread::spawn(move || work(&model))
            });
            for thread in threads {
                thread.join().unwrap();
            }
            model.live();
        });
    }
}
