//! Which slots of a table are taken: a bitmap claimed and released without a lock.

use core::sync::atomic::Ordering;

/// 64 slots, each a bit. A trait, so that the same code runs on std's atomics, in statics, and on loom's.
pub(crate) trait Word {
    /// See [`core::sync::atomic::AtomicU64::load`].
    fn load(&self, order: Ordering) -> u64;
    /// See [`core::sync::atomic::AtomicU64::store`].
    fn store(&self, value: u64, order: Ordering);
    /// See [`core::sync::atomic::AtomicU64::fetch_or`].
    fn fetch_or(&self, bits: u64, order: Ordering) -> u64;
    /// See [`core::sync::atomic::AtomicU64::fetch_and`].
    fn fetch_and(&self, bits: u64, order: Ordering) -> u64;
}

/// Takes a free slot below `slots` and returns its index.
///
/// `None` says that every slot of each word was taken at some moment, though not all at the same.
///
/// What the slot's last holder did before [`release`] happens before what the new one does.
pub(crate) fn claim<W: Word>(words: &[W], slots: u32) -> Option<u32> {
    let mut first = 0_u32;
    for word in words {
        let usable = below(slots.saturating_sub(first));
        // Relaxed: only a guess at what is free; the claim below decides.
        let mut free = !word.load(Ordering::Relaxed) & usable;
        while free != 0 {
            let bit = free & free.wrapping_neg();
            // Acquire pairs with Release in `release`.
            let before = word.fetch_or(bit, Ordering::Acquire);
            if before & bit == 0 {
                return first.checked_add(bit.trailing_zeros());
            }
            // Somebody was faster. What was free at that moment may be another slot than before.
            free = !before & usable;
        }
        first = first.saturating_add(u64::BITS);
    }
    None
}

/// Gives back a slot that [`claim`] returned.
pub(crate) fn release<W: Word>(words: &[W], slot: u32) {
    let (word, bit) = position(slot);
    if let Some(word) = words.get(word) {
        // Release pairs with Acquire in `claim`.
        word.fetch_and(!bit, Ordering::Release);
    }
}

/// The number of slots taken.
#[cfg(test)]
pub(crate) fn count<W: Word>(words: &[W]) -> u32 {
    // Relaxed: a figure for reports.
    words.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).fold(0, u32::saturating_add)
}

/// Frees every slot. Only while no other thread knows the words.
pub(crate) fn clear<W: Word>(words: &[W]) {
    for word in words {
        // Relaxed: whoever makes the words known orders this before.
        word.store(0, Ordering::Relaxed);
    }
}

/// The lowest `count` bits.
const fn below(count: u32) -> u64 {
    if count >= u64::BITS { u64::MAX } else { (1_u64 << count).wrapping_sub(1) }
}

/// The index of the word that holds a slot, and its bit there.
fn position(slot: u32) -> (usize, u64) {
    let word = usize::try_from(slot / u64::BITS).unwrap_or(usize::MAX);
    (word, 1_u64 << (slot % u64::BITS))
}

impl Word for core::sync::atomic::AtomicU64 {
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

#[cfg(test)]
mod tests;
