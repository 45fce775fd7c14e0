//! Blocks that other threads freed, on their way home.
//!
//! Who frees a block of another thread's slab wipes it, sets its bit in the slab's *remote bitmap* and
//! makes sure that the slab stands in the owner's *inbox*, a stack of slabs linked through the side
//! table. The owner empties its inbox when it runs out of free slots of its own. Freeing costs one
//! exchange in the bitmap, and one more only if no bit of that word was set yet.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

use super::geometry::{BITMAP_WORDS, SLOT_WORDS};

/// The remote bitmap of one slab and its place in an inbox.
///
/// # Invariants
/// 1. A set bit is a block that was freed by another thread and that the owner has not taken back.
/// 2. `queued` is 1 from before the slab is put into an inbox until after it is taken out, so that it
///    stands in one inbox at most.
/// 3. Whoever sets a bit in a word that had none sets `queued` afterwards, and whoever takes the slab out
///    of an inbox clears `queued` before it reads the words: so no bit is left behind.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Remote {
    words: [AtomicU64; SLOT_WORDS],
    queued: AtomicU32,
    link: AtomicU32,
    _rest: [u64; BITMAP_WORDS - SLOT_WORDS - 1],
}

const _: () = assert!(size_of::<Remote>() == BITMAP_WORDS * 8 || cfg!(loom));

impl Remote {
    /// No bit set, in no inbox.
    #[cfg(test)]
    fn new() -> Self {
        Self {
            words: core::array::from_fn(|_| AtomicU64::new(0)),
            queued: AtomicU32::new(0),
            link: AtomicU32::new(0),
            _rest: [0; BITMAP_WORDS - SLOT_WORDS - 1],
        }
    }

    /// Sets `mask` in a word and says whether the slab must now be announced with [`Inbox::post`].
    pub(crate) fn mark(&self, word: usize, mask: u64) -> Mark {
        // Release pairs with Acquire in `take`: the owner sees the block wiped.
        // A word that has bits already will be read by whoever sees the announcement of the first of them
        // (invariant 3), and that reading comes after this exchange, since the bits are still there.
        match self.words.get(word) {
            Some(bits) if bits.fetch_or(mask, Ordering::AcqRel) == 0 => Mark::First,
            _ => Mark::Further,
        }
    }

    /// Takes the bits of a word.
    pub(crate) fn take(&self, word: usize) -> u64 {
        match self.words.get(word) {
            // Relaxed: only a hint that spares the exchange. A bit set just now is announced again.
            Some(bits) if bits.load(Ordering::Relaxed) != 0 => bits.swap(0, Ordering::Acquire),
            _ => 0,
        }
    }

    /// Whether any bit is set.
    pub(crate) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| word.load(Ordering::Acquire) == 0)
    }
}

/// What [`Remote::mark`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Mark {
    /// The word had no bit: the slab must be announced.
    First,
    /// The word had bits: it is announced, or about to be.
    Further,
}

/// The slabs of one thread heap that have remotely freed blocks.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// The number of the slab on top, or 0.
    head: AtomicU32,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { head: AtomicU32::new(0) }
    }

    /// Puts slab `unit` into the inbox unless it stands in one already.
    pub(crate) fn post<'a>(&self, unit: u32, remote: impl Fn(u32) -> &'a Remote) {
        // AcqRel: an earlier `mark` of this thread is seen by the drainer that reads this 1 (Release), and
        // a drainer's 0 read here comes with its having taken the slab out (Acquire).
        if remote(unit).queued.swap(1, Ordering::AcqRel) != 0 {
            return;
        }
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            remote(unit).link.store(head, Ordering::Relaxed);
            // Release pairs with Acquire in `drain`.
            match self.head.compare_exchange_weak(head, unit, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(seen) => head = seen,
            }
        }
    }

    /// Whether there is something to drain. A hint.
    pub(crate) fn has_mail(&self) -> bool {
        self.head.load(Ordering::Relaxed) != 0
    }

    /// Takes every slab out and hands each to `visit`, which reads its words with [`Remote::take`].
    pub(crate) fn drain<'a>(&self, remote: impl Fn(u32) -> &'a Remote, mut visit: impl FnMut(u32)) {
        // Acquire pairs with Release in `post`.
        let mut unit = self.head.swap(0, Ordering::Acquire);
        while unit != 0 {
            let slab = remote(unit);
            let next = slab.link.load(Ordering::Relaxed);
            // AcqRel: bits announced before are seen by `visit` (invariant 3); from here on a new bit
            // announces the slab anew.
            slab.queued.swap(0, Ordering::AcqRel);
            visit(unit);
            unit = next;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn bits_come_home_once() {
        let slabs: Vec<Remote> = (0..3).map(|_| Remote::new()).collect();
        let remote = |unit: u32| &slabs[unit as usize];
        let inbox = Inbox::new();
        for (unit, word, mask) in [(1, 0, 1), (1, 0, 2), (2, 59, 4)] {
            if slabs[unit as usize].mark(word, mask) == Mark::First {
                inbox.post(unit, remote);
            }
        }
        assert!(inbox.has_mail());
        let mut seen = Vec::new();
        inbox.drain(remote, |unit| {
            for word in 0..SLOT_WORDS {
                let bits = slabs[unit as usize].take(word);
                if bits != 0 {
                    seen.push((unit, word, bits));
                }
            }
        });
        seen.sort_unstable();
        assert_eq!(seen, [(1, 0, 3), (2, 59, 4)]);
        assert!(!inbox.has_mail() && slabs.iter().all(Remote::is_empty));
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::sync::Arc;

    struct Model {
        slabs: [Remote; 2],
        inbox: Inbox,
    }

    impl Model {
        fn free(&self, mask: u64) {
            if self.slabs[1].mark(0, mask) == Mark::First {
                self.inbox.post(1, |unit| &self.slabs[unit as usize]);
            }
        }

        fn drain(&self) -> u64 {
            let mut bits = 0;
            self.inbox.drain(
                |unit| &self.slabs[unit as usize],
                |unit| {
                    bits |= self.slabs[unit as usize].take(0);
                },
            );
            bits
        }
    }

    /// Two threads free while the owner drains: at the end every bit was seen exactly once.
    #[test]
    fn no_block_is_lost() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let model = Arc::new(Model { slabs: [Remote::new(), Remote::new()], inbox: Inbox::new() });
            let threads: Vec<_> = [1, 2]
                .into_iter()
                .map(|mask| {
                    let model = Arc::clone(&model);
                    loom::thread::spawn(move || model.free(mask))
                })
                .collect();
            let early = model.drain();
            for thread in threads {
                thread.join().unwrap();
            }
            let late = model.drain();
            assert_eq!(early & late, 0, "seen twice");
            assert_eq!(early | late, 3, "lost");
            assert!(!model.inbox.has_mail());
        });
    }
}
