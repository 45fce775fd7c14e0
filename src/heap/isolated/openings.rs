//! How many guards hold one secret open: a word, and the rule who unseals and who seals.
//!
//! The first guard unseals, the last one seals, in whatever order they end and on whatever threads. While
//! one thread is at it the word is busy and the others wait for it: for one system call.

use core::cell::Cell;

use crate::os;
use crate::sync::{AtomicU32, Ordering};

/// The number of guards on one secret.
///
/// # Invariants
///
/// 1. 0: sealed. From 1 on: open, held by that many guards, leaked ones included.
/// 2. While [`BUSY`] is set, one thread changes the access, and no other does.
#[derive(Debug)]
#[repr(transparent)]
pub(super) struct Openings(AtomicU32);

/// Set while the access changes.
const BUSY: u32 = 1 << 31;
/// How often to look again before giving the processor to somebody else.
const PATIENCE: u32 = 64;

impl Openings {
    #[cfg(test)]
    fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Adds a guard. The first one calls `unseal`; if that fails the secret stays sealed.
    #[inline]
    pub(super) fn open<E>(&self, unseal: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let mut looks = 0;
        loop {
            // Relaxed: the exchange below decides.
            let seen = self.0.load(Ordering::Relaxed);
            if seen == 0 {
                // SeqCst: pairs with `is_busy` in purge, see `Arena::purge`. It includes Acquire, which pairs
                // with Release in `close`: what the last holder wrote is seen.
                let _changing = Changing::begin();
                let taken = self.0.compare_exchange(0, BUSY, Ordering::SeqCst, Ordering::Relaxed).is_ok();
                if taken {
                    let result = unseal();
                    // Release pairs with Acquire below: who joins does so after the access was given.
                    self.0.store(u32::from(result.is_ok()), Ordering::Release);
                    return result;
                }
            } else if seen & BUSY != 0 {
                wait(&mut looks);
            } else {
                let more = match seen.checked_add(1) {
                    Some(more) if more & BUSY == 0 => more,
                    _ => os::abort_with("too many guards on one isolated secret"),
                };
                // Acquire pairs with Release in `open`: the access is there.
                if self.0.compare_exchange(seen, more, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                    return Ok(());
                }
            }
        }
    }

    /// Takes a guard away. The last one calls `seal`.
    #[inline]
    pub(super) fn close(&self, seal: impl FnOnce()) {
        let mut looks = 0;
        loop {
            // Relaxed: the exchange below decides.
            let seen = self.0.load(Ordering::Relaxed);
            if seen == 1 {
                // SeqCst: as in `open`; its Acquire pairs with the Release of the other guards' ends, so all
                // that was done under them happens before the sealing.
                let _changing = Changing::begin();
                let taken = self.0.compare_exchange(1, BUSY, Ordering::SeqCst, Ordering::Relaxed).is_ok();
                if taken {
                    seal();
                    // Release pairs with Acquire in `open`.
                    self.0.store(0, Ordering::Release);
                    return;
                }
            } else if seen & BUSY != 0 {
                wait(&mut looks);
            } else {
                // Release pairs with the Acquire of the last guard's end.
                let less = seen.saturating_sub(1);
                if self.0.compare_exchange(seen, less, Ordering::Release, Ordering::Relaxed).is_ok() {
                    return;
                }
            }
        }
    }

    /// Changes the access for a caller that nobody else can hold a guard beside: guards that were leaked
    /// do not count any more. Afterwards the secret is held by `guards` if `change` went well, else sealed
    /// or open as it was.
    #[inline]
    pub(super) fn change<E>(&self, guards: u32, change: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let _changing = Changing::begin();
        // SeqCst: as in `open`.
        let before = self.0.swap(BUSY, Ordering::SeqCst);
        let result = change();
        let after = if result.is_ok() { guards } else { before };
        // Release: as in `open`.
        self.0.store(after, Ordering::Release);
        result
    }

    /// Whether a thread changes the access right now.
    pub(super) fn is_busy(&self) -> bool {
        // SeqCst: see `Arena::purge`.
        self.0.load(Ordering::SeqCst) & BUSY != 0
    }
}

/// While it lives, the calling thread may have set a word busy: whoever waits for one in a signal handler on this
/// thread waits in vain.
struct Changing(());

std::thread_local! {
    static CHANGES: Cell<u32> = const { Cell::new(0) };
}

impl Changing {
    #[inline]
    fn begin() -> Self {
        // Where a thread has no such memory any more, a purge waits a little longer than it need.
        let _ = CHANGES.try_with(|changes| changes.set(changes.get().wrapping_add(1)));
        Self(())
    }
}

impl Drop for Changing {
    #[inline]
    fn drop(&mut self) {
        let _ = CHANGES.try_with(|changes| changes.set(changes.get().wrapping_sub(1)));
    }
}

/// Whether the calling thread is in the middle of a change: only a signal handler finds it so. Only reads memory that
/// needs no set-up, so it may ask.
pub(super) fn is_changing_here() -> bool {
    CHANGES.try_with(Cell::get).unwrap_or(0) != 0
}

/// Waits for another thread's system call.
#[cold]
fn wait(looks: &mut u32) {
    *looks = looks.saturating_add(1);
    if looks.is_multiple_of(PATIENCE) {
        crate::sync::yield_now();
    } else {
        crate::sync::spin_loop();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn first_unseals_and_last_seals_in_any_order() {
        let openings = Openings::new();
        let (mut unsealed, mut sealed) = (0, 0);
        for _ in 0..3 {
            openings
                .open::<()>(|| {
                    unsealed += 1;
                    Ok(())
                })
                .unwrap();
        }
        for _ in 0..3 {
            openings.close(|| sealed += 1);
        }
        assert_eq!((unsealed, sealed), (1, 1));
        assert_eq!(openings.open(|| Err(7)), Err(7));
        assert!(!openings.is_busy());
        openings.open::<()>(|| Ok(())).unwrap();
        openings.close(|| sealed += 1);
        assert_eq!(sealed, 2);
    }

    #[test]
    fn a_leaked_guard_does_not_count_for_an_exclusive_holder() {
        let openings = Openings::new();
        openings.open::<()>(|| Ok(())).unwrap();
        openings.change::<()>(1, || Ok(())).unwrap();
        let mut is_sealed = false;
        openings
            .change::<()>(0, || {
                is_sealed = true;
                Ok(())
            })
            .unwrap();
        assert!(is_sealed);
        assert_eq!(openings.change(1, || Err(5)), Err(5));
        openings.open::<()>(|| Ok(())).unwrap();
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicBool;

    struct Model {
        openings: Openings,
        is_open: AtomicBool,
    }

    impl Model {
        fn look(&self) {
            let unsealed = self.openings.open::<()>(|| {
                assert!(!self.is_open.swap(true, Ordering::Relaxed), "unsealed twice");
                Ok(())
            });
            assert_eq!(unsealed, Ok(()));
            assert!(self.is_open.load(Ordering::Relaxed), "sealed under a guard");
            self.openings.close(|| assert!(self.is_open.swap(false, Ordering::Relaxed), "sealed twice"));
        }
    }

    #[test]
    fn open_while_held_and_sealed_at_rest() {
        loom::model(|| {
            let model = Arc::new(Model { openings: Openings::new(), is_open: AtomicBool::new(false) });
            let other = Arc::clone(&model);
            let thread = loom::thread::spawn(move || other.look());
            model.look();
            thread.join().unwrap();
            assert!(!model.is_open.load(Ordering::Relaxed));
            assert!(!model.openings.is_busy());
        });
    }
}
