//! Telling a child made by fork from its parent, also where both have the same process id: a container's first process
//! has id 1, and so has the child that it forks into a namespace of its own (pid_namespaces(7)).
//!
//! A word on a page that the kernel wipes in a child (`MADV_WIPEONFORK`), and a counter beside it that the child
//! inherits: whoever finds the word wiped takes the next number. So a process differs from all that it descends
//! from, and what it shares with others (pins, mappings that it may not have) it has from those alone. Without
//! such pages the process id has to do.

// UNSAFETY: maps a page of its own and reads a word of it.
#![expect(unsafe_code, reason = "owns one page for the life of the process")]

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::{Access, Hint, Result, backend};

/// The word. Null until the first call; [`BY_ID`] where there is no such page.
///
/// # Invariants
///
/// 1. Points to a static, or to a page that is readable, writable and never unmapped.
static WORD: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());
/// The number last taken by this process, or by the one that it was forked from.
static LAST: AtomicU32 = AtomicU32::new(0);
/// Stands for a page that cannot be had.
static BY_ID: AtomicU32 = AtomicU32::new(0);

/// A number of this process that none of its ancestors has. Never 0; the same for the life of the process.
///
/// Costs a load, and two system calls the first time in the process. Safe in a signal handler.
#[inline]
pub(crate) fn incarnation() -> u32 {
    // Acquire pairs with Release in `first`: the page is usable.
    let word = WORD.load(Ordering::Acquire);
    // SAFETY: null, or as invariant 1 says; zeros are an `AtomicU32`.
    match unsafe { word.as_ref() } {
        Some(word) => number_of(word),
        None => first(),
    }
}

#[inline]
fn number_of(word: &AtomicU32) -> u32 {
    // Relaxed, here and below: the word says all.
    match word.load(Ordering::Relaxed) {
        0 => begin(word),
        number => number,
    }
}

/// At the first call of a process, and of each child.
#[cold]
fn begin(word: &AtomicU32) -> u32 {
    if ptr::eq(word, &raw const BY_ID) {
        return super::process_id();
    }
    let number = LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1);
    match word.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => number,
        // Another thread was faster.
        Err(number) => number,
    }
}

#[cold]
fn first() -> u32 {
    let page = wiped_page().unwrap_or(NonNull::from(&BY_ID));
    // Release pairs with Acquire in `incarnation`.
    match WORD.compare_exchange(ptr::null_mut(), page.as_ptr(), Ordering::Release, Ordering::Acquire) {
        // SAFETY: as invariant 1 says.
        Ok(_) => number_of(unsafe { page.as_ref() }),
        Err(word) => {
            if page != NonNull::from(&BY_ID) {
                // SAFETY: mapped above, and nobody else knows it.
                let _ = unsafe { backend::release(page.cast(), backend::page_size()) };
            }
            // SAFETY: not null, so as invariant 1 says.
            number_of(unsafe { &*word })
        }
    }
}

/// A page that reads as zeros in a child.
fn wiped_page() -> Result<NonNull<AtomicU32>> {
    let bytes = backend::page_size();
    let page = backend::reserve(bytes)?;
    // SAFETY: reserved above.
    let made = unsafe { backend::protect(page, bytes, Access::ReadWrite) }.and_then(|()| {
        // SAFETY: as above.
        unsafe { backend::advise(page, bytes, Hint::WipeOnFork) }
    });
    if let Err(errno) = made {
        // SAFETY: as above, and nobody else knows it.
        let _ = unsafe { backend::release(page, bytes) };
        return Err(errno);
    }
    Ok(page.cast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_in_every_thread_and_never_zero() {
        let here = incarnation();
        assert_ne!(here, 0);
        let there = std::thread::spawn(incarnation).join();
        assert_eq!(there.ok(), Some(here));
    }

    #[cfg(all(target_os = "linux", not(oubliette_portable), not(miri)))]
    #[test]
    fn another_in_a_child_and_in_its_child() {
        let parent = incarnation();
        let status = crate::testing::forked(|| {
            let child = incarnation();
            assert!(child != parent && child != 0);
            let status = crate::testing::forked(|| {
                assert!(incarnation() != child && incarnation() != parent);
            });
            assert_eq!((status, incarnation()), (0, child));
        });
        assert_eq!((status, incarnation()), (0, parent));
    }
}
