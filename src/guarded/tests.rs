//! Each hint from the kernel's view: `/proc/self/smaps`, mincore, a forked child. More of it in `tests/advice.rs`.

use super::*;
use crate::testing::{forked, mapping, passes, skip_unless_lockable};
use crate::{Error, Placement, Refusal, os};

type Pages = GuardedPages<Ordinary>;

fn address<K: Contents>(pages: &GuardedPages<K>) -> usize {
    pages.as_ptr().addr()
}

#[test]
fn hints_that_the_mapping_shows() {
    let mut pages = Pages::new(1 << 16).unwrap();
    let at = address(&pages);
    let table = [
        (Advice::Sequential, "sr", true),
        (Advice::Random, "rr", true),
        (Advice::DontDump, "dd", true),
        (Advice::DoDump, "dd", false),
        (Advice::DontFork, "dc", true),
        (Advice::DoFork, "dc", false),
        (Advice::WipeOnFork, "wf", true),
        (Advice::KeepOnFork, "wf", false),
        (Advice::NoHugePage, "nh", true),
        (Advice::HugePage, "hg", true),
        (Advice::Mergeable, "mg", true),
        (Advice::Unmergeable, "mg", false),
    ];
    for (advice, flag, is_set) in table {
        match pages.advise(advice) {
            Ok(()) => assert_eq!(mapping(at).has(flag), is_set, "{advice:?} {flag}"),
            Err(error) => {
                assert_eq!(error, Error::Refused(Refusal::Unknown), "{advice:?}");
                println!("skipped: {advice:?}: {error}");
            }
        }
    }
}

#[test]
fn pages_come_and_go() {
    let mut pages = Pages::new(1 << 16).unwrap();
    assert_eq!(pages.is_resident(), Ok(false), "nothing was touched");
    pages.advise(Advice::PopulateWrite).unwrap();
    assert_eq!(pages.is_resident(), Ok(true));
    pages.fill(7);
    pages.discard().unwrap();
    assert_eq!(pages.is_resident(), Ok(false));
    assert!(pages.iter().all(|&byte| byte == 0));
    pages.discard().unwrap();
    pages.advise(Advice::PopulateRead).unwrap();
    assert_eq!(pages.is_resident(), Ok(true));
}

#[test]
fn freed_until_written_to() {
    let mut pages = Pages::new(4 << 20).unwrap();
    pages.fill(7);
    pages.advise(Advice::Free).unwrap();
    // The kernel takes them in batches, and the last of them later.
    assert!(mapping(address(&pages)).figures["LazyFree"] > 2048);
    pages.fill(8);
    assert_eq!(mapping(address(&pages)).figures["LazyFree"], 0, "kept, since it was written to");
    assert!(pages.iter().all(|&byte| byte == 8));
}

#[test]
fn cold_pages_count_as_unused() {
    let mut pages = Pages::new(1 << 16).unwrap();
    // Two hints that no other test has together: its mapping must not merge with one beside it.
    pages.advise(Advice::DontFork).unwrap();
    pages.advise(Advice::Random).unwrap();
    pages.fill(7);
    assert_eq!(mapping(address(&pages)).figures["Referenced"], 64);
    pages.advise(Advice::Cold).unwrap();
    assert_eq!(mapping(address(&pages)).figures["Referenced"], 0);
    assert!(pages.iter().all(|&byte| byte == 7));
}

#[test]
fn collapsed_into_a_huge_page() {
    const HUGE: usize = 2 << 20;
    let mut pages = Pages::new(2 * HUGE).unwrap();
    pages.fill(7);
    pages.advise(Advice::HugePage).unwrap();
    // Again, if something held one of the pages just then.
    let busy = Err(Error::Refused(Refusal::CannotMove));
    let mut tries = (0..1000).map(|_| pages.advise(Advice::Collapse));
    let collapsed = tries.find(|collapsed| *collapsed != busy).unwrap_or(busy);
    drop(tries);
    match collapsed {
        Ok(()) => assert!(mapping(address(&pages)).figures["AnonHugePages"] >= HUGE / 1024),
        Err(error) => {
            assert_eq!(error, Error::Refused(Refusal::NoMemory));
            println!("skipped: {error}");
        }
    }
    assert!(pages.iter().all(|&byte| byte == 7));
    let small = Pages::new(4096).unwrap().advise(Advice::Collapse);
    assert_eq!(small, Err(Error::Refused(Refusal::NoHugePageFits)));
}

#[test]
fn what_a_child_finds() {
    const TEST: &str = concat!(module_path!(), "::what_a_child_finds");
    passes(TEST, "kinds", || {
        let mut kept = Pages::new(100).unwrap();
        let mut wiped = Pages::new(100).unwrap();
        let mut gone = Pages::new(100).unwrap();
        let mut secret = GuardedPages::<Secret>::new(100).unwrap();
        let mut gone_secret = GuardedPages::<Secret>::new(100).unwrap();
        for bytes in [&mut kept[..], &mut wiped, &mut gone, &mut secret, &mut gone_secret] {
            bytes.fill(7);
        }
        wiped.advise(Advice::WipeOnFork).unwrap();
        gone.advise(Advice::DontFork).unwrap();
        gone_secret.advise(Advice::DontFork).unwrap();
        let mut all = Some((kept, wiped, gone, secret, gone_secret));
        let status = forked(|| {
            let (kept, wiped, gone, secret, gone_secret) = all.take().unwrap();
            assert!(kept.iter().all(|&byte| byte == 7));
            assert!(wiped.iter().chain(secret.iter()).all(|&byte| byte == 0));
            crate::purge();
            drop((kept, wiped, gone, secret, gone_secret));
        });
        assert_eq!(status, 0);
        let (_, _, _, secret, gone_secret) = all.take().unwrap();
        assert!(secret.iter().chain(gone_secret.iter()).all(|&byte| byte == 7));
    });
}

#[test]
fn a_secret_is_locked_and_can_be_given_back() {
    skip_unless_lockable!();
    let mut secret = GuardedPages::<Secret>::new(3 * os::page_size()).unwrap();
    assert_eq!(secret.is_locked(), Ok(true));
    assert_eq!(Pages::new(1).unwrap().is_locked(), Ok(false));
    let was_pinned = secret.is_pinned();
    secret.fill(7);
    secret.discard().unwrap();
    assert!(secret.iter().all(|&byte| byte == 0));
    assert_eq!((secret.is_locked(), secret.is_pinned()), (Ok(true), was_pinned));
    for flag in ["lo", "dd", "wf"] {
        assert!(mapping(address(&secret)).has(flag));
    }
    for advice in [Advice::WillNeed, Advice::Sequential, Advice::Random, Advice::PopulateWrite] {
        secret.advise(advice).unwrap();
    }
    assert_eq!(secret.is_resident(), Ok(true));
}

#[test]
fn near_an_address_or_elsewhere() {
    let layout = std::alloc::Layout::new::<[u8; 100]>();
    let first = Pages::with_layout(layout).unwrap();
    assert_eq!(first.placement(), Placement::Anywhere);
    assert_eq!(first.page_bytes(), os::page_size());
    let wanted = address(&first);
    let taken = Pages::near(wanted, layout).unwrap();
    assert_eq!(taken.placement(), Placement::Elsewhere);
    assert_eq!(taken.len(), 100);
    let far = wanted - (64 << 30);
    let granted = Pages::near(far, layout).unwrap();
    if granted.placement() == Placement::Granted {
        assert_eq!(address(&granted) & !(os::page_size() - 1), far & !(os::page_size() - 1));
    } else {
        println!("skipped: something lies at {far:#x}");
    }
}
