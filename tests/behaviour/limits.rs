//! Machines that offer less: no locked memory, no rings, no guard markers, little address space. Secrets then
//! get what they promise or an `Error`; the program's heap goes on and says in `report()` what it gave up.

use std::alloc::GlobalAlloc;

use oubliette::{Backing, Error, Flush, HeapReport, Oubliette, Policy, SecretBox, SecretVec, report};

use crate::support::block::{allocate, free, layout};
use crate::support::child::{self, Ended, Role};
use crate::support::limits::{self, Resource};
use crate::support::seccomp::{Denied, deny};
use crate::support::{pages, pattern, skip};

pub(crate) const ROLES: &[Role] = &[
    ("no_memlock", |_| without_locked_memory()),
    ("little_memlock", |_| with_little_locked_memory()),
    ("no_rings", |_| without_rings()),
    ("no_guards", |_| without_guard_markers()),
    ("old_kernel", |_| on_an_old_kernel()),
    ("little_address_space", |_| with_little_address_space()),
    ("no_address_space", |_| without_address_space()),
    ("no_files", |_| without_descriptors_for_hidden_memory()),
];

type Key = SecretBox<[u8; 32]>;

fn key() -> Result<Key, Error> {
    Key::new_with(|bytes| pattern::fill(bytes, 1))
}

/// Plays a role that must come to its end, or says why this machine cannot play it.
#[track_caller]
fn play(role: &str) -> Option<Ended> {
    let ended = child::run(role, "");
    ended.assert_success();
    match ended.said("skipped") {
        Some(why) => {
            skip::not_set_up(why);
            None
        }
        None => Some(ended),
    }
}

#[test]
fn without_locked_memory_a_secret_is_an_error_and_a_program_goes_on() {
    let Some(ended) = play("no_memlock") else { return };
    let error = ended.said("error").unwrap();
    assert!(error.contains("RLIMIT_MEMLOCK is 0 bytes"), "{error}");
    assert!(error.contains("ulimit -l"), "{error}");
}

fn without_locked_memory() {
    if let Err(refused) = limits::as_ordinary_user(0) {
        return println!("skipped {}", refused.0);
    }
    let error = key().unwrap_err();
    println!("error {error}");
    assert!(matches!(error, Error::LockLimit { limit_bytes: 0, .. }), "{error:?}");
    assert!(matches!(SecretVec::<u8>::new_with(100_000, |_| ()), Err(Error::LockLimit { .. })));
    exercise_program_heap();
    assert!(!is_locked(program_block()));
    let program = program_report();
    assert!(program.steps_down.not_locked > 0 && program.steps_down.not_locked_bytes > 0, "{program:?}");
    assert_eq!(program.locked_bytes, 0);
    assert_eq!(report().lock_limit().soft_bytes, Some(0));
    assert_eq!(report().lock_limit().left_bytes, Some(0));
}

#[test]
fn with_little_locked_memory_the_program_leaves_room_or_secrets_say_so() {
    play("little_memlock");
}

fn with_little_locked_memory() {
    if let Err(refused) = limits::as_ordinary_user(256 * 1024) {
        return println!("skipped {}", refused.0);
    }
    let mut keys = Vec::new();
    let error = loop {
        match key() {
            Ok(key) if keys.len() < 100_000 => keys.push(key),
            Ok(_) => panic!("no end of secrets"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::LockLimit { .. }), "{error:?}");
    assert!(keys.iter().all(|key| pattern::matches(key.expose(), 1)));
    assert!(keys.len() > 500, "{}", keys.len());
    exercise_program_heap();
    let secrets = secrets_report();
    assert_eq!(secrets.steps_down.not_locked, 0, "secrets do without nothing: {secrets:?}");
    assert_eq!(secrets.live_blocks, keys.len());
}

#[test]
fn without_rings_a_secret_is_locked_and_not_called_pinned() {
    if !limits::allow_secrets() {
        return;
    }
    play("no_rings");
}

fn without_rings() {
    if !filtered(&[Denied::IO_URING]) {
        return;
    }
    let key = key().unwrap();
    assert!(is_locked(key.expose().as_ptr()));
    let large = SecretVec::<u8>::new_with(100_000, |bytes| pattern::fill(bytes, 2)).unwrap();
    assert!(is_locked(large.expose().as_ptr()));
    let secrets = secrets_report();
    assert!(secrets.steps_down.not_pinned > 0, "{secrets:?}");
    assert_eq!(secrets.steps_down.not_pinned_errno, libc::EPERM);
    assert_eq!(secrets.pinned_bytes, 0);
    assert!(secrets.locked_bytes > 0);
    assert!(!secrets.to_string().contains("locked, pinned"), "{secrets}");
    exercise_program_heap();
}

#[test]
fn without_guard_markers_there_are_guards_all_the_same() {
    if !limits::allow_secrets() {
        return;
    }
    play("no_guards");
    let ended = child::run("no_guards", "and_run_away");
    assert_eq!(ended.signal(), Some(libc::SIGSEGV), "{ended:?}");
}

fn without_guard_markers() {
    if !filtered(&[Denied::GUARD_INSTALL, Denied::GUARD_INSTALL_BATCHED]) {
        return;
    }
    let keys: Vec<Key> = (0..5000).map(|_| key().unwrap()).collect();
    assert!(keys.iter().all(|key| is_locked_quickly(key) && pattern::matches(key.expose(), 1)));
    exercise_program_heap();
    assert!(secrets_report().steps_down.guards_by_mprotect > 0, "{:?}", secrets_report());
    assert!(program_report().steps_down.guards_by_mprotect > 0, "{:?}", program_report());
    if std::env::var("OUBLIETTE_TEST_ARGUMENT").is_ok_and(|argument| argument == "and_run_away") {
        let start = keys[0].expose().as_ptr().cast_mut();
        for offset in 0..128 * 1024 {
            // SAFETY: none: the guard page behind the slab must end this.
            unsafe { start.wrapping_add(offset).write_volatile(0x41) };
        }
    }
}

#[test]
fn on_a_kernel_that_knows_none_of_it() {
    if !limits::allow_secrets() {
        return;
    }
    play("old_kernel");
}

fn on_an_old_kernel() {
    let all = [
        Denied::IO_URING,
        Denied::GUARD_INSTALL,
        Denied::PROCESS_MADVISE,
        Denied::MLOCK2,
        Denied::DONTNEED_LOCKED,
    ];
    if !filtered(&all) {
        return;
    }
    let keys: Vec<Key> = (0..5000).map(|_| key().unwrap()).collect();
    assert!(keys.iter().all(|key| is_locked_quickly(key) && pattern::matches(key.expose(), 1)));
    drop(keys);
    assert!(key().is_ok());
    exercise_program_heap();
}

#[test]
fn with_little_address_space_everything_works() {
    if !limits::allow_secrets() {
        return;
    }
    play("little_address_space");
}

fn with_little_address_space() {
    if !under_address_space(256 << 20) {
        return;
    }
    let keys: Vec<Key> = (0..5000).map(|_| key().unwrap()).collect();
    assert!(keys.iter().all(|key| pattern::matches(key.expose(), 1)));
    exercise_program_heap();
    // The range is smaller than it would be, and that is to be seen.
    assert!(secrets_report().reserved_bytes < 256 << 20, "{:?}", secrets_report());
}

#[test]
fn without_address_space_there_is_an_error() {
    play("no_address_space");
}

fn without_address_space() {
    static HEAP: Oubliette = Oubliette::new();
    if !under_address_space(1 << 20) {
        return;
    }
    assert!(matches!(key(), Err(Error::AddressSpace { .. })), "{:?}", key());
    // SAFETY: the size is not zero.
    let block = unsafe { HEAP.alloc(layout(1 << 30, 8)) };
    assert!(block.is_null());
    println!("{}", report());
}

fn secrets_report() -> HeapReport {
    *report().secrets().unwrap()
}

fn program_report() -> HeapReport {
    *report().heap(Policy::PROGRAM).unwrap()
}

/// Applies a filter, or says why there is none.
fn filtered(rules: &[Denied]) -> bool {
    deny(rules).inspect_err(|error| println!("skipped no seccomp filter: {error}")).is_ok()
}

/// Leaves this process so much address space beyond what it has.
fn under_address_space(more_bytes: usize) -> bool {
    let bytes = limits::status_bytes("VmSize") + more_bytes;
    limits::set(Resource::AddressSpace, bytes as u64)
        .inspect_err(|error| println!("skipped no limit of address space: {error}"))
        .is_ok()
}

fn is_locked(block: *const u8) -> bool {
    pages::mapping_at(block.addr()).has("lo")
}

/// For many: reading `smaps` for each would take minutes.
fn is_locked_quickly(key: &Key) -> bool {
    thread_local! {
        static LOCKED: Vec<std::ops::Range<usize>> = crate::support::maps::mappings_of("self")
            .unwrap().into_iter().filter(|mapping| mapping.has("lo")).map(|mapping| mapping.range).collect();
    }
    let address = key.expose().as_ptr().addr();
    LOCKED.with(|ranges| ranges.iter().any(|range| range.contains(&address)))
}

/// A live block of the program's heap. It is never freed.
fn program_block() -> *mut u8 {
    static HEAP: Oubliette = Oubliette::new();
    allocate(&HEAP, layout(64, 8))
}

/// The program's heap works in whatever is left, pinned if asked to, and still wipes.
fn exercise_program_heap() {
    static PLAIN: Oubliette = Oubliette::new();
    static PINNED: Oubliette = Oubliette::with_policy(Policy::PROGRAM.with_backing(Backing::Auto));
    let memory = pages::OwnMemory::open();
    for heap in [&PLAIN, &PINNED] {
        for size in [16, 100, 5000, 30_000, 100_000, 3 << 20] {
            let layout = layout(size, 8);
            let block = allocate(heap, layout);
            // SAFETY: allocated above, `size` bytes, used by nobody else.
            pattern::fill(unsafe { std::slice::from_raw_parts_mut(block, size) }, 3);
            // SAFETY: allocated above with this layout.
            unsafe { free(heap, block, layout) };
            assert!(memory.is_zero(block.addr(), size), "{size} bytes keep something");
        }
    }
}

/// Where hidden memory is refused to a slab, what another thread remembers of the one before can still be written back.
#[test]
fn refused_hidden_memory_leaves_lines_to_write_back() {
    play("no_files");
}

fn without_descriptors_for_hidden_memory() {
    const POLICY: Policy = Policy::SECRET.with_backing(Backing::Hidden).with_flush(Flush::Bounded);
    static HEAP: Oubliette = Oubliette::with_policy(POLICY);
    let layout = layout(1000, 8);
    // SAFETY: the layout has a size.
    let first = unsafe { HEAP.alloc(layout) };
    if first.is_null() {
        return println!("skipped no hidden memory here");
    }
    let blocks: Vec<usize> = (0..600).map(|_| allocate(&HEAP, layout).expose_provenance()).collect();
    let (done, is_done) = std::sync::mpsc::channel();
    let (end, is_over) = std::sync::mpsc::channel::<()>();
    // It frees them all, and stays.
    let other = std::thread::spawn(move || {
        for block in blocks {
            // SAFETY: allocated with this layout, and used by nobody.
            unsafe { free(&HEAP, std::ptr::with_exposed_provenance_mut(block), layout) };
        }
        // Out of free slots of its own it sends them home.
        let own = allocate(&HEAP, layout);
        // SAFETY: as above.
        unsafe { free(&HEAP, own, layout) };
        done.send(()).unwrap();
        is_over.recv().unwrap_err();
    });
    is_done.recv().unwrap();
    oubliette::trim();
    assert!(report().heaps().any(|heap| heap.pending_lines > 0), "nothing to write back");
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 1024 };
    // SAFETY: `none` is valid for a read.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const none) }, 0);
    // SAFETY: the layout has a size.
    let nr_made = (0..1000).take_while(|_| !unsafe { HEAP.alloc(layout) }.is_null()).count();
    assert!(nr_made < 600, "{nr_made} blocks without a descriptor");
    oubliette::flush();
    drop(end);
    other.join().unwrap();
}
