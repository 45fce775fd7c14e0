//! What is said to the kernel about a run of pages, and what it then does: seen from smaps, pagemap, mincore, rusage,
//! a core file, a child.
#![expect(unsafe_code, reason = "asks the kernel, and forks")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::mem_forget,
    reason = "a test may panic"
)]
#![cfg(target_os = "linux")]

#[path = "support/mod.rs"]
mod support;

use std::alloc::Layout;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

use oubliette::{Advice, Error, GuardedPages, HugePages, Ordinary, Refusal, Secret, report};
use support::child::{self, Role};
use support::fork::{ChildEnd, in_child};
use support::limits::{self, faults};
use support::machine::{HugePool, Setting, Swap, alone, beside_others, file_contains};
use support::pages::{HUGE_PAGE_BYTES, PAGE_BYTES, is_readable, mapping_at, within_a_minute};
use support::{pattern, skip};

type Pages = GuardedPages<Ordinary>;

const ROLES: &[Role] = &[
    ("swapped", |_| swapped()),
    ("dumped", |_| dumped()),
    ("forked", |_| forked()),
    ("merged", |_| merged()),
    ("huge", |_| huge()),
    ("explicit", |_| explicit()),
];

#[test]
#[ignore = "runs in a child of the other tests"]
fn role() {
    child::play(ROLES);
}

fn filled(bytes: usize) -> Pages {
    let mut pages = Pages::new(bytes).unwrap();
    pages.fill(7);
    pages
}

fn address<K: oubliette::Contents>(pages: &GuardedPages<K>) -> usize {
    pages.as_ptr().addr()
}

/// The figures in KiB that smaps has for the mapping of an address.
fn figures(address: usize) -> HashMap<String, usize> {
    mapping_at(address).figures
}

/// `Sequential`, `Random`: how the kernel reads ahead. `Cold`: the first to go.
#[test]
fn how_it_will_be_used() {
    let _beside = beside_others();
    let mut pages = filled(1 << 16);
    let at = address(&pages);
    assert!(!mapping_at(at).has("sr") && !mapping_at(at).has("rr"));
    pages.advise(Advice::Sequential).unwrap();
    assert!(mapping_at(at).has("sr"));
    pages.advise(Advice::Random).unwrap();
    assert!(mapping_at(at).has("rr") && !mapping_at(at).has("sr"));
    assert_eq!(figures(at)["Referenced"], 64);
    pages.advise(Advice::Cold).unwrap();
    assert_eq!(figures(at)["Referenced"], 0);
    assert!(pages.iter().all(|&byte| byte == 7));
}

/// `PopulateWrite`, `PopulateRead`: no fault later. `DontNeed`: fresh zeros. `Free`: the kernel's to take.
#[test]
fn pages_come_and_go() {
    let _beside = beside_others();
    let touch = |pages: &mut Pages| {
        let before = faults();
        pages.iter_mut().step_by(PAGE_BYTES).for_each(|byte| *byte = 1);
        faults() - before
    };
    let mut pages = Pages::new(64 * PAGE_BYTES).unwrap();
    pages.advise(Advice::NoHugePage).unwrap();
    assert_eq!(pages.is_resident(), Ok(false));
    pages.advise(Advice::PopulateWrite).unwrap();
    assert_eq!((pages.is_resident(), figures(address(&pages))["Anonymous"]), (Ok(true), 256));
    assert_eq!(touch(&mut pages), 0);
    pages.fill(7);
    pages.advise(Advice::DontNeed).unwrap();
    assert_eq!(pages.is_resident(), Ok(false));
    assert!(touch(&mut pages) >= 64, "the control");
    assert!(pages.iter().enumerate().all(|(i, &byte)| byte == u8::from(i % PAGE_BYTES == 0)), "zeros");

    pages.advise(Advice::DontNeed).unwrap();
    pages.advise(Advice::PopulateRead).unwrap();
    let before = faults();
    assert!(pages.iter().step_by(PAGE_BYTES).all(|&byte| byte == 0));
    assert_eq!(faults() - before, 0);
    assert_eq!(figures(address(&pages))["Anonymous"], 0, "the zero page, until it is written to");

    let mut pages = filled(4 << 20);
    assert_eq!(figures(address(&pages))["LazyFree"], 0);
    pages.advise(Advice::Free).unwrap();
    // The last batch may be freed later.
    assert!(figures(address(&pages))["LazyFree"] > 2048);

    let mut key = GuardedPages::<Secret>::new(5000).unwrap();
    key.fill(7);
    key.advise(Advice::DontNeed).unwrap();
    assert!(key.iter().all(|&byte| byte == 0));
    assert_eq!(key.advise(Advice::PopulateWrite), Ok(()));
    assert_eq!(key.is_resident(), Ok(true));
}

/// `PageOut`, `WillNeed`. In a process of its own, since swapping is the whole machine's affair.
#[test]
fn written_to_swap_and_read_back() {
    let _alone = alone();
    child::run("swapped", "").assert_success();
}

fn swapped() {
    const BYTES: usize = 1 << 20;
    let swap = match Swap::on(16 << 20) {
        Ok(swap) => swap,
        Err(error) => return skip::not_set_up(&format!("no swap file: {error}")),
    };
    let mut pages = filled(BYTES);
    let mut key = GuardedPages::<Secret>::new(BYTES).unwrap();
    key.fill(7);
    let at = address(&pages);
    assert!(within_a_minute(|| {
        pages.advise(Advice::PageOut).unwrap();
        figures(at)["Swap"] == BYTES / 1024
    }));
    // A secret cannot be told to go (it does not compile), and does not go.
    assert_eq!((key.is_resident(), figures(address(&key))["Swap"]), (Ok(true), 0));
    if swap.is_immediate() {
        assert_eq!(pages.is_resident(), Ok(false));
    }
    pages.advise(Advice::WillNeed).unwrap();
    assert!(within_a_minute(|| pages.is_resident() == Ok(true)), "in memory before anybody touched it");
    assert!(pages.iter().all(|&byte| byte == 7));
    assert_eq!(figures(at)["Swap"], 0);
}

/// `DontDump`, `DoDump`, in a core file of a child that aborts.
#[test]
fn left_out_of_a_core_file() {
    let form = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if !limits::may_have_core_file() {
        return skip::not_set_up("the hard limit of core files is 0");
    }
    // A pipe or a path belongs to the machine's own crash handling.
    if form.trim().contains(['|', '/']) {
        return skip::impossible("core files of this machine go elsewhere");
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("core-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let mut command = child::command("dumped", "");
    command.current_dir(&folder);
    let ended = child::run_command(command);
    let core = fs::read_dir(&folder)
        .unwrap()
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("core"));
    let in_core =
        |seed| core.as_ref().map(|core| file_contains(&core.path(), &pattern::secret(seed, 32)).unwrap());
    let found = [PLAIN, LEFT_OUT, PUT_BACK, KEY].map(in_core);
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(ended.signal(), Some(libc::SIGABRT), "{ended:?}");
    assert_eq!(
        found,
        [Some(true), Some(false), Some(true), Some(false)],
        "plain, left out, put back, a secret"
    );
}

const PLAIN: u64 = 1;
const LEFT_OUT: u64 = 2;
const PUT_BACK: u64 = 3;
const KEY: u64 = 4;

fn dumped() {
    limits::allow_core_file();
    // The end must not wipe what the core file is to be searched for.
    oubliette::set_wipe_at_end(oubliette::WipeAtEnd::Never);
    let pages = |seed| {
        let mut pages = Pages::new(32).unwrap();
        pattern::fill(&mut pages, seed);
        pages
    };
    let _plain = pages(PLAIN);
    let mut left_out = pages(LEFT_OUT);
    left_out.advise(Advice::DontDump).unwrap();
    let mut put_back = pages(PUT_BACK);
    put_back.advise(Advice::DontDump).unwrap();
    put_back.advise(Advice::DoDump).unwrap();
    let mut key = GuardedPages::<Secret>::new(32).unwrap();
    pattern::fill(&mut key, KEY);
    std::process::abort();
}

/// `DontFork`, `DoFork`, `WipeOnFork`, `KeepOnFork`.
#[test]
fn what_a_child_finds() {
    child::run("forked", "").assert_success();
}

fn forked() {
    let after = |said: &[Advice<Ordinary>]| {
        let mut pages = filled(100);
        said.iter().for_each(|&advice| pages.advise(advice).unwrap());
        in_child(move || {
            let byte = std::hint::black_box(pages[0]);
            core::mem::forget(pages);
            assert_eq!(byte, 7);
        })
    };
    assert_eq!(after(&[]), ChildEnd::Done, "the control");
    assert_eq!(after(&[Advice::WipeOnFork]), ChildEnd::Panicked, "zeros");
    assert_eq!(after(&[Advice::WipeOnFork, Advice::KeepOnFork]), ChildEnd::Done);
    assert_eq!(after(&[Advice::DontFork]), ChildEnd::Signal(libc::SIGSEGV));
    assert_eq!(after(&[Advice::DontFork, Advice::DoFork]), ChildEnd::Done);
}

/// `Mergeable`, `Unmergeable`: equal pages become one, and part again.
#[test]
fn equal_pages_are_merged_on_request() {
    let _alone = alone();
    child::run("merged", "").assert_success();
}

fn merged() {
    const PAGES: usize = 256;
    let set = [("pages_to_scan", "10000"), ("sleep_millisecs", "5"), ("run", "1")];
    let paths =
        ["/sys/kernel/mm/ksm/pages_to_scan", "/sys/kernel/mm/ksm/sleep_millisecs", "/sys/kernel/mm/ksm/run"];
    let settings: Result<Vec<_>, _> =
        paths.iter().zip(set).map(|(path, (_, value))| Setting::set(path, value)).collect();
    let Ok(_settings) = settings else { return skip::not_set_up("KSM cannot be set") };
    let mut pages = filled(PAGES * PAGE_BYTES);
    let mut key = GuardedPages::<Secret>::new(PAGES * PAGE_BYTES).unwrap();
    key.fill(7);
    let merged = |at| figures(at).get("KSM").copied();
    let at = address(&pages);
    if merged(at).is_none() {
        return skip::impossible("smaps does not tell of merged pages (Linux 6.6)");
    }
    pages.advise(Advice::Mergeable).unwrap();
    assert!(mapping_at(at).has("mg"));
    assert!(within_a_minute(|| merged(at) >= Some(PAGES * 3)), "{:?} KiB merged", merged(at));
    assert_eq!(merged(address(&key)), Some(0), "equal, but secret");
    pages.advise(Advice::Unmergeable).unwrap();
    assert_eq!((merged(at), mapping_at(at).has("mg")), (Some(0), false));
    assert!(pages.iter().chain(key.iter()).all(|&byte| byte == 7));
}

/// `HugePage`, `NoHugePage`, `Collapse`, and runs that are made of huge pages.
#[test]
fn huge_where_they_were_asked_for() {
    let _alone = alone();
    child::run("huge", "").assert_success();
}

fn huge() {
    const BYTES: usize = 4 * HUGE_PAGE_BYTES;
    let huge_kib = |at| figures(at)["AnonHugePages"];
    let layout = Layout::from_size_align(BYTES, 1).unwrap();
    let mut pages = Pages::with_huge_pages(layout, HugePages::Transparent).unwrap();
    assert_eq!((address(&pages) % HUGE_PAGE_BYTES, pages.page_bytes()), (0, BYTES));
    pages.fill(7);
    if huge_kib(address(&pages)) == 0 {
        return skip::impossible("the kernel has no huge page to give, or was told to give none");
    }
    // It may have to move small pages first, and gives one of these for now.
    assert!(within_a_minute(|| {
        pages.discard().unwrap();
        pages.fill(7);
        huge_kib(address(&pages)) == BYTES / 1024
    }));
    pages.advise(Advice::NoHugePage).unwrap();
    pages.discard().unwrap();
    pages.fill(7);
    assert_eq!(huge_kib(address(&pages)), 0, "the control");
    pages.advise(Advice::HugePage).unwrap();
    let mut collapsed = Ok(());
    within_a_minute(|| {
        collapsed = pages.advise(Advice::Collapse);
        // Something held one of the pages just then.
        collapsed != Err(Error::Refused(Refusal::CannotMove))
    });
    assert_eq!(collapsed, Ok(()));
    assert_eq!(huge_kib(address(&pages)), BYTES / 1024);
    assert!(pages.iter().all(|&byte| byte == 7));
    assert_eq!(filled(PAGE_BYTES).advise(Advice::Collapse), Err(Error::Refused(Refusal::NoHugePageFits)));

    // Not as long as a whole number of them: the block ends at the guard, and the rest is slack.
    let layout = Layout::from_size_align(100_000, 16).unwrap();
    let new = || {
        let mut key = GuardedPages::<Secret>::with_huge_pages(layout, HugePages::Transparent).unwrap();
        key.fill(7);
        key
    };
    let mut key = new();
    assert!(within_a_minute(|| {
        key = new();
        huge_kib(address(&key)) == HUGE_PAGE_BYTES / 1024
    }));
    let at = address(&key);
    assert_eq!((key.page_bytes(), (at + 100_000) % HUGE_PAGE_BYTES), (HUGE_PAGE_BYTES, 0));
    assert!(mapping_at(at + 100_000).access.starts_with("---") || !is_readable(at + 100_000));
    assert!(!is_readable(at - at % HUGE_PAGE_BYTES - 1), "the guard in front");
    assert_eq!(key.is_locked(), Ok(true));
    for flag in ["lo", "dd", "wf"] {
        assert!(mapping_at(at).has(flag), "{flag}");
    }
}

/// Huge pages of the system's pool, and what is said when it has too few.
#[test]
fn huge_pages_of_the_pool() {
    let _alone = alone();
    child::run("explicit", "").assert_success();
}

fn explicit() {
    const COUNT: usize = 4;
    const FAR_TOO_MANY: usize = 1 << 40;
    let make = |bytes| {
        let layout = Layout::from_size_align(bytes, 1).unwrap();
        (
            Pages::with_huge_pages(layout, HugePages::Explicit),
            GuardedPages::<Secret>::with_huge_pages(layout, HugePages::Explicit),
        )
    };
    let (refused, refused_secret) = make(FAR_TOO_MANY);
    for error in [refused.unwrap_err(), refused_secret.unwrap_err()] {
        assert_eq!(error, Error::HugePages { needed_bytes: FAR_TOO_MANY });
        assert!(error.to_string().contains("vm.nr_hugepages"), "{error}");
    }
    let pool = match HugePool::add(2 * COUNT) {
        Ok(pool) => pool,
        Err(error) => return skip::not_set_up(&format!("no huge pages to be had: {error}")),
    };
    let (pages, key) = make(COUNT * HUGE_PAGE_BYTES);
    let (mut pages, mut key) = (pages.unwrap(), key.unwrap());
    for bytes in [&mut pages[..], &mut key[..]] {
        bytes.fill(7);
        let at = bytes.as_ptr().addr();
        let figures = figures(at);
        assert_eq!((figures["KernelPageSize"], figures["Private_Hugetlb"]), (2048, COUNT * 2048));
        assert!(!is_readable(at - 1) && !is_readable(at + bytes.len()), "guards");
    }
    assert_eq!(figures(address(&filled(100)))["KernelPageSize"], 4, "the control");
    assert_eq!(report().isolated().run_bytes, COUNT * HUGE_PAGE_BYTES);
    assert!(mapping_at(address(&key)).has("dd"));
    pages.discard().unwrap();
    key.discard().unwrap();
    assert!(pages.iter().chain(key.iter()).all(|&byte| byte == 0));
    key.fill(7);
    let mut both = Some((pages, key));
    let end = in_child(|| {
        let (pages, key) = both.take().unwrap();
        assert!(pages.iter().all(|&byte| byte == 0));
        drop((pages, key));
    });
    assert_eq!(end, ChildEnd::Done);
    let end = in_child(|| {
        oubliette::set_wipe_at_end(oubliette::WipeAtEnd::Never);
        std::hint::black_box(both.as_ref().unwrap().1[0]);
    });
    assert_eq!(end, ChildEnd::Signal(libc::SIGSEGV), "a child has none of the secret");
    assert!(both.take().unwrap().1.iter().all(|&byte| byte == 7));
    drop(pool);
}
