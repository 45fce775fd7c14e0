//! The pages that secrets live on: locked, out of dumps, zero in children, and not to be moved.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;

use oubliette::{Oubliette, SecretBox, SecretVec};

use crate::support::child::{self, Role};
use crate::support::maps::mappings_of;
use crate::support::{limits, pages, pattern, probe, skip};

pub(crate) const ROLES: &[Role] = &[
    ("flags", |_| print_flags()),
    ("collapse_secret", |_| collapse_secret()),
    ("collapse_locked", |_| collapse_locked()),
    ("faults", |_| print_faults()),
    ("large_heap", |argument| print_large_heap(argument)),
];

#[test]
fn a_secret_is_locked_and_kept_out_of_dumps_and_children() {
    if !limits::allow_secrets() {
        return;
    }
    let ended = child::run("flags", "");
    ended.assert_success();
    for size in ["32", "1000", "100000"] {
        let flags: Vec<&str> = ended.said(size).unwrap().split(' ').collect();
        for flag in ["lo", "dd", "wf", "nh"] {
            assert!(flags.contains(&flag), "{size} bytes: {flags:?} lacks {flag}");
        }
    }
    let plain: Vec<&str> = ended.said("plain").unwrap().split(' ').collect();
    assert!(!plain.contains(&"lo") && !plain.contains(&"dd") && !plain.contains(&"wf"), "{plain:?}");
}

fn print_flags() {
    let small = SecretBox::<[u8; 32]>::new_with(|bytes| pattern::fill(bytes, 1)).unwrap();
    let middle = SecretBox::<[u8; 1000]>::new_with(|bytes| pattern::fill(bytes, 2)).unwrap();
    let large = SecretVec::<u8>::new_with(100_000, |bytes| pattern::fill(bytes, 3)).unwrap();
    let plain = vec![1_u8; 100_000];
    for (name, address) in [
        ("32", small.expose().as_ptr().addr()),
        ("1000", middle.expose().as_ptr().addr()),
        ("100000", large.expose().as_ptr().addr()),
        ("plain", plain.as_ptr().addr()),
    ] {
        println!("{name} {}", pages::mapping_at(address).flags.join(" "));
    }
}

/// `MADV_COLLAPSE` moves pages into a huge page at once. For a pinned page it must give up, with EAGAIN.
#[test]
fn a_pinned_secret_cannot_be_moved() {
    if !probe::has_io_uring() {
        return skip::not_set_up("io_uring is disabled here, so nothing can be pinned");
    }
    let ended = child::run("collapse_secret", "");
    ended.assert_success();
    if ended.said("skipped").is_some() {
        return skip::not_set_up(ended.said("skipped").unwrap());
    }
    assert_eq!(ended.said("collapse"), Some("11"), "not EAGAIN: {ended:?}");
    assert_eq!(ended.said("frame"), Some("stayed"), "{ended:?}");
}

#[test]
fn control_a_page_that_is_only_locked_is_moved() {
    let ended = child::run("collapse_locked", "");
    ended.assert_success();
    if let Some(why) = ended.said("skipped") {
        return skip::impossible(why);
    }
    assert_eq!(ended.said("collapse"), Some("0"), "{ended:?}");
    assert_ne!(ended.said("frame"), Some("stayed"), "{ended:?}");
}

/// What is looked up at every `malloc` and `free`, somewhere else each time, lies on huge pages in a heap of more than
/// 32 MiB: a small heap, and one in a process that wants none, has none. Its blocks do not: a huge page has no guards.
#[test]
fn the_records_of_a_large_heap_are_on_huge_pages() {
    /// KiB of the records that are on huge pages, and of the control.
    fn huge_kib(heap: &str) -> (usize, usize) {
        let ended = child::run("large_heap", heap);
        ended.assert_success();
        assert_eq!((ended.number("damaged"), ended.number("huge_blocks")), (0, 0), "{ended:?}");
        (ended.number("huge_records"), ended.number("huge_control"))
    }
    assert_eq!((huge_kib("16 any").0, huge_kib("160 none").0), (0, 0));
    const ENOUGH_KIB: usize = 8 << 10;
    let mut at_last = (0, 0);
    // The kernel may have to move small pages first.
    let is_enough = pages::within_a_minute(|| {
        at_last = huge_kib("160 any");
        // Ten mebibytes of records in all, the last two of which a heap of 160 MiB does not fill.
        at_last.0 >= ENOUGH_KIB || at_last.1 == 0
    });
    println!("{} KiB of records on huge pages, {} KiB of the control", at_last.0, at_last.1);
    if !is_enough && at_last.1 < ENOUGH_KIB {
        return skip::impossible("the kernel has few huge pages to give, or none, or was told to give none");
    }
    assert!(is_enough, "{at_last:?}");
}

fn print_large_heap(argument: &str) {
    static HEAP: Oubliette = Oubliette::new();
    const BLOCK_BYTES: usize = 1000;
    let (mib, wish) = argument.split_once(' ').unwrap();
    let count = (mib.parse::<usize>().unwrap() << 20) / BLOCK_BYTES;
    if wish == "none" {
        // SAFETY: takes no pointer.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) }, 0);
    }
    let layout = Layout::from_size_align(BLOCK_BYTES, 16).unwrap();
    let mut blocks: Vec<NonNull<u8>> = Vec::with_capacity(count);
    for number in 0..count {
        // SAFETY: the layout has a size.
        let block = NonNull::new(unsafe { HEAP.alloc_zeroed(layout) }).unwrap();
        // SAFETY: large enough and aligned to 16.
        unsafe { block.cast::<usize>().write(number) };
        blocks.push(block);
    }
    let is_heap =
        |range: &std::ops::Range<usize>| blocks.iter().any(|block| range.contains(&block.addr().get()));
    let (mut records, mut data) = (0, 0);
    for mapping in
        mappings_of("self").unwrap().into_iter().filter(|mapping| mapping.has("hg") || mapping.has("nh"))
    {
        let huge = mapping.figures["AnonHugePages"];
        *(if is_heap(&mapping.range) { &mut data } else { &mut records }) += huge;
    }
    println!("huge_records {records}");
    println!("huge_control {}", huge_pages_elsewhere());
    println!("huge_blocks {data}");
    let mut damaged = 0;
    for (number, block) in blocks.into_iter().enumerate() {
        // SAFETY: written above.
        damaged += usize::from(unsafe { block.cast::<usize>().read() } != number);
        // SAFETY: allocated above with this layout, and not used any more.
        unsafe { HEAP.dealloc(block.as_ptr(), layout) };
    }
    println!("damaged {damaged}");
}

/// KiB of huge pages that the kernel gives for a mapping that has room for four of them, at least.
fn huge_pages_elsewhere() -> usize {
    const BYTES: usize = 5 * pages::HUGE_PAGE_BYTES;
    let mapping = pages::map(BYTES);
    if pages::advise(mapping.addr(), BYTES, libc::MADV_HUGEPAGE).is_err() {
        return 0;
    }
    pages::touch(mapping, BYTES);
    pages::mapping_at(mapping.addr()).figures["AnonHugePages"]
}

const LARGE_BYTES: usize = 4 << 20;

fn collapse_secret() {
    let secret = match SecretVec::<u8>::new_with(LARGE_BYTES, |bytes| pattern::fill(bytes, 4)) {
        Ok(secret) => secret,
        Err(error) => return println!("skipped {error}"),
    };
    let start = secret.expose().as_ptr().addr();
    let target = pages::huge_page_in(&(start..start + LARGE_BYTES)).unwrap();
    report_collapse(target, pages::collapse);
    assert!(pattern::matches(secret.expose(), 4));
}

fn collapse_locked() {
    let mapping = pages::map(LARGE_BYTES);
    let target = pages::huge_page_in(&(mapping.addr()..mapping.addr() + LARGE_BYTES)).unwrap();
    pages::advise(target, pages::HUGE_PAGE_BYTES, libc::MADV_NOHUGEPAGE).unwrap();
    // SAFETY: this range was mapped above.
    if unsafe { libc::mlock(target as *const libc::c_void, pages::HUGE_PAGE_BYTES) } != 0 {
        return println!("skipped no locked memory: {}", std::io::Error::last_os_error());
    }
    for offset in (0..pages::HUGE_PAGE_BYTES).step_by(pages::PAGE_BYTES) {
        // SAFETY: inside the mapping made above.
        unsafe { (target as *mut u8).wrapping_add(offset).write_volatile(1) };
    }
    report_collapse(target, pages::collapse_in_time);
}

/// Prints the errno of a collapse, and whether the second page of the range is still in the same frame. (The
/// first one might come to lie at the start of the new huge page by chance.)
fn report_collapse(target: usize, collapse: fn(usize, usize) -> std::io::Result<()>) {
    let before = pages::frame_of(target + pages::PAGE_BYTES);
    let result = collapse(target, pages::HUGE_PAGE_BYTES);
    let errno = result.err().map_or(0, |error| error.raw_os_error().unwrap());
    let after = pages::frame_of(target + pages::PAGE_BYTES);
    println!("collapse {errno}");
    match (before, after) {
        (Some(before), Some(after)) => println!("frame {}", if before == after { "stayed" } else { "moved" }),
        // Only root sees frames. The errno says it all.
        _ => println!("frame {}", if errno == 0 { "unknown" } else { "stayed" }),
    }
}

/// A million allocations and frees in the steady state, of sizes in slots, meet no page fault at all.
#[test]
fn a_steady_heap_meets_no_page_fault() {
    assert_eq!(child::fewest_faults("faults", ""), Some(0));
}

fn print_faults() {
    use std::alloc::GlobalAlloc;
    static HEAP: oubliette::Oubliette = oubliette::Oubliette::new();
    const PAIRS: usize = 1_000_000;
    const SIZES: [usize; 5] = [16, 48, 200, 1000, 4000];
    let mut held = [std::ptr::null_mut::<u8>(); 64];
    let mut pairs = |count: usize| {
        for i in 0..count {
            let place = i * 31 % held.len();
            let layout = crate::support::block::layout(SIZES[place % SIZES.len()], 8);
            if !held[place].is_null() {
                // SAFETY: allocated below, with the layout that belongs to this place.
                unsafe { HEAP.dealloc(held[place], layout) };
            }
            held[place] = crate::support::block::allocate(&HEAP, layout);
        }
    };
    // Everything that is made once: slabs, caches, quarantine, side tables.
    pairs(PAIRS / 2);
    let before = limits::minor_faults();
    pairs(PAIRS);
    println!("faults {}", limits::minor_faults() - before);
}
