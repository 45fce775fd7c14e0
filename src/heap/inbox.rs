//! Blocks that other threads freed, on their way home.
//!
//! Who frees a block of another thread's slab wipes it, sets its bit in the slab's *remote bitmap* (together with
//! those of its neighbours: [`outgoing`](super::outgoing)) and makes sure that the slab stands in the owner's *inbox*, a
//! stack of slabs linked through the side table. The owner empties its inbox when it runs out of free slots of its own.
//! Freeing costs one exchange in the bitmap, and two more only if no bit of that word was set yet: one notes which word, so
//! that the owner need not look at all of them, whose lines it would have to fetch.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

use super::geometry::{BITMAP_WORDS, SLOT_WORDS};

/// The remote bitmap of one slab and its place in an inbox.
///
/// # Invariants
/// 1. A set bit is a block that was freed by another thread and that the owner has not taken back.
/// 2. `queued` is 1 from before the slab is put into an inbox until after it is taken out, so that it
///    stands in one inbox at most.
/// 3. Whoever sets a bit in a word that had none sets that word's bit in `marked` afterwards, and then `queued`; whoever
///    takes the slab out of an inbox clears `queued` before it empties `marked`, and that before it reads the words: so no
///    bit is left behind.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Remote {
    words: [AtomicU64; SLOT_WORDS],
    queued: AtomicU32,
    link: AtomicU32,
    /// Not 0 if other threads freed blocks of this slab and remember lines of them that are not written back
    /// yet. Set by any thread before it sends the block home.
    pub(crate) lines_elsewhere: AtomicU32,
    /// A bit for each word that has bits, or had some a moment ago.
    marked: AtomicU64,
    _rest: [u64; BITMAP_WORDS - SLOT_WORDS - 3],
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
            lines_elsewhere: AtomicU32::new(0),
            marked: AtomicU64::new(0),
            _rest: [0; BITMAP_WORDS - SLOT_WORDS - 3],
        }
    }

    /// Sets `mask` in a word and says whether the slab must now be announced with [`Inbox::post`].
    pub(crate) fn mark(&self, word: usize, mask: u64) -> Mark {
        // Release pairs with Acquire in `take`: the owner sees the block wiped.
        // A word that has bits already will be read by whoever sees the announcement of the first of them
        // (invariant 3), and that reading comes after this exchange, since the bits are still there.
        match self.words.get(word) {
            Some(bits) if bits.fetch_or(mask, Ordering::AcqRel) == 0 => {
                // Release pairs with Acquire in `take`: who finds the word here finds the bit in it.
                self.marked.fetch_or(1 << word, Ordering::Release);
                Mark::First
            }
            _ => Mark::Further,
        }
    }

    /// Takes all bits and hands them out word by word.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        reason = "the lowest bit of a word that is not 0"
    )]
    pub(crate) fn take(&self, mut see: impl FnMut(usize, u64)) {
        // Acquire pairs with Release in `mark`, here and below.
        let mut marked = self.marked.swap(0, Ordering::Acquire);
        while marked != 0 {
            let word = marked.trailing_zeros() as usize;
            marked &= marked - 1;
            // None if an earlier look at the word came between its first bit and the note of it.
            match self.words.get(word).map_or(0, |bits| bits.swap(0, Ordering::Acquire)) {
                0 => {}
                bits => see(word, bits),
            }
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

/// Slabs, their owners and the owners' inboxes: how a block finds home, whoever owns its slab by then.
///
/// Numbers of slabs and thread heaps start at 1. Who calls has a block of the slab, or has just taken the slab
/// out of an inbox.
pub(crate) trait Mail {
    /// The remote bitmap of a slab.
    fn remote(&self, slab: u32) -> &Remote;

    /// The thread heap that owns a slab, or 0. May lag behind for a slab in which the caller has no block.
    fn owner(&self, slab: u32) -> u32;

    /// The inbox of a thread heap, if there is one of this number.
    fn inbox(&self, owner: u32) -> Option<&Inbox>;

    /// Sends a block home, whose slot is wiped already.
    fn send_home(&self, slab: u32, word: usize, mask: u64) {
        if self.remote(slab).mark(word, mask) == Mark::First {
            self.announce(slab);
        }
    }

    /// Tells the owner of a slab that blocks of it were freed.
    ///
    /// Meanwhile the owner may have taken the block just marked, given the empty slab back, and another may have
    /// it. Then this posts to the wrong inbox, or to none, and no harm is done: whoever marks a first bit for the
    /// new owner either finds `queued` cleared and posts itself, or had set it before the wrong inbox is emptied,
    /// which forwards the slab.
    fn announce(&self, slab: u32) {
        if let Some(inbox) = self.inbox(self.owner(slab)) {
            inbox.post(slab, |slab| self.remote(slab));
        }
    }

    /// Empties the inbox of thread heap `owner`, which the caller holds, and hands each of its slabs to `visit`.
    /// A slab that it does not own any more is announced anew, if there is anything to announce.
    fn collect(&self, owner: u32, inbox: &Inbox, mut visit: impl FnMut(u32)) {
        inbox.drain(
            |slab| self.remote(slab),
            |slab| {
                if self.owner(slab) == owner {
                    visit(slab);
                } else if !self.remote(slab).is_empty() {
                    self.announce(slab);
                }
            },
        );
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
            slabs[unit as usize].take(|word, bits| seen.push((unit, word, bits)));
        });
        seen.sort_unstable();
        assert_eq!(seen, [(1, 0, 3), (2, 59, 4)]);
        assert!(!inbox.has_mail() && slabs.iter().all(Remote::is_empty));
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;

    /// One slab, number 1, and two thread heaps, 1 and 2.
    struct Model {
        slabs: [Remote; 2],
        inboxes: [Inbox; 2],
        owner: AtomicU32,
        /// What a slot holds: whoever frees it wipes it, its owner uses it again.
        slots: [UnsafeCell<u32>; 3],
    }

    impl Mail for Model {
        fn remote(&self, slab: u32) -> &Remote {
            &self.slabs[slab as usize]
        }

        fn owner(&self, _slab: u32) -> u32 {
            self.owner.load(Ordering::Relaxed)
        }

        fn inbox(&self, owner: u32) -> Option<&Inbox> {
            self.inboxes.get((owner as usize).checked_sub(1)?)
        }
    }

    impl Model {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                slabs: [Remote::new(), Remote::new()],
                inboxes: [Inbox::new(), Inbox::new()],
                owner: AtomicU32::new(1),
                slots: core::array::from_fn(|_| UnsafeCell::new(0)),
            })
        }

        /// Frees slot `index`, which lies in a word of the bitmap with the others or not.
        fn free(&self, index: usize, word: usize) {
            self.slots[index].with_mut(|_| ());
            self.send_home(1, word, 1 << index);
        }

        /// Takes home what came, as one bit a slot.
        fn collect_bits(&self, owner: u32) -> u64 {
            let mut bits = 0;
            self.collect(owner, &self.inboxes[owner as usize - 1], |slab| {
                self.slabs[slab as usize].take(|_, came| {
                    assert_eq!(bits & came, 0, "seen twice");
                    bits |= came;
                });
            });
            for (index, slot) in self.slots.iter().enumerate() {
                if bits & 1 << index != 0 {
                    // Loom fails the model if the wiping does not happen before.
                    slot.with_mut(|_| ());
                }
            }
            bits
        }
    }

    fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.check(model);
    }

    /// Two threads free while the owner drains: at the end every bit was seen exactly once.
    #[test]
    fn no_block_is_lost() {
        no_block_of_words_is_lost([0, 0]);
    }

    /// The same where their blocks lie in two words.
    #[test]
    fn no_block_of_two_words_is_lost() {
        no_block_of_words_is_lost([0, 1]);
    }

    fn no_block_of_words_is_lost(words: [usize; 2]) {
        check(3, move || {
            let model = Model::new();
            let threads: Vec<_> = words
                .into_iter()
                .enumerate()
                .map(|(index, word)| {
                    let model = Arc::clone(&model);
                    loom::thread::spawn(move || model.free(index, word))
                })
                .collect();
            let early = model.collect_bits(1);
            for thread in threads {
                thread.join().unwrap();
            }
            let late = model.collect_bits(1);
            assert_eq!(early & late, 0, "seen twice");
            assert_eq!(early | late, 3, "lost");
            assert!(!model.inboxes[0].has_mail());
        });
    }

    /// The slab is given back as soon as both its blocks came home, and taken by another thread heap, while who
    /// freed them is still about to announce the second. A block of the new owner that is freed then comes home
    /// to the new owner, once, whichever inbox the slab stands in.
    #[test]
    fn a_block_comes_home_after_the_slab_changed_hands() {
        check(3, || {
            let model = Model::new();
            let freer = loom::thread::spawn({
                let model = Arc::clone(&model);
                move || {
                    model.free(0, 0);
                    model.free(1, 1);
                }
            });
            let mut home = model.collect_bits(1);
            if home != 3 {
                loom::thread::yield_now();
                home |= model.collect_bits(1);
            }
            let mut has_changed = false;
            let mut taker = None;
            if home == 3 {
                has_changed = true;
                // As by way of the pool: between the two owners the slab has none.
                model.owner.store(0, Ordering::Relaxed);
                let model = Arc::clone(&model);
                taker = Some(loom::thread::spawn(move || {
                    model.owner.store(2, Ordering::Release);
                    // A third thread, which got the block from this one, frees it.
                    model.free(2, 0);
                }));
            }
            // The old owner goes on, and empties its inbox now and then.
            home |= model.collect_bits(1);
            freer.join().unwrap();
            if let Some(taker) = taker {
                taker.join().unwrap();
            }
            home |= model.collect_bits(1);
            assert_eq!(home, 3, "lost, or come home to the wrong owner");
            if has_changed {
                assert_eq!(model.collect_bits(2), 4, "lost on the way to the new owner");
            }
            assert!(!model.inboxes[0].has_mail() && model.slabs[1].is_empty());
        });
    }
}
