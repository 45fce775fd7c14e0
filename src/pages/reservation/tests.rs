//! The kernel's view of a reservation.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests")]

use super::*;

fn pages(count: usize) -> PageBytes {
    PageBytes::from_pages(count).unwrap()
}

#[test]
fn commit_guard_lock_discard() {
    println!("{:?}", os::features());
    let range = Reservation::new_aligned(pages(1 << 20), pages(16), pages(16)).unwrap();
    assert_eq!(range.base().addr().get() % pages(16).get(), 0);
    range.hint(Hint::DontDump).unwrap();
    range.hint(Hint::NoHugePage).unwrap();
    range.hint(Hint::WipeOnFork).unwrap();
    // SAFETY: no reference into the range exists.
    let kind = unsafe { range.guard_each(pages(15), pages(1), pages(16), 1000) }.unwrap();
    assert_eq!(kind, GuardKind::Marker);
    range.commit(pages(0), pages(16 * 64)).unwrap();
    range.lock(pages(0), pages(16 * 64)).unwrap();
    // SAFETY: page 0 is committed.
    unsafe { range.base().write(7) };
    let mut seen = [0; 16];
    range.resident(pages(0), pages(16), &mut seen).unwrap();
    assert_eq!(seen.map(|byte| byte & 1), [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // SAFETY: no reference into the range exists.
    unsafe { range.discard(pages(0), pages(1), LockState::Locked) }.unwrap();
    // SAFETY: page 0 is committed.
    assert_eq!(unsafe { range.base().read() }, 0);
    // SAFETY: no address in the range is kept.
    unsafe { range.release() }.unwrap();
}
