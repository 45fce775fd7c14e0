//! Guarded runs: the kernel's view, their crimes, and every call failing in turn.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests")]

use super::*;
use crate::os::Call;
use crate::os::fake::{count, every_call_in_turn, fail_always};
use crate::testing::{dies, forked, passes, peek, skip_unless_lockable, status_kib};

fn run(bytes: usize, align: usize, policy: Policy) -> GuardedRun {
    GuardedRun::new(Layout::from_size_align(bytes, align).unwrap(), Kind::Secret(policy)).unwrap()
}

/// A page that nothing was left out of on this machine.
fn secret(bytes: usize) -> GuardedRun {
    run(bytes, 1, Policy::SECRET)
}

fn address(pages: &GuardedRun) -> usize {
    pages.block().as_ptr().addr()
}

#[test]
fn the_block_is_zero_aligned_and_close_to_the_guard() {
    skip_unless_lockable!();
    let page = os::page_size();
    for bytes in [0, 1, 31, 32, 33, page - 1, page, page + 1, 10 * page] {
        for align in [1, 8, 64, page, 4 * page] {
            let mut pages = run(bytes, align, Policy::SECRET);
            let start = address(&pages);
            assert_eq!(start % align, 0);
            assert_eq!(pages.block().len(), bytes);
            assert!(pages.block().iter().all(|&byte| byte == 0));
            pages.block_mut().fill(0xa5);
            assert!(pages.block().iter().all(|&byte| byte == 0xa5));
            let gap = pages.layout.data_end - (start - pages.range.base().addr().get()) - bytes;
            assert!(bytes == 0 || gap < align.min(page));
        }
    }
}

#[cfg(all(target_os = "linux", not(oubliette_portable)))]
#[test]
fn smaps_shows_the_lock_and_the_hints() {
    use crate::os::Support;
    use crate::testing::mapping;
    skip_unless_lockable!();
    let pages = secret(32);
    let mapping = mapping(address(&pages));
    assert_eq!(mapping.access, "rw-p");
    for flag in ["lo", "dd", "wf"] {
        assert!(mapping.has(flag), "{flag}: {mapping:?}");
    }
    let protection = pages.protection();
    assert_eq!(protection.locked, Measure::InForce);
    assert_eq!(protection.hints.no_dump, Measure::InForce);
    assert_eq!(protection.hints.fork, Fork::Wipe);
    assert_eq!(
        protection.guards == crate::pages::GuardKind::Marker,
        os::features().guard_install == Support::Yes
    );
    assert_eq!(protection.pinned == Measure::InForce, pages.is_pinned());
    if !pages.is_pinned() {
        println!("skipped: no pins here, {:?}", protection.pinned);
    }
}

#[test]
fn one_byte_out_of_bounds_is_a_fault() {
    skip_unless_lockable!();
    const TEST: &str = concat!(module_path!(), "::one_byte_out_of_bounds_is_a_fault");
    let page = os::page_size();
    // The address is the block's plus what is added, modulo 2^64.
    let poke = move |bytes: usize, add: usize| {
        let pages = secret(bytes);
        let byte = core::ptr::with_exposed_provenance_mut::<u8>(
            pages.block().as_ptr().expose_provenance().wrapping_add(add),
        );
        // SAFETY: none: this is the crime.
        unsafe { byte.write_volatile(1) };
    };
    dies(TEST, "behind", libc::SIGSEGV, "", || poke(32, 32));
    dies(TEST, "in front", libc::SIGSEGV, "", || poke(page, usize::MAX));
    dies(TEST, "behind, without markers", libc::SIGSEGV, "", || {
        let _fault = fail_always(Call::InstallGuard, Errno::INVAL);
        poke(32, 32);
    });
    dies(TEST, "in front, without markers", libc::SIGSEGV, "", || {
        let _fault = fail_always(Call::InstallGuard, Errno::INVAL);
        poke(page, usize::MAX);
    });
    let message = "oubliette: memory corruption: write out of the bounds of guarded pages\n";
    dies(TEST, "in front, within the page", libc::SIGABRT, message, || poke(32, usize::MAX));
    passes(TEST, "the last byte", || poke(32, 31));
}

#[test]
fn it_is_wiped_before_it_is_unmapped() {
    skip_unless_lockable!();
    for policy in [Policy::SECRET, Policy::SECRET.with_flush(crate::Flush::Off)] {
        let mut pages = run(3 * os::page_size(), 1, policy);
        pages.block_mut().fill(0xa5);
        let start = address(&pages);
        let _fault = fail_always(Call::Release, Errno::NOMEM);
        drop(pages);
        // It is still there, since it could not be unmapped.
        match peek(start, 3 * os::page_size()) {
            Ok(bytes) => assert!(bytes.iter().all(|&byte| byte == 0)),
            Err(error) => println!("skipped: cannot read /proc/self/mem, {error}"),
        }
    }
}

#[test]
fn a_lock_that_is_required_is_an_error_and_one_that_is_not_is_noted() {
    let _fault = fail_always(Call::Lock, Errno::NOMEM);
    let layout = Layout::new::<[u8; 32]>();
    let error = GuardedRun::new(layout, Kind::Secret(Policy::SECRET)).unwrap_err();
    match os::memlock_limit().soft {
        Some(limit_bytes) => {
            assert_eq!(error, Error::LockLimit { needed_bytes: os::page_size(), limit_bytes });
        }
        None => assert_eq!(error, Error::Os { operation: crate::Operation::Lock, errno: libc::ENOMEM }),
    }
    let pages = GuardedRun::new(layout, Kind::Secret(Policy::SECRET.with_lock(Lock::BestEffort))).unwrap();
    assert_eq!(pages.protection().locked, Measure::Refused(Errno::NOMEM));
    let pages = GuardedRun::new(layout, Kind::Secret(Policy::SECRET.with_lock(Lock::Off))).unwrap();
    assert_eq!(pages.protection().locked, Measure::NotWanted);
}

#[test]
fn a_refused_pin_is_noted_and_never_called_one() {
    skip_unless_lockable!();
    let _fault = fail_always(Call::RingRegister, Errno::NOMEM);
    let pages = secret(32);
    assert!(matches!(pages.protection().pinned, Measure::Refused(_)));
    assert!(!pages.is_pinned());
    let pages = run(32, 1, Policy::SECRET.with_backing(Backing::Locked));
    assert_eq!(pages.protection().pinned, Measure::NotWanted);
    assert!(!pages.is_pinned());
}

#[test]
fn what_cannot_be_laid_out_is_too_large() {
    let layout = Layout::from_size_align(isize::MAX.unsigned_abs() - 100, 1).unwrap();
    assert_eq!(GuardedRun::new(layout, Kind::Secret(Policy::SECRET)).unwrap_err(), Error::TooLarge);
}

#[test]
fn whichever_call_fails_nothing_is_left_behind() {
    skip_unless_lockable!();
    const TEST: &str = concat!(module_path!(), "::whichever_call_fails_nothing_is_left_behind");
    for errno in [Errno::NOMEM, Errno::AGAIN, Errno::PERM, Errno::INVAL, Errno::NOSYS] {
        passes(TEST, &format!("{errno:?}"), || {
            drop(secret(100));
            let figures = || (status_kib("VmSize"), status_kib("VmLck"));
            figures();
            let mut failed = 0;
            let runs = every_call_in_turn(errno, |nth| {
                let before = figures();
                let releases = count(Call::Release);
                let result = GuardedRun::new(Layout::new::<[u8; 100]>(), Kind::Secret(Policy::SECRET));
                match result {
                    Ok(mut pages) => {
                        pages.block_mut().fill(1);
                        assert_eq!(count(Call::Release), releases);
                    }
                    Err(error) => {
                        failed += 1;
                        assert!(!error.to_string().is_empty());
                    }
                }
                let after = figures();
                // The one call that may leave something is the one that gives the addresses back.
                let kept = after.0.saturating_sub(before.0);
                assert!(kept == 0 || kept * 1024 == 3 * os::page_size(), "{nth:?}: {before:?} {after:?}");
                assert!(after.1 <= before.1 || kept > 0, "{nth:?}: {before:?} {after:?}");
            });
            assert!(runs >= 10 && failed >= 3, "{runs} runs, {failed} failed");
        });
    }
}

#[test]
fn a_child_drops_what_it_inherited() {
    skip_unless_lockable!();
    const TEST: &str = concat!(module_path!(), "::a_child_drops_what_it_inherited");
    for fork in [Fork::Wipe, Fork::Exclude, Fork::Inherit] {
        passes(TEST, &format!("{fork:?}"), || {
            let mut pages = ManuallyDrop::new(run(100, 1, Policy::SECRET.with_fork(fork)));
            pages.block_mut().fill(1);
            let status = forked(|| {
                // SAFETY: the child's copy is dropped once, in the child.
                unsafe { ManuallyDrop::drop(&mut pages) };
            });
            assert_eq!(status, 0);
            assert!(pages.block().iter().all(|&byte| byte == 1), "the parent's is untouched");
            let pinned = pages.protection().pinned == Measure::InForce;
            assert_eq!(pages.is_pinned(), pinned, "and still pinned");
            drop(ManuallyDrop::into_inner(pages));
        });
    }
}
