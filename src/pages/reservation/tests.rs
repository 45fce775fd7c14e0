//! The kernel's view of a reservation.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests")]

use super::*;
use crate::os::fake::{self, fail, fail_always};
use crate::os::{Call, Support};
use crate::testing::{dies, mapping, mappings, passes, skip_unless_lockable};

fn pages(count: usize) -> PageBytes {
    PageBytes::from_pages(count).unwrap()
}

fn reserved(count: usize) -> Reservation {
    Reservation::new(pages(count), pages(count)).unwrap()
}

fn address(range: &Reservation, page: usize) -> usize {
    range.base().addr().get() + pages(page).get()
}

fn byte(range: &Reservation, page: usize) -> *mut u8 {
    // SAFETY: the tests name pages of the range.
    unsafe { range.base().add(pages(page).get()) }.as_ptr()
}

fn write(range: &Reservation, page: usize) {
    // SAFETY: the page is committed, or the test wants the fault.
    unsafe { byte(range, page).write_volatile(7) };
}

fn read(range: &Reservation, page: usize) -> u8 {
    // SAFETY: the page is committed, or the test wants the fault.
    unsafe { byte(range, page).read_volatile() }
}

fn release(range: Reservation) {
    // SAFETY: the tests keep no address.
    unsafe { range.release() }.unwrap();
}

fn guards(range: &Reservation, offset: usize, stride: usize, count: usize) -> GuardKind {
    // SAFETY: the tests hold no reference into the range.
    unsafe { range.guard_each(pages(offset), pages(1), pages(stride), count) }.unwrap()
}

/// What guards are made of here.
fn guard_kind() -> GuardKind {
    match os::features().guard_install {
        Support::Yes => GuardKind::Marker,
        _ => GuardKind::NoAccess,
    }
}

#[test]
fn a_reserved_page_has_no_access_until_it_is_committed() {
    const TEST: &str = concat!(module_path!(), "::a_reserved_page_has_no_access_until_it_is_committed");
    let range = reserved(4);
    assert_eq!(mapping(address(&range, 2)).access, "---p");
    range.commit(pages(1), pages(2)).unwrap();
    assert_eq!(mapping(address(&range, 0)).access, "---p");
    assert_eq!(mapping(address(&range, 2)).access, "rw-p");
    write(&range, 2);
    // SAFETY: no reference into the range exists.
    unsafe { range.decommit(pages(2), pages(1)) }.unwrap();
    assert_eq!(mapping(address(&range, 2)).access, "---p");
    release(range);

    dies(TEST, "reserved", libc::SIGSEGV, "", || write(&reserved(1), 0));
    dies(TEST, "decommitted", libc::SIGSEGV, "", || {
        let range = reserved(1);
        range.commit(pages(0), pages(1)).unwrap();
        write(&range, 0);
        // SAFETY: no reference into the range exists.
        unsafe { range.decommit(pages(0), pages(1)) }.unwrap();
        read(&range, 0);
    });
}

#[test]
fn the_base_is_aligned_and_nothing_more_stays_reserved() {
    for align in [1, 2, 16, 512] {
        let range = Reservation::new_aligned(pages(16), pages(16), pages(align)).unwrap();
        assert_eq!(address(&range, 0) % pages(align).get(), 0);
        assert_eq!(range.len(), pages(16));
        assert!(range.contains(address(&range, 0)) && range.contains(address(&range, 16) - 1));
        assert!(!range.contains(address(&range, 16)) && !range.contains(address(&range, 0) - 1));
        release(range);
    }
}

#[test]
fn it_takes_less_where_addresses_are_scarce() {
    for errno in [Errno::NOMEM, Errno::AGAIN] {
        let _fault = fail(Call::Reserve, 0, errno);
        let range = Reservation::new(pages(64), pages(16)).unwrap();
        assert_eq!(range.len(), pages(32));
        release(range);
    }
    let _fault = fail_always(Call::Reserve, Errno::NOMEM);
    let before = fake::count(Call::Reserve);
    let error = Reservation::new(pages(64), pages(16)).unwrap_err();
    assert_eq!(error, Error::AddressSpace { needed_bytes: pages(16).get() });
    assert_eq!(fake::count(Call::Reserve) - before, 3, "64, 32 and 16 pages");

    let _fault = fail_always(Call::Reserve, Errno::PERM);
    let error = Reservation::new(pages(64), pages(16)).unwrap_err();
    assert_eq!(error, Error::Os { operation: Operation::Reserve, errno: libc::EPERM });
}

#[test]
fn a_part_that_is_not_within_the_range_is_refused() {
    let range = reserved(4);
    let errno = libc::EINVAL;
    assert_eq!(range.commit(pages(4), pages(1)), Err(Error::Os { operation: Operation::Commit, errno }));
    assert_eq!(range.lock(pages(0), pages(5)), Err(Error::Os { operation: Operation::Lock, errno }));
    let huge = PageBytes::round_down(usize::MAX);
    assert_eq!(range.commit(huge, huge), Err(Error::Os { operation: Operation::Commit, errno }));
    release(range);
}

#[cfg(all(target_os = "linux", not(oubliette_portable)))]
#[test]
fn hints_show_in_smaps() {
    use crate::Fork;
    use crate::pages::hints::Measure;
    let [plain, wiped, excluded] = [Fork::Inherit, Fork::Wipe, Fork::Exclude].map(|fork| {
        let range = reserved(4);
        let hints = range.hint_all(fork).unwrap();
        assert_eq!(hints.no_dump, Measure::InForce);
        range.commit(pages(0), pages(4)).unwrap();
        let mapping = mapping(address(&range, 1));
        release(range);
        mapping
    });
    for mapping in [&plain, &wiped, &excluded] {
        assert!(mapping.has("dd") && !mapping.has("mg"), "{mapping:?}");
    }
    assert!(!plain.has("wf") && !plain.has("dc"), "{plain:?}");
    assert!(wiped.has("wf") && !wiped.has("dc"), "{wiped:?}");
    assert!(excluded.has("dc") && !excluded.has("wf"), "{excluded:?}");
}

#[test]
fn a_hint_that_the_system_does_not_know_is_noted_and_another_failure_is_an_error() {
    use crate::Fork;
    use crate::pages::hints::Measure;
    let range = reserved(1);
    {
        let _fault = fail_always(Call::Advise, Errno::NOSYS);
        let hints = range.hint_all(Fork::Inherit).unwrap();
        assert_eq!(hints.no_dump, Measure::Refused(Errno::NOSYS));
        assert!(range.hint_all(Fork::Wipe).is_err(), "a child would find secrets");
    }
    if os::features().wipe_on_fork == Support::Yes {
        // Dump, wipe, and then what stands in for it.
        let _fault = fail(Call::Advise, 1, Errno::INVAL);
        assert_eq!(range.hint_all(Fork::Wipe).unwrap().fork, Fork::Exclude);
    }
    let _fault = fail_always(Call::Advise, Errno::NOMEM);
    let error = range.hint_all(Fork::Inherit).unwrap_err();
    assert_eq!(error, Error::Os { operation: Operation::Advise, errno: libc::ENOMEM });
    release(range);
}

#[test]
fn guards_fault_and_their_neighbours_do_not() {
    const TEST: &str = concat!(module_path!(), "::guards_fault_and_their_neighbours_do_not");
    let prepared = || {
        let range = reserved(8);
        let kind = guards(&range, 1, 3, 2);
        match kind {
            GuardKind::Marker => range.commit(pages(0), pages(8)).unwrap(),
            GuardKind::NoAccess => {
                for (start, len) in [(0, 1), (2, 2), (5, 3)] {
                    range.commit(pages(start), pages(len)).unwrap();
                }
            }
        }
        (range, kind)
    };
    let (range, kind) = prepared();
    assert_eq!(kind, guard_kind());
    [0, 2, 3, 5, 6, 7].into_iter().for_each(|page| write(&range, page));
    release(range);

    dies(TEST, "read the first", libc::SIGSEGV, "", || _ = read(&prepared().0, 1));
    dies(TEST, "write to the second", libc::SIGSEGV, "", || write(&prepared().0, 4));
    dies(TEST, "without markers", libc::SIGSEGV, "", || {
        let _fault = fail_always(Call::InstallGuard, Errno::INVAL);
        let (range, kind) = prepared();
        assert_eq!(kind, GuardKind::NoAccess);
        write(&range, 4);
    });
}

#[test]
fn where_markers_are_refused_guards_are_pages_without_access() {
    let range = reserved(8);
    range.commit(pages(0), pages(8)).unwrap();
    let _fault = fail_always(Call::InstallGuard, Errno::NOSYS);
    assert_eq!(guards(&range, 0, 3, 3), GuardKind::NoAccess);
    assert_eq!(guards(&range, 7, 1, 1), GuardKind::NoAccess);
    assert_eq!(guards(&range, 5, 1, 0), GuardKind::Marker, "none is none");
    let seen: String =
        (0..8).map(|page| if mapping(address(&range, page)).access == "---p" { 'G' } else { '.' }).collect();
    assert_eq!(seen, "G..G..GG");
    release(range);
}

#[test]
fn a_refused_guard_is_an_error() {
    let range = reserved(8);
    let _no_marker = fail_always(Call::InstallGuard, Errno::NOSYS);
    let _too_many_mappings = fail(Call::Protect, 1, Errno::NOMEM);
    // SAFETY: no reference into the range exists.
    let error = unsafe { range.guard_each(pages(0), pages(1), pages(2), 3) }.unwrap_err();
    assert_eq!(error, Error::AddressSpace { needed_bytes: pages(1).get() });
    release(range);
}

#[test]
fn ten_thousand_guards_cost_no_mapping() {
    if guard_kind() != GuardKind::Marker {
        return println!("skipped: no MADV_GUARD_INSTALL here");
    }
    let range = reserved(20_000);
    range.hint(Hint::DontDump).unwrap();
    assert_eq!(guards(&range, 1, 2, 10_000), GuardKind::Marker);
    range.commit(pages(0), range.len()).unwrap();
    let locked = range.lock(pages(0), range.len());
    let mappings = mappings(address(&range, 0), range.len().get());
    assert_eq!(mappings.len(), 1, "{mappings:?}");
    assert_eq!((mappings[0].has("lo"), mappings[0].has("dd")), (locked.is_ok(), true), "{mappings:?}");
    [0, 9_998, 19_998].into_iter().for_each(|page| write(&range, page));
    release(range);
}

#[test]
fn a_locked_part_is_locked_and_one_that_fails_is_not() {
    skip_unless_lockable!();
    let range = reserved(8);
    range.commit(pages(0), pages(8)).unwrap();
    range.lock(pages(0), pages(2)).unwrap();
    assert!(mapping(address(&range, 1)).has("lo"));
    assert!(!mapping(address(&range, 2)).has("lo"));
    range.unlock(pages(0), pages(1)).unwrap();
    assert!(!mapping(address(&range, 0)).has("lo"));
    assert!(mapping(address(&range, 1)).has("lo"));

    let limit = os::memlock_limit().soft;
    for errno in [Errno::NOMEM, Errno::PERM, Errno::AGAIN] {
        let _fault = fail(Call::Lock, 0, errno);
        let expected = match limit {
            Some(limit_bytes) => Error::LockLimit { needed_bytes: pages(3).get(), limit_bytes },
            None => Error::Os { operation: Operation::Lock, errno: errno.0 },
        };
        assert_eq!(range.lock(pages(4), pages(3)), Err(expected));
        assert!(!mapping(address(&range, 4)).has("lo"));
    }
    release(range);
}

#[cfg(all(target_os = "linux", not(oubliette_portable)))]
#[test]
fn locking_takes_no_memory_until_a_page_is_touched() {
    skip_unless_lockable!();
    let range = reserved(16);
    range.commit(pages(0), pages(16)).unwrap();
    range.lock(pages(0), pages(16)).unwrap();
    [0, 9].into_iter().for_each(|page| write(&range, page));
    let mut seen = [0; 16];
    range.resident(pages(0), pages(16), &mut seen).unwrap();
    assert_eq!(seen.map(|byte| byte & 1), [1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    let short = range.resident(pages(0), pages(16), &mut seen[1..]).unwrap_err();
    assert_eq!(short, Error::Os { operation: Operation::Advise, errno: libc::EINVAL });
    release(range);
}

#[test]
fn discarded_pages_are_zero_and_keep_their_lock() {
    skip_unless_lockable!();
    let range = reserved(4);
    range.commit(pages(0), pages(4)).unwrap();
    range.lock(pages(0), pages(2)).unwrap();
    for (page, state) in [(1, LockState::Locked), (2, LockState::Unlocked)] {
        write(&range, page);
        // SAFETY: no reference into the range exists.
        unsafe { range.discard(pages(page), pages(1), state) }.unwrap();
        if os::features().dontneed_locked == Support::Yes {
            let mut seen = [0];
            range.resident(pages(page), pages(1), &mut seen).unwrap();
            assert_eq!(seen[0] & 1, 0, "the memory was given back");
        }
        assert_eq!(read(&range, page), 0);
        assert_eq!(mapping(address(&range, page)).has("lo"), state == LockState::Locked);
    }
    release(range);
}

#[cfg(all(target_os = "linux", not(oubliette_portable)))]
#[test]
fn a_process_that_locks_all_future_memory_still_gets_markers() {
    use crate::testing::status_kib;
    const TEST: &str = concat!(module_path!(), "::a_process_that_locks_all_future_memory_still_gets_markers");
    passes(TEST, "mlockall", || {
        // SAFETY: the call reads and writes no memory.
        if unsafe { libc::mlockall(libc::MCL_FUTURE) } != 0 {
            return println!("skipped: mlockall was refused");
        }
        let before = status_kib("VmLck");
        let range = Reservation::new(pages(1 << 16), pages(16)).unwrap();
        assert!(status_kib("VmLck") < before + 1024, "the reservation is not charged");
        assert_eq!(guards(&range, 0, 2, 4), guard_kind());
        release(range);
    });
}

#[test]
fn a_forked_child_finds_zeros_or_nothing() {
    skip_unless_lockable!();
    use crate::Fork;
    use crate::testing::forked;
    const TEST: &str = concat!(module_path!(), "::a_forked_child_finds_zeros_or_nothing");
    let written = |fork: Fork| {
        let range = reserved(1);
        let hints = range.hint_all(fork).unwrap();
        range.commit(pages(0), pages(1)).unwrap();
        range.lock(pages(0), pages(1)).unwrap();
        write(&range, 0);
        (hints.fork == fork).then_some(range)
    };
    passes(TEST, "wipe", || {
        let Some(range) = written(Fork::Wipe) else { return println!("skipped: no such hint here") };
        let status = forked(|| assert_eq!(read(&range, 0), 0));
        assert_eq!(status, 0);
        assert_eq!(read(&range, 0), 7);
    });
    passes(TEST, "exclude", || {
        let Some(range) = written(Fork::Exclude) else { return println!("skipped: no such hint here") };
        let status = forked(|| _ = read(&range, 0));
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV);
    });
}
