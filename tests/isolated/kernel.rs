//! What the kernel knows of the pages: locks, hints, pins, forks, faults, and what the end leaves.

use std::io::Read as _;

use oubliette::{Error, GuardedPages, IsolatedBox, Secret, purge, report};

use super::support::child::{self, Role};
use super::support::fork::{ChildEnd, in_child};
use super::support::limits::{Resource, as_ordinary_user, mapping_count, minor_faults, set, status_bytes};
use super::support::pages::{
    HUGE_PAGE_BYTES, OwnMemory, PAGE_BYTES, collapse, collapse_in_time, huge_page_in, is_readable, mapping_at,
};
use super::support::seccomp::{Denied, deny};
use super::support::{pattern, probe, scan, skip, trace};
use super::{Key, address_of, key_of, try_key_of};

pub(super) const ROLES: &[Role] = &[
    ("pinned", |_| pinned()),
    ("movable", |_| movable()),
    ("forks", |_| forks()),
    ("no_markers", |_| no_markers()),
    ("runs_without_markers", |_| runs_without_markers()),
    ("no_pins", |_| no_pins()),
    ("lock_limit", |_| lock_limit()),
    ("address_limit", |_| address_limit()),
    ("ends", ends),
    ("purges", |_| purges()),
    ("runs", |_| runs()),
    ("purge_beside_threads", |_| purge_beside_threads()),
    ("purge_beside_trim", |_| purge_beside_trim()),
    ("purge_beside_hidden", |_| purge_beside_hidden()),
    ("faults", |_| faults()),
    ("lost_pins", |_| lost_pins()),
    ("pid_namespaces", |_| pid_namespaces()),
];

#[test]
fn smaps_shows_the_lock_and_the_hints_sealed_or_open() {
    let secret = key_of(1);
    let address = address_of(&secret);
    for is_open in [false, true] {
        let _open = is_open.then(|| secret.open().unwrap());
        let mapping = mapping_at(address);
        for flag in ["lo", "dd", "wf"] {
            assert!(mapping.has(flag), "{flag}: {mapping:?}");
        }
    }
    // The guards around it, and the page behind the one behind it.
    for page in [address + 32, address - PAGE_BYTES] {
        assert_eq!(mapping_at(page).access, "---p");
    }
}

#[test]
fn pages_are_pinned_sealed_or_open() {
    child::run("pinned", "").assert_success();
    child::run("movable", "").assert_success();
}

fn pinned() {
    if !probe::has_io_uring() {
        return skip::impossible("no io_uring: nothing can be pinned");
    }
    let secrets: Vec<_> = (0..1500).map(|_| key_of(3)).collect();
    let isolated = *report().isolated();
    assert_eq!(isolated.pinned_bytes, 1500 * PAGE_BYTES, "{isolated}");
    assert_eq!(isolated.locked_bytes, isolated.pinned_bytes, "{isolated}");
    drop(secrets);
    let error = collapse_after_sealing(collapse).expect_err("pages that are pinned cannot be moved");
    assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
}

/// The control: without a pin the kernel moves the locked pages.
fn movable() {
    deny(&[Denied::IO_URING]).unwrap();
    if let Err(error) = collapse_after_sealing(collapse_in_time) {
        skip::impossible(&format!("no huge page to be had here: {error}"));
    }
}

/// Seals and opens a secret of many pages, then asks the kernel to move some of them into one huge page.
fn collapse_after_sealing(collapse: fn(usize, usize) -> std::io::Result<()>) -> std::io::Result<()> {
    let mut large = IsolatedBox::<[u8; 2 * HUGE_PAGE_BYTES]>::new_with(|bytes| bytes.fill(7)).unwrap();
    let open = large.open_mut().unwrap();
    let address = open.as_ptr().addr();
    let huge_page = huge_page_in(&(address..address + open.len())).unwrap();
    let result = collapse(huge_page, HUGE_PAGE_BYTES);
    assert!(open.iter().all(|&byte| byte == 7));
    result
}

#[test]
fn a_forked_child_sees_nothing_and_makes_its_own() {
    child::run("forks", "").assert_success();
}

fn forks() {
    let secret = key_of(0x5a);
    let mut other = key_of(0x5b);
    let gone = key_of(0x5c);
    let address = address_of(&secret);
    let open = secret.open().unwrap();
    let end = in_child(|| {
        // Inherited while open: zeros.
        assert_eq!(*open, [0; 32]);
        drop(open);
        assert!(OwnMemory::open().is_zero(address, 32));
        assert!(matches!(secret.open(), Err(Error::LeftBehind)));
        assert!(matches!(other.open_mut(), Err(Error::LeftBehind)));
        // Its own, where the parent's are not.
        let own: Vec<_> = (0..100).map(key_of).collect();
        assert!(own.iter().zip(0..).all(|(own, byte)| own.open().unwrap() == [byte; 32]));
        assert!(mapping_at(address_of(&own[0])).has("lo"));
        assert_eq!(report().isolated().live, 100);
        // And a grandchild.
        let end = in_child(|| {
            assert!(matches!(own[0].open(), Err(Error::LeftBehind)));
            drop(own);
            assert!(key_of(9).open().unwrap() == [9; 32]);
        });
        assert_eq!(end, ChildEnd::Done);
        drop(gone);
        drop(other);
    });
    assert_eq!(end, ChildEnd::Done);
    assert!(key_of(1).open().unwrap() == [1; 32]);
}

#[test]
fn without_markers_nothing_is_less_guarded() {
    child::run("no_markers", "").assert_success();
}

fn no_markers() {
    deny(&[Denied::GUARD_INSTALL, Denied::GUARD_INSTALL_BATCHED]).unwrap();
    let secrets: Vec<_> = (0..40_000).map(|i| key_of((i % 251) as u8)).collect();
    assert!(report().isolated().steps_down.guards_by_mprotect >= 40_000);
    for i in (0..40_000).step_by(997) {
        let address = address_of(&secrets[i]);
        assert!(secrets[i].open().unwrap() == [(i % 251) as u8; 32]);
        for page in [address, address + 32, address - PAGE_BYTES] {
            assert_eq!(mapping_at(page).access, "---p");
        }
    }
    // Opened all at once, two mappings each: to the limit, then an error, and what is open stays intact.
    let mut open = Vec::new();
    let error = secrets.iter().map(|secret| secret.open()).find_map(|result| match result {
        Ok(guard) => {
            open.push(guard);
            None
        }
        Err(error) => Some(error),
    });
    assert_eq!(error, Some(Error::MappingLimit), "{} open", open.len());
    assert!(open.len() > 25_000);
    assert!(open.iter().zip(0_usize..).all(|(guard, i)| *guard == [(i % 251) as u8; 32]));
    drop(open);
    assert!(mapping_count() < 300, "{}", mapping_count());
    assert!(secrets[39_999].open().is_ok());
}

/// Runs of pages as well: at three mappings each to the limit of the process, then an error.
#[test]
fn without_markers_runs_are_guarded_to_the_last() {
    child::run("runs_without_markers", "").assert_success();
}

fn runs_without_markers() {
    deny(&[Denied::GUARD_INSTALL, Denied::GUARD_INSTALL_BATCHED]).unwrap();
    let mut runs = Vec::with_capacity(40_000);
    let error = loop {
        match GuardedPages::<oubliette::Ordinary>::new(100) {
            Ok(mut run) => {
                run.fill((runs.len() % 251) as u8);
                runs.push(run);
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::AddressSpace { .. } | Error::MappingLimit), "{error:?}");
    assert!(runs.len() > 15_000, "{}", runs.len());
    for (i, run) in runs.iter().enumerate().step_by(1499).chain(runs.iter().enumerate().last()) {
        let end = run.as_ptr().addr() + 100;
        assert!(run.iter().all(|&byte| byte == (i % 251) as u8));
        assert!(is_readable(end - 1), "the control");
        assert!(!is_readable(end), "behind run {i}");
        assert!(!is_readable(end - PAGE_BYTES - 1), "in front of run {i}");
    }
    let count = runs.len();
    // Room for the test to go on.
    runs.truncate(count / 2);
    assert!(mapping_count() < 65_000);
    drop(runs);
    assert!(GuardedPages::<Secret>::new(100).is_ok());
}

#[test]
fn without_io_uring_they_are_locked_and_that_is_said() {
    child::run("no_pins", "").assert_success();
}

fn no_pins() {
    deny(&[Denied::IO_URING]).unwrap();
    let secret = key_of(1);
    assert!(mapping_at(address_of(&secret)).has("lo"));
    let isolated = *report().isolated();
    assert_eq!((isolated.pinned_bytes, isolated.steps_down.not_pinned), (0, 1));
    assert_eq!(isolated.steps_down.not_pinned_errno, libc::EPERM);
    assert!(report().to_string().contains("isolated: guarded, sealed at rest, wiped when dropped, locked\n"));
}

#[test]
fn the_limit_of_locked_memory_is_an_error_that_names_it() {
    child::run("lock_limit", "").assert_success();
}

fn lock_limit() {
    const LIMIT: u64 = 1 << 20;
    if let Err(refused) = as_ordinary_user(LIMIT) {
        return skip::not_set_up(&format!("{refused:?}"));
    }
    let mut secrets = Vec::new();
    let error = loop {
        match try_key_of(7) {
            Ok(secret) => secrets.push(secret),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, Error::LockLimit { limit_bytes, .. } if limit_bytes == 1 << 20),
        "{error:?} after {}",
        secrets.len()
    );
    // Guards are not charged: as many as pages fit.
    assert!(secrets.len() >= 250, "{}", secrets.len());
    assert!(secrets.iter().all(|secret| secret.open().unwrap() == [7; 32]));
    for secret in &secrets {
        assert!(mapping_at(address_of(secret)).has("lo"));
    }
    let locked = status_bytes("VmLck");
    drop(secrets);
    assert!(status_bytes("VmLck") <= locked / 4, "an eighth of the limit is kept ready at most");
    oubliette::trim();
    assert_eq!((status_bytes("VmLck"), report().isolated().ready), (0, 0));
    assert!(key_of(1).open().unwrap() == [1; 32]);
}

#[test]
fn a_small_limit_of_addresses_is_enough() {
    child::run("address_limit", "").assert_success();
}

fn address_limit() {
    set(Resource::AddressSpace, 200 << 20).unwrap();
    let secrets: Vec<_> = (0..1000).map(|i| key_of(i as u8)).collect();
    assert!(secrets.iter().zip(0..).all(|(secret, i)| secret.open().unwrap() == [i as u8; 32]));
}

/// Leaked ones, sealed and open ones, and those of a thread that still runs.
#[test]
fn the_end_of_the_process_wipes_them() {
    for (how, expected_status) in
        [("return", 0), ("exit", 3 << 8), ("abort", libc::SIGABRT), ("fault", libc::SIGSEGV)]
    {
        let mut needles = scan::Needles::default();
        needles.add("key", &pattern::secret(KEY, 32));
        needles.add("plain", &pattern::secret(PLAIN, 32));
        let mut child = child::start("ends", how);
        let traced = match trace::Traced::seize(child.id()) {
            Ok(traced) => traced,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return skip::not_set_up(&format!("cannot trace a child: {error}"));
            }
        };
        drop(child.stdin.take());
        let (findings, status) = traced.scan_at_exit(&needles).unwrap();
        assert_eq!(findings.of_needle(0), 0, "{how}: fragments left");
        assert!(findings.of_needle(1) > 0, "{how}: the scan did not even find the plain copy");
        assert_eq!(status, expected_status, "{how}");
    }
}

const KEY: u64 = 41;
const PLAIN: u64 = 42;

fn ends(how: &str) {
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    let secret = || IsolatedBox::<Key>::new_with(|key| pattern::fill(key, KEY)).unwrap();
    core::mem::forget(secret());
    pattern::fill(GuardedPages::<Secret>::new(32).unwrap().leak(), KEY);
    let kept = secret();
    let _open = kept.open().unwrap();
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _sealed: Vec<_> = (0..100).map(|_| secret()).collect();
        ready.send(()).unwrap();
        loop {
            std::thread::park();
        }
    });
    is_ready.recv().unwrap();
    let mut plain = vec![0; 32];
    pattern::fill(&mut plain, PLAIN);
    core::mem::forget(plain);
    match how {
        "exit" => std::process::exit(3),
        "abort" => std::process::abort(),
        // SAFETY: a fault on purpose.
        "fault" => unsafe { core::ptr::without_provenance_mut::<u8>(8).write_volatile(1) },
        _ => {}
    }
}

#[test]
fn purge_wipes_sealed_and_open_ones() {
    child::run("purges", "").assert_success();
}

fn purges() {
    let mut secrets: Vec<_> = (0..500).map(|_| key_of(0x5a)).collect();
    let open = secrets[3].open().unwrap();
    let address = address_of(&secrets[4]);
    core::mem::forget(key_of(0x5b));
    purge();
    assert_eq!(*open, [0; 32]);
    drop(open);
    assert!(secrets.iter().all(|secret| *secret.open().unwrap() == [0; 32]));
    assert_eq!(mapping_at(address).access, "---p", "sealed by its next guard");
    // The next life of the same boxes, of new ones, and the end of all.
    secrets[5].open_mut().unwrap().fill(1);
    assert!(secrets[5].open().unwrap() == [1; 32]);
    secrets.truncate(250);
    secrets.extend((0..500).map(|_| key_of(2)));
    assert!(secrets.last().unwrap().open().unwrap() == [2; 32]);
    drop(secrets);
    purge();
}

#[test]
fn runs_of_pages_are_purged_and_a_leaked_one_is_reported() {
    child::run("runs", "").assert_success();
}

fn runs() {
    let mut kept = GuardedPages::<Secret>::new(100).unwrap();
    kept.fill(7);
    let mut lost = GuardedPages::<Secret>::new(5000).unwrap();
    lost.fill(7);
    let lost = lost.leak();
    let isolated = *report().isolated();
    assert_eq!((isolated.runs, isolated.leaked_runs, isolated.leaked_run_bytes), (2, 1, 8192));
    // Virtual against resident: places for millions, pages for those that live or are kept ready.
    let secrets: Vec<_> = (0..100).map(key_of).collect();
    core::mem::forget(key_of(9));
    let isolated = *report().isolated();
    assert!(isolated.reserved_bytes > 1 << 30, "{isolated}");
    assert_eq!((isolated.live, isolated.resident_bytes), (101, 101 * PAGE_BYTES), "{isolated}");
    drop(secrets);
    oubliette::trim();
    let isolated = *report().isolated();
    assert_eq!(
        (isolated.live, isolated.resident_bytes),
        (1, PAGE_BYTES),
        "the one that was leaked: {isolated}"
    );
    let printed = report().to_string();
    for text in ["virtual: reserved", "memory:  resident 4096,", "leaked 1 (8192 bytes)"] {
        assert!(printed.contains(text), "{text}: {printed}");
    }
    purge();
    assert!(kept.iter().chain(lost.iter()).all(|&byte| byte == 0));
    kept.fill(8);
    drop(kept);
    assert_eq!(report().isolated().runs, 1);
}

#[test]
fn purge_meets_threads_that_open_and_drop() {
    child::run("purge_beside_threads", "").assert_success();
}

fn purge_beside_threads() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut secrets: Vec<IsolatedBox<Key>> = (0..40).map(|_| key_of(3)).collect();
                let mut at = 0;
                while !stop.load(Ordering::Relaxed) {
                    at = (at + 7) % secrets.len();
                    secrets[at].open_mut().unwrap()[1] = 4;
                    let open = secrets[at].open().unwrap();
                    assert!(open[1] == 4 || open[1] == 0);
                    drop(open);
                    secrets[at] = key_of(5);
                }
            });
        }
        for _ in 0..300 {
            purge();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Places change hands and size, and are given back, while a purge is at them.
#[test]
fn purge_meets_threads_that_give_places_back() {
    child::run("purge_beside_trim", "").assert_success();
}

fn purge_beside_trim() {
    use std::sync::atomic::{AtomicBool, Ordering};
    const MORE: std::time::Duration = std::time::Duration::from_millis(1500);
    let stop = AtomicBool::new(false);
    let until = std::time::Instant::now() + MORE;
    std::thread::scope(|scope| {
        for thread in 0..3 {
            scope.spawn(move || {
                while std::time::Instant::now() < until {
                    // Two sizes of one class: a place of one has to be made anew for the other.
                    drop(IsolatedBox::<[u8; 80_000]>::new_with(|bytes| bytes[1] = 1).unwrap());
                    drop(IsolatedBox::<[u8; 120_000]>::new_with(|bytes| bytes[1] = 1).unwrap());
                    if thread == 0 {
                        oubliette::trim();
                    }
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                purge();
            }
        });
        while std::time::Instant::now() < until {
            purge();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Hidden slabs lose their files when they are given back: not under a purge.
#[test]
fn purge_meets_threads_that_give_hidden_slabs_back() {
    child::run("purge_beside_hidden", "").assert_success();
}

fn purge_beside_hidden() {
    const MORE: std::time::Duration = std::time::Duration::from_millis(1500);
    if let Err(error) = oubliette::set_secret_backing(oubliette::Backing::Hidden) {
        return skip::impossible(&error.to_string());
    }
    // So that lines are left to be written back, by whoever flushes.
    oubliette::set_secret_flush(oubliette::Flush::Bounded);
    let until = std::time::Instant::now() + MORE;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while std::time::Instant::now() < until {
                    let slab: Vec<_> =
                        (0..8).map(|_| oubliette::SecretBox::<[u8; 7000]>::random().unwrap()).collect();
                    drop(slab);
                    oubliette::trim();
                }
            });
        }
        while std::time::Instant::now() < until {
            purge();
            oubliette::flush();
        }
    });
}

#[test]
fn opening_and_writing_a_secret_faults_no_page() {
    // One or two for the code and the stack of this very test.
    assert!(child::fewest_faults("faults", "").is_some_and(|faults| faults <= 2));
}

fn faults() {
    const ROUNDS: usize = 500_000;
    let mut secrets = Vec::with_capacity(100);
    IsolatedBox::<Key>::reserve(100).unwrap();
    assert_eq!(report().isolated().ready, 100);
    // Once through the code, so that it is in memory as well.
    drop(key_of(1));
    minor_faults();
    let before = minor_faults();
    secrets.extend((0..100).map(key_of));
    for round in 0..ROUNDS {
        secrets[round % 100].open_mut().unwrap()[0] = 1;
        assert_eq!(secrets[(round + 50) % 100].open().unwrap()[1], ((round + 50) % 100) as u8);
    }
    secrets.clear();
    println!("faults {}", minor_faults() - before);
    assert_eq!(report().isolated().ready, 100, "kept");
}

/// A parent and its child may have the same process id, each in a namespace of its own. Their pins are not the same.
#[test]
fn pins_are_told_apart_across_pid_namespaces() {
    child::run("pid_namespaces", "").assert_success();
}

fn pid_namespaces() {
    if !probe::has_io_uring() {
        return skip::impossible("no io_uring: nothing can be pinned");
    }
    // SAFETY: changes the namespace of later children only (unshare(2)).
    let enter = || unsafe { libc::unshare(libc::CLONE_NEWPID) } == 0;
    if !enter() {
        return skip::not_set_up("no namespace to be had");
    }
    let end = in_child(|| {
        let pinned = || {
            let pages = GuardedPages::<Secret>::new(100).unwrap();
            assert_eq!((std::process::id(), pages.is_pinned()), (1, true));
            pages
        };
        let mut outer = Some(pinned());
        let other = pinned();
        assert!(enter());
        let end = in_child(|| {
            let outer = outer.take().unwrap();
            assert!(!outer.is_pinned(), "the parent's pin is none of its child's");
            let inner = pinned();
            drop((outer, inner));
        });
        assert_eq!(end, ChildEnd::Done);
        assert!(outer.take().unwrap().is_pinned() && other.is_pinned());
        assert!(pinned().is_pinned());
    });
    assert_eq!(end, ChildEnd::Done);
}

#[test]
fn lost_pins_are_noticed() {
    child::run("lost_pins", "").assert_success();
}

fn lost_pins() {
    if !probe::has_io_uring() {
        return skip::impossible("no io_uring: nothing can be pinned");
    }
    let secret = key_of(1);
    assert!(!report().isolated().steps_down.is_pin_lost);
    // As daemons do. Rings are kept out of the low numbers.
    for descriptor in 3..65_536 {
        // SAFETY: this process plays a role in which nothing else uses a descriptor.
        unsafe { libc::close(descriptor) };
    }
    assert!(report().isolated().steps_down.is_pin_lost);
    assert!(secret.open().unwrap() == [1; 32]);
    drop(secret);
    assert!(key_of(2).open().unwrap() == [2; 32]);
}
