//! Secrets sealed by real protection keys: `-cpu max` has them.

mod counting;
mod kernel;
mod touch;

use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::time::Instant;

use oubliette::{
    Error, IsolatedBox, Policy, Seal, SecretBox, SecretString, SecretVec, flush, purge, report, seal_thread,
    secret_seal, set_secret_seal, trim, unsealed,
};

use crate::check::{Check, Ended, Outcome, require};
use crate::support::fork::{ChildEnd, in_child};
use crate::support::maps::mappings_of;
use crate::support::pages::{self, PAGE_BYTES};
use crate::support::{pattern, probe};
use touch::{Fault, Touch, touch};

pub(crate) const CHECKS: &[Check] = &[
    Check::new("keys_touch_without_rights", touch_without_rights),
    Check::new("keys_kernel_honours_them", kernel::honours_them),
    Check::new("keys_and_rings", kernel::rings),
    Check::new("keys_are_a_threads_own", are_a_threads_own),
    Check::new("keys_in_a_signal_handler", in_a_signal_handler),
    Check::new("keys_nest_and_panic", nest_and_panic),
    Check::new("keys_across_fork", across_fork),
    Check::new("keys_dense_heap", dense_heap),
    Check::new("keys_purge", purge_without_rights),
    Check::new("keys_fatal_signal_wipes", kernel::fatal_signal_wipes),
    Check::new("keys_exit_wipes", kernel::exit_wipes),
    Check::new("keys_used_up", used_up),
];

/// What takes long where every change of rights makes QEMU forget the pages that it knows. `ci/keys` runs them
/// optimised, in a guest whose clock counts instructions.
pub(crate) const COSTS: &[Check] = &[
    Check::new("keys_two_million_opens", two_million_opens),
    Check::new("keys_instructions", counting::instructions),
    Check::new("keys_twelve_thousand", twelve_thousand),
];

type Key = [u8; 32];

/// Chooses keys, which this machine has.
fn begin() -> Outcome {
    match set_secret_seal(Seal::ProtectionKey) {
        Ok(()) => require(secret_seal() == Seal::ProtectionKey, || "not in force".to_owned()),
        Err(error) => Err(Ended::Skipped(error.to_string())),
    }
}

fn isolated(seed: u64) -> Result<IsolatedBox<Key>, Error> {
    IsolatedBox::new_with(|key: &mut Key| pattern::fill(key, seed))
}

fn dense(seed: u64) -> Result<SecretBox<Key>, Error> {
    SecretBox::new_with(|key: &mut Key| pattern::fill(key, seed))
}

fn address_of(secret: &IsolatedBox<Key>) -> Result<usize, Error> {
    let open = secret.open()?;
    Ok((&raw const *open).addr())
}

/// Where a dense secret lies: the reference is not followed.
fn address_of_dense<T: oubliette::Inline>(secret: &SecretBox<T>) -> usize {
    (&raw const *secret.expose()).addr()
}

/// Requires that an access is stopped by a key, and not by the page table.
#[track_caller]
fn stopped(address: usize, how: Touch) -> Outcome {
    let found = touch(address, how);
    let at = std::panic::Location::caller().line();
    require(matches!(found, Err(Fault::Key { .. })), || format!("line {at}: {how:?}: {found:?}"))
}

#[track_caller]
fn allowed(address: usize, how: Touch) -> Outcome {
    let found = touch(address, how);
    let at = std::panic::Location::caller().line();
    require(found.is_ok(), || format!("line {at}: {how:?}: {found:?}"))
}

fn touch_without_rights() -> Outcome {
    begin()?;
    let mut secret = isolated(1)?;
    let address = address_of(&secret)?;
    stopped(address, Touch::Read)?;
    stopped(address, Touch::Write)?;
    // The page table allows it, and tells the key.
    let mapping = pages::mapping_at(address);
    require(mapping.access == "rw-p", || format!("{mapping:?}"))?;
    let key = protection_key(address)?;
    require(key != 0, || "no key".to_owned())?;
    require(touch(address, Touch::Read) == Err(Fault::Key { key }), || "another key".to_owned())?;
    // The controls: memory without a key, and a guard, which is no matter of keys.
    let ordinary = Box::new(7_u8);
    allowed((&raw const *ordinary).addr(), Touch::Write)?;
    let guard = (address & !(PAGE_BYTES - 1)) + PAGE_BYTES;
    require(touch(guard, Touch::Read).is_err(), || "the guard".to_owned())?;

    let open = secret.open()?;
    allowed(address, Touch::Read)?;
    stopped(address, Touch::Write)?;
    require(pattern::matches(&*open, 1), || "the content".to_owned())?;
    drop(open);
    stopped(address, Touch::Read)?;
    let open = secret.open_mut()?;
    allowed(address, Touch::Write)?;
    require(touch(guard, Touch::Read) == Err(Fault::Other), || "the guard, while open".to_owned())?;
    drop(open);
    stopped(address, Touch::Read)?;
    let report = report();
    println!("{report}");
    let isolated = report.isolated();
    require(isolated.pinned_bytes == isolated.locked_bytes || !probe::has_io_uring(), || {
        format!("not pinned: {isolated:?}")
    })
}

/// The line `ProtectionKey:` of smaps for the mapping that holds an address (proc_pid_smaps(5)).
fn protection_key(address: usize) -> Result<u32, Ended> {
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    let mut is_here = false;
    for line in smaps.lines() {
        let range = line.split(' ').next().and_then(|word| word.split_once('-'));
        if let Some((start, end)) = range
            && let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16))
        {
            is_here = (start..end).contains(&address);
        } else if is_here && let Some(key) = line.strip_prefix("ProtectionKey:") {
            return Ok(key.trim().parse()?);
        }
    }
    Err(Ended::Failed("smaps tells no key".to_owned()))
}

fn are_a_threads_own() -> Outcome {
    begin()?;
    let (secret, other) = (isolated(1)?, isolated(2)?);
    let dense = dense(3)?;
    let (address, dense_address) = (address_of(&secret)?, address_of_dense(&dense));
    let is_open = AtomicBool::new(false);
    let is_seen = AtomicBool::new(false);
    let wait_for = |flag: &AtomicBool| {
        while !flag.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
    };
    std::thread::scope(|scope| {
        // Started before anything is open.
        let sees_nothing = scope.spawn(|| {
            wait_for(&is_open);
            stopped(address, Touch::Read)?;
            stopped(dense_address, Touch::Read)?;
            let mine = secret.open()?;
            require(pattern::matches(&*mine, 1), || "its own opening".to_owned())?;
            drop(mine);
            stopped(address, Touch::Read)?;
            is_seen.store(true, Ordering::Release);
            Ok::<(), Ended>(())
        });
        let open = secret.open()?;
        is_open.store(true, Ordering::Release);
        wait_for(&is_seen);
        require(pattern::matches(&*open, 1), || "the other thread took it away".to_owned())?;
        drop(open);
        sees_nothing.join().expect("it does not panic")
    })?;
    // A thread that is started inside an opening inherits the rights (pkeys(7)): that is what `seal_thread` is for,
    // and its own first opening does the same.
    let open = secret.open()?;
    let dense_open = dense.open();
    std::thread::scope(|scope| {
        let sealed = scope.spawn(|| {
            println!("inherited: {:?} {:?}", touch(address, Touch::Read), touch(dense_address, Touch::Read));
            seal_thread();
            stopped(address, Touch::Read)?;
            stopped(dense_address, Touch::Read)
        });
        let opened = scope.spawn(|| {
            let mine = other.open()?;
            stopped(dense_address, Touch::Read)?;
            drop(mine);
            stopped(address, Touch::Read)
        });
        let made = scope.spawn(|| {
            drop(SecretBox::<Key>::random()?);
            stopped(address, Touch::Read)?;
            stopped(dense_address, Touch::Read)
        });
        [sealed, opened, made].into_iter().try_for_each(|thread| thread.join().expect("it does not panic"))
    })?;
    require(pattern::matches(&*open, 1) && pattern::matches(&*dense_open, 3), || "this thread's".to_owned())
}

static HANDLER_SECRET: std::sync::OnceLock<IsolatedBox<Key>> = std::sync::OnceLock::new();
static HANDLER_ADDRESS: AtomicUsize = AtomicUsize::new(0);
static HANDLER_FOUND: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_signal(_: i32) {
    // The kernel starts a handler with the rights of a new process: none to our keys.
    let before = stopped(HANDLER_ADDRESS.load(Ordering::Relaxed), Touch::Read).is_ok();
    let secret = HANDLER_SECRET.get().expect("it was set");
    let inside = secret.open().is_ok_and(|open| pattern::matches(&*open, 9));
    HANDLER_FOUND.store(i32::from(before) | i32::from(inside) << 1, Ordering::Relaxed);
}

fn in_a_signal_handler() -> Outcome {
    begin()?;
    let mut secret = isolated(1)?;
    let address = address_of(&secret)?;
    HANDLER_ADDRESS.store(address, Ordering::Relaxed);
    require(HANDLER_SECRET.set(isolated(9)?).is_ok(), || "set twice".to_owned())?;
    touch::catch_faults();
    // SAFETY: under keys opening waits for nobody; the handler allocates nothing.
    unsafe { libc::signal(libc::SIGUSR1, on_signal as *const () as libc::sighandler_t) };
    for round in 0..1000_u32 {
        let mut open = secret.open_mut()?;
        // SAFETY: the handler is set.
        unsafe { libc::raise(libc::SIGUSR1) };
        open[0] = round as u8;
        require(HANDLER_FOUND.swap(0, Ordering::Relaxed) == 3, || format!("in the handler, {round}"))?;
        drop(open);
        stopped(address, Touch::Read)?;
    }
    Ok(())
}

fn nest_and_panic() -> Outcome {
    begin()?;
    let (mut one, two) = (isolated(1)?, isolated(2)?);
    let dense = dense(3)?;
    let (address, dense_address) = (address_of(&one)?, address_of_dense(&dense));
    let first = two.open()?;
    let second = one.open_mut()?;
    drop(first);
    allowed(address, Touch::Write)?;
    drop(second);
    stopped(address, Touch::Read)?;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _first = one.open_mut();
        let _second = dense.open();
        let _third = two.open();
        std::panic::resume_unwind(Box::new(()));
    }));
    require(outcome.is_err(), || "no panic".to_owned())?;
    stopped(address, Touch::Read)?;
    stopped(dense_address, Touch::Read)?;
    let outcome = catch_unwind(AssertUnwindSafe(|| unsealed(|| std::panic::resume_unwind(Box::new(())))));
    require(outcome.is_err(), || "no panic".to_owned())?;
    stopped(dense_address, Touch::Read)
}

fn across_fork() -> Outcome {
    begin()?;
    let (secret, mut dense) = (isolated(1)?, dense(2)?);
    let (address, dense_address) = (address_of(&secret)?, address_of_dense(&dense));
    touch::catch_faults();
    let open = secret.open()?;
    let ended = in_child(|| {
        assert_eq!(secret.open().err(), Some(Error::LeftBehind));
        // The guard was copied with the process: it opens, but what it opens is zeros.
        assert!(*open == [0; 32]);
        assert!(stopped(dense_address, Touch::Read).is_ok());
        assert!(dense == [0; 32]);
        dense.open_mut()[0] = 1;
        let own = isolated(5).unwrap();
        assert!(pattern::matches(&*own.open().unwrap(), 5));
        assert!(self::dense(6).is_ok_and(|own| pattern::matches(&*own.open(), 6)));
        seal_thread();
        assert!(touch(address, Touch::Read).is_ok(), "the guard is still there");
        std::thread::spawn(move || {
            seal_thread();
            assert!(stopped(address, Touch::Read).is_ok());
        })
        .join()
        .unwrap();
    });
    require(ended == ChildEnd::Done, || format!("{ended:?}"))?;
    require(pattern::matches(&*open, 1), || "the parent's".to_owned())?;
    drop(open);
    require(pattern::matches(&*dense.open(), 2), || "the parent's dense one".to_owned())?;
    drop(dense);
    stopped(address, Touch::Read)
}

fn dense_heap() -> Outcome {
    begin()?;
    let mut key = dense(1)?;
    let address = address_of_dense(&key);
    stopped(address, Touch::Read)?;
    stopped(address, Touch::Write)?;
    unsealed(|| allowed(address, Touch::Write))?;
    key.open_mut()[0] ^= 1;
    require(pattern::matches(&key.open()[1..], 1) || key.open()[1] == pattern::byte(1, 1), || {
        "the content".to_owned()
    })?;
    stopped(address, Touch::Read)?;
    // Everything that owners do by themselves.
    let copy = key.try_clone()?;
    require(copy == key, || "the copy".to_owned())?;
    let mut values = SecretVec::<u32>::new();
    for value in 0..5000 {
        values.push(value)?;
    }
    values.truncate(3);
    require(values == [0, 1, 2], || "the values".to_owned())?;
    let mut text = SecretString::take(&mut "gr\u{fc}n".to_owned())?;
    text.push('!')?;
    text.truncate(3);
    require(text == *"gr", || "the text".to_owned())?;
    drop(SecretVec::<u8>::random(1 << 20)?);
    // Freed elsewhere, reused, checked, trimmed, flushed; and by threads that end.
    std::thread::scope(|scope| {
        for thread in 0..3_u64 {
            scope.spawn(move || {
                let mut many = Vec::new();
                for round in 0..600_usize {
                    let sized = SecretVec::<u8>::random(1 + round * 7 % 5000).unwrap();
                    many.push((dense(thread).unwrap(), sized));
                    if round % 3 == 0 {
                        many.swap_remove(round % many.len());
                    }
                }
                std::thread::spawn(move || {
                    assert!(many.iter().all(|(key, _)| pattern::matches(&*key.open(), thread)));
                    drop(many);
                    trim();
                })
                .join()
                .unwrap();
                drop((0..500).map(|seed| dense(seed).unwrap()).collect::<Vec<_>>());
                flush();
            });
        }
    });
    trim();
    stopped(address, Touch::Read)?;
    let report = report();
    println!("{report}");
    let heap = report.heap(Policy::SECRET.with_seal(Seal::ProtectionKey)).expect("it was used");
    require(heap.pinned_bytes > 0 && heap.steps_down.not_pinned == 0, || format!("{:?}", heap.steps_down))?;
    drop((key, copy, values, text));
    Ok(())
}

fn purge_without_rights() -> Outcome {
    extern "C" fn on_purge(_: i32) {
        purge();
    }
    begin()?;
    // SAFETY: `purge` is async-signal-safe.
    unsafe { libc::signal(libc::SIGUSR2, on_purge as *const () as libc::sighandler_t) };
    for by_handler in [false, true] {
        let (secret, dense) = (isolated(1)?, dense(2)?);
        let large = SecretVec::<u8>::new_with(100_000, |bytes| pattern::fill(bytes, 3))?;
        let (address, dense_address) = (address_of(&secret)?, address_of_dense(&dense));
        require(kernel::peek(address)? != [0; 32], || "the control".to_owned())?;
        if by_handler {
            let open = secret.open()?;
            // SAFETY: the handler is set.
            unsafe { libc::raise(libc::SIGUSR2) };
            require(*open == [0; 32], || "the guard's own".to_owned())?;
        } else {
            purge();
        }
        require(kernel::peek(address)? == [0; 32], || "an isolated one is left".to_owned())?;
        require(kernel::peek(dense_address)? == [0; 32], || "a dense one is left".to_owned())?;
        require(large.open().iter().all(|byte| *byte == 0), || "a large one is left".to_owned())?;
        stopped(address, Touch::Read)?;
        stopped(dense_address, Touch::Read)?;
    }
    // Beside threads that open, change and drop.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut secrets: Vec<_> = (0..40).map(|_| isolated(3).unwrap()).collect();
                let mut at = 0;
                while !stop.load(Ordering::Relaxed) {
                    at = (at + 7) % secrets.len();
                    secrets[at].open_mut().unwrap()[1] = 4;
                    assert!(matches!(secrets[at].open().unwrap()[1], 0 | 4));
                    secrets[at] = isolated(5).unwrap();
                    drop(dense(6).unwrap());
                }
            });
        }
        for _ in 0..100 {
            purge();
        }
        stop.store(true, Ordering::Relaxed);
    });
    Ok(())
}

fn two_million_opens() -> Outcome {
    const OPENS: u32 = 1_000_000;
    begin()?;
    let secret = isolated(1)?;
    let address = address_of(&secret)?;
    let start = Instant::now();
    for _ in 0..OPENS {
        let open = secret.open()?;
        black_box(&*open);
    }
    let each = start.elapsed() / OPENS;
    println!("{OPENS} opens of each kind: {each:?} each");
    stopped(address, Touch::Read)?;
    let dense = dense(2)?;
    for _ in 0..OPENS {
        black_box(&*dense.open());
    }
    stopped(address_of_dense(&dense), Touch::Read)
}

/// No key is left: pages do it, and it is said.
fn used_up() -> Outcome {
    let mut taken = 0;
    // SAFETY: takes keys that nobody has (pkey_alloc(2)).
    while unsafe { libc::syscall(libc::SYS_pkey_alloc, 0, 0) } > 0 {
        taken += 1;
    }
    require(taken > 10, || format!("{taken} keys: this machine has none"))?;
    let refusal = set_secret_seal(Seal::ProtectionKey);
    require(refusal == Err(Error::NoProtectionKey { errno: libc::ENOSPC }), || format!("{refusal:?}"))?;
    require(secret_seal() == Seal::Pages, || "the seal".to_owned())?;
    let secret = isolated(1)?;
    let address = address_of(&secret)?;
    require(pages::mapping_at(address).access == "---p", || "not sealed by its pages".to_owned())?;
    require(report().seal().keys_refused_errno == Some(libc::ENOSPC), || "not reported".to_owned())
}

/// More than are given mappings of their own, where guards have marks.
fn twelve_thousand() -> Outcome {
    const SECRETS: u64 = 12_000;
    begin()?;
    // SAFETY: `limit` is valid for a read; raises the own limit, which root may.
    let raised = unsafe {
        let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit)
    };
    require(raised == 0, || "the limit of locked memory".to_owned())?;
    let mut secrets = Vec::new();
    for seed in 0..SECRETS {
        secrets.push(isolated(seed)?);
    }
    let mappings = mappings_of("self")?.len();
    println!("{mappings} mappings");
    require(mappings < 200 || !probe::has_guard_install(), || format!("{mappings} mappings"))?;
    for (seed, secret) in (0..).zip(&secrets) {
        require(pattern::matches(&*secret.open()?, seed), || format!("number {seed}"))?;
    }
    let some = address_of(&secrets[secrets.len() / 2])?;
    stopped(some, Touch::Read)?;
    let guard = (some & !(PAGE_BYTES - 1)) + PAGE_BYTES;
    let open = secrets[0].open()?;
    require(touch(guard, Touch::Read) == Err(Fault::Other), || "a guard, while open".to_owned())?;
    drop(open);
    drop(secrets);
    require(report().isolated().live == 0, || "some are left".to_owned())
}
