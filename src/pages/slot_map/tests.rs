//! The bitmap against a set, on std's atomics, and its races on loom's.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests")]

use super::*;

#[cfg(not(loom))]
mod on_std {
    use std::collections::BTreeSet;

    use core::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn every_slot_is_claimed_once_and_no_other() {
        for slots in [1, 63, 64, 65, 127, 128, 192] {
            let words = [const { AtomicU64::new(0) }; 3];
            let claimed: BTreeSet<u32> = core::iter::from_fn(|| claim(&words, slots)).collect();
            assert_eq!(claimed, (0..slots).collect());
            assert_eq!(count(&words), slots);
            release(&words, slots / 2);
            assert_eq!(claim(&words, slots), Some(slots / 2));
            assert_eq!(claim(&words, slots), None);
            clear(&words);
            assert_eq!(count(&words), 0);
        }
    }
}

#[cfg(loom)]
mod models {
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU64;
    use loom::thread;

    use super::*;

    impl Word for AtomicU64 {
        fn load(&self, order: Ordering) -> u64 {
            self.load(order)
        }

        fn store(&self, value: u64, order: Ordering) {
            self.store(value, order);
        }

        fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
            self.fetch_or(bits, order)
        }

        fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
            self.fetch_and(bits, order)
        }
    }

    #[test]
    fn two_threads_never_hold_the_same_slot() {
        loom::model(|| {
            let words = Arc::new([AtomicU64::new(0)]);
            let holders = Arc::new([loom::cell::UnsafeCell::new(0), loom::cell::UnsafeCell::new(0)]);
            let work = |words: Arc<[AtomicU64; 1]>, holders: Arc<[loom::cell::UnsafeCell<u32>; 2]>| {
                for _ in 0..2 {
                    let slot = claim(&words[..], 2).unwrap();
                    // Loom fails the model if two threads are in here with one slot, or if what the last
                    // holder wrote does not happen before.
                    holders[slot as usize].with_mut(|_| ());
                    release(&words[..], slot);
                }
            };
            let other = thread::spawn({
                let (words, holders) = (Arc::clone(&words), Arc::clone(&holders));
                move || work(words, holders)
            });
            work(Arc::clone(&words), holders);
            other.join().unwrap();
            assert_eq!(count(&words[..]), 0);
        });
    }
}
