//! Which blocks of libsodium's kind there are, by address: a table without a lock that a fork could leave closed.

use core::hint;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use oubliette::IsolatedBytes;

/// Most blocks at a time: more than a process has mappings for (`vm.max_map_count`).
const PLACES: usize = 1 << 16;
static TABLE: [Place; PLACES] = [const { Place::new() }; PLACES];

/// No block was ever here: a search ends.
const NEVER: usize = 0;
/// No block is here now: a search goes on. Neither is the address of a block.
const FREE: usize = 1;
/// Taken, and not yet, or not any more, to be found.
const TAKEN: usize = 2;

/// A place of the table.
///
/// # Invariants
///
/// 1. While `address` is that of a block, `bytes` is its owner, from `Box::into_raw`.
/// 2. Who holds `holder` alone may touch the owner; it is the id of a process, or 0.
struct Place {
    address: AtomicUsize,
    bytes: AtomicPtr<IsolatedBytes>,
    holder: AtomicU32,
}

impl Place {
    const fn new() -> Self {
        Self {
            address: AtomicUsize::new(NEVER),
            bytes: AtomicPtr::new(ptr::null_mut()),
            holder: AtomicU32::new(0),
        }
    }

    /// Waits until no other thread works on the block. A thread of a parent process that was at it when this
    /// process was forked is not here.
    fn hold(&self) {
        let me = std::process::id();
        loop {
            // Acquire pairs with Release in `let_go`.
            match self.holder.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) if other != me => {
                    let _ = self.holder.compare_exchange(other, 0, Ordering::Relaxed, Ordering::Relaxed);
                }
                Err(_) => hint::spin_loop(),
            }
        }
    }

    fn let_go(&self) {
        self.holder.store(0, Ordering::Release);
    }
}

/// The places where a block of this address may be, in the order in which they are searched.
fn places_of(address: usize) -> impl Iterator<Item = &'static Place> {
    // Blocks end at pages, so the address says most in its page number.
    let first = (address >> 12).wrapping_mul(0x9e37_79b9) % PLACES;
    TABLE.iter().cycle().skip(first).take(PLACES)
}

/// Puts a block into the table; if that is full the block is dropped. Tells which.
pub(crate) fn insert(bytes: IsolatedBytes) -> bool {
    let address = bytes.as_ptr().addr().get();
    for place in places_of(address) {
        let seen = place.address.load(Ordering::Relaxed);
        let is_taken = seen <= FREE
            && place.address.compare_exchange(seen, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if is_taken {
            place.bytes.store(Box::into_raw(Box::new(bytes)), Ordering::Relaxed);
            // Release pairs with Acquire in `find`.
            place.address.store(address, Ordering::Release);
            return true;
        }
    }
    false
}

/// Takes a block out of the table.
pub(crate) fn remove(address: usize) -> Option<Box<IsolatedBytes>> {
    let place = find(address)?;
    place.hold();
    // Of two threads that free the same block one finds it gone.
    let is_mine =
        place.address.compare_exchange(address, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok();
    let bytes = is_mine.then(|| {
        let bytes = place.bytes.swap(ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: from `Box::into_raw`, by `Place` 1, and in the table no more: held and taken by this thread alone.
        unsafe { Box::from_raw(bytes) }
    });
    place.let_go();
    if is_mine {
        place.address.store(FREE, Ordering::Release);
    }
    bytes
}

/// Works on a block. `None` if it is not in the table.
pub(crate) fn with<R>(address: usize, work: impl FnOnce(&mut IsolatedBytes) -> R) -> Option<R> {
    let place = find(address)?;
    place.hold();
    // Acquire pairs with Release in `insert`.
    let is_here = place.address.load(Ordering::Acquire) == address;
    let result = is_here.then(|| {
        let bytes = place.bytes.load(Ordering::Relaxed);
        // SAFETY: the owner, by `Place` 1, which nobody else touches while this thread holds the place.
        work(unsafe { &mut *bytes })
    });
    place.let_go();
    result
}

fn find(address: usize) -> Option<&'static Place> {
    for place in places_of(address) {
        // Acquire pairs with Release in `insert`.
        match place.address.load(Ordering::Acquire) {
            seen if seen == address && address > TAKEN => return Some(place),
            NEVER => return None,
            _ => {}
        }
    }
    None
}
