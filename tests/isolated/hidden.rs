//! Hidden memory: who cannot read it, who does not inherit it, and what is said where there is none.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use oubliette::{
    Advice, Backing, Error, Flush, GuardedPages, IsolatedBox, Policy, Refusal, Secret, SecretBox, SecretVec,
    purge, report, set_secret_backing, set_secret_flush, trim,
};

use super::support::child::{self, Role};
use super::support::fork::{ChildEnd, in_child};
use super::support::limits::{as_ordinary_user, is_root, status_bytes};
use super::support::pages::{PAGE_BYTES, mapping_at};
use super::support::ring::Ring;
use super::support::seccomp::{Denied, deny};
use super::support::{foreign, probe, skip};
use super::{Key, address_of, key_of, try_key_of};

pub(super) const ROLES: &[Role] = &[
    ("hidden_target", target),
    ("hidden_io", io_from),
    ("hidden_forks", |_| forks()),
    ("hidden_races", |_| races()),
    ("hidden_refused", refused),
    ("hidden_limit", |_| limit()),
    ("hidden_many", |_| many()),
    ("hidden_dense", |_| dense()),
    ("hidden_isolated", |_| isolated()),
    ("hidden_runs", |_| runs()),
    ("hidden_late", |_| late()),
    ("hidden_fault", |_| touched_by_a_child()),
];

/// Plays a role if this machine has hidden memory.
fn play(role: &str, argument: &str) {
    if !probe::has_memfd_secret() {
        return skip::impossible("no memfd_secret: nothing can be hidden");
    }
    child::run(role, argument).assert_success();
}

fn hide() {
    set_secret_backing(Backing::Hidden).unwrap();
}

/// One secret of each kind, open.
struct Kinds {
    isolated: IsolatedBox<Key>,
    dense: SecretBox<Key>,
    large: SecretVec<u8>,
    pages: GuardedPages<Secret>,
}

const BYTE: u8 = 0x5a;

impl Kinds {
    fn new() -> Self {
        let mut large = SecretVec::with_capacity(100_000).unwrap();
        large.extend_from_slice(&[BYTE; 100_000]).unwrap();
        let mut pages = GuardedPages::new(5000).unwrap();
        pages.fill(BYTE);
        Self {
            isolated: key_of(BYTE),
            dense: SecretBox::new_with(|key: &mut Key| key.fill(BYTE)).unwrap(),
            large,
            pages,
        }
    }

    fn addresses(&self) -> [usize; 4] {
        [
            address_of(&self.isolated),
            self.dense.expose().as_ptr().addr(),
            self.large.expose().as_ptr().addr(),
            self.pages.as_ptr().addr(),
        ]
    }

    fn are_intact(&self) -> bool {
        let is_whole = |bytes: &[u8]| bytes.iter().all(|&byte| byte == BYTE);
        is_whole(&*self.isolated.open().unwrap())
            && is_whole(self.dense.expose())
            && is_whole(self.large.expose())
            && is_whole(&self.pages)
    }
}

#[test]
fn nobody_else_reads_it() {
    if !probe::has_memfd_secret() {
        return skip::impossible("no memfd_secret: nothing can be hidden");
    }
    for backing in ["hidden", "locked"] {
        let mut target = child::start("hidden_target", backing);
        let mut lines = BufReader::new(target.stdout.take().unwrap()).lines();
        let mut found = 0;
        for line in lines.by_ref().map(|line| line.unwrap()) {
            let Some(address) = line.strip_prefix("at ") else {
                if line == "ready" {
                    break;
                }
                continue;
            };
            for (way, result) in foreign::read_by_every_way(target.id(), address.parse().unwrap()) {
                match (backing, result) {
                    ("hidden", Err(error)) => {
                        let errno = error.raw_os_error();
                        assert!(errno == Some(libc::EIO) || errno == Some(libc::EFAULT), "{way}: {error}");
                    }
                    // The control: the same ways see what is only locked, sealed or not.
                    ("locked", Ok(bytes)) => assert_eq!(bytes, [BYTE; 8], "{way}"),
                    // Sealed pages are no obstacle to a debugger, but they are to process_vm_readv.
                    ("locked", Err(_)) if way == "process_vm_readv" && found < 3 => {}
                    (_, result) => panic!("{backing} by {way}: {result:?}"),
                }
                found += 1;
            }
        }
        assert_eq!(found, 12, "four secrets by three ways");
        drop(target.stdin.take());
        assert!(lines.all(|line| line.is_ok()), "to its end");
        child::end(target).assert_success();
    }
}

fn target(backing: &str) {
    set_secret_backing(if backing == "hidden" { Backing::Hidden } else { Backing::Locked }).unwrap();
    let kinds = Kinds::new();
    for address in kinds.addresses() {
        println!("at {address}");
    }
    println!("ready");
    io::stdin().read_line(&mut String::new()).unwrap();
    assert!(kinds.are_intact());
}

#[test]
fn no_device_reads_it() {
    play("hidden_io", "hidden");
    play("hidden_io", "locked");
}

/// What goes around the processor: `O_DIRECT`, and a ring's fixed buffers.
fn io_from(backing: &str) {
    let is_hidden = backing == "hidden";
    set_secret_backing(if is_hidden { Backing::Hidden } else { Backing::Locked }).unwrap();
    let refused = |what: &str, result: io::Result<usize>| match result {
        Err(error) if is_hidden => assert_eq!(error.raw_os_error(), Some(libc::EFAULT), "{what}"),
        Ok(_) if !is_hidden => {}
        result => panic!("{what}, {backing}: {result:?}"),
    };
    let secret = IsolatedBox::<[u8; PAGE_BYTES]>::new_with(|bytes| bytes.fill(BYTE)).unwrap();
    let mut secret = secret;
    // A fixed buffer must be writable.
    let open = secret.open_mut().unwrap();
    let at = open.as_ptr().addr();
    let path =
        std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("direct-{}", std::process::id()));
    let opened =
        OpenOptions::new().create(true).read(true).write(true).custom_flags(libc::O_DIRECT).open(&path);
    let ring = Ring::new();
    if let Ok(direct) = &opened {
        fs::remove_file(&path).unwrap();
        refused("O_DIRECT", direct.write_at(&*open, 0));
    } else {
        skip::impossible("no O_DIRECT in the folder of the tests");
    }
    let Ok(mut ring) = ring else { return skip::impossible("no io_uring") };
    refused("a fixed buffer", ring.register(at, PAGE_BYTES).map(|()| 0));
    if let Ok(direct) = &opened {
        refused("a ring and O_DIRECT", ring.write(direct, at, PAGE_BYTES as u32));
    }
    // A plain write copies by the processor, in this process's own name: as a store it could make itself.
    let plain = File::from(pipe_writer());
    assert_eq!(ring.write(&plain, at, 8).unwrap(), 8);
    assert_eq!((&plain).write(&open[..8]).unwrap(), 8);
}

/// The end of a pipe whose other end is never closed.
fn pipe_writer() -> std::os::fd::OwnedFd {
    let mut pipe = [0; 2];
    // SAFETY: `pipe` is valid for two descriptors.
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
    // SAFETY: made above, and nobody else knows it.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(pipe[1]) }
}

#[test]
fn a_child_does_not_inherit_it() {
    play("hidden_forks", "");
}

fn forks() {
    hide();
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    let kinds = Kinds::new();
    let addresses = kinds.addresses();
    for at in addresses {
        let mapping = mapping_at(at);
        assert!(mapping.name.contains("secretmem"), "{mapping:?}");
        for flag in ["lo", "dd", "dc"] {
            assert!(mapping.has(flag), "{flag}: {mapping:?}");
        }
    }
    // Guards on both sides are no part of the file.
    for page in [addresses[0] - PAGE_BYTES, addresses[0] + 32] {
        let guard = mapping_at(page);
        assert!(guard.access.starts_with("---") && guard.name.is_empty(), "{guard:?}");
    }
    assert_eq!(descriptors(), before, "no descriptor is kept");
    let mut inherited = Some(kinds);
    let end = in_child(|| {
        let kinds = inherited.take().unwrap();
        assert!(!fs::read_to_string("/proc/self/maps").unwrap().contains("secretmem"));
        assert!(matches!(kinds.isolated.open(), Err(Error::LeftBehind)));
        assert_eq!(report().hidden_bytes(), 0, "{}", report());
        purge();
        drop(kinds);
        // Its own.
        let own = Kinds::new();
        assert!(own.are_intact());
        assert!(own.addresses().into_iter().all(|at| mapping_at(at).name.contains("secretmem")));
        assert!(report().hidden_bytes() > 0);
    });
    assert_eq!(end, ChildEnd::Done);
    assert!(inherited.take().unwrap().are_intact());
    // Touching one is a fault.
    child::run("hidden_fault", "").assert_success();
}

/// The fault that an inherited reference gets: it must not be anything else.
fn touched_by_a_child() {
    hide();
    let key = SecretBox::<Key>::new_with(|key| key.fill(BYTE)).unwrap();
    let end = in_child(|| {
        oubliette::set_wipe_at_end(oubliette::WipeAtEnd::Never);
        std::hint::black_box(key.expose()[0]);
    });
    assert_eq!(end, ChildEnd::Signal(libc::SIGSEGV));
    assert_eq!(*key.expose(), [BYTE; 32]);
}

/// A thread forks all the time while another makes and fills secrets: no child may get to read one.
#[test]
fn a_fork_at_the_wrong_moment_does_not_share_it() {
    play("hidden_races", "");
}

fn races() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let stop = AtomicBool::new(false);
    hide();
    let mut with_files = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let keys: Vec<_> = (0..40).map(|_| key_of(BYTE)).collect();
                drop(keys);
                trim();
            }
        });
        for _ in 0..300 {
            match in_child(look_for_hidden_files) {
                ChildEnd::Done => {}
                ChildEnd::Status(HAD_SOME) => with_files += 1,
                end => panic!("{end:?}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!(
        "{with_files} of 300 children were forked while a file was made; all of those files stayed empty"
    );
}

const HAD_SOME: i32 = 17;

/// In a child: reads every hidden file that it inherited, open or mapped, after the parent had time to fill it.
fn look_for_hidden_files() {
    std::thread::sleep(std::time::Duration::from_millis(2));
    let mut has_any = false;
    for line in
        fs::read_to_string("/proc/self/maps").unwrap().lines().filter(|line| line.contains("secretmem"))
    {
        has_any = true;
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let (start, end) =
            (usize::from_str_radix(start, 16).unwrap(), usize::from_str_radix(end, 16).unwrap());
        // SAFETY: mapped in this process, which has one thread.
        assert!(unsafe { is_zero(start, end - start) }, "a secret in a child: {line}");
    }
    for entry in fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let is_hidden =
            fs::read_link(entry.path()).is_ok_and(|link| link.to_string_lossy().contains("secretmem"));
        let number = entry.file_name().to_string_lossy().parse::<i32>().unwrap();
        // SAFETY: a new mapping at a place that the kernel chooses, of a file that was inherited.
        let mapping = unsafe {
            libc::mmap(std::ptr::null_mut(), PAGE_BYTES, libc::PROT_READ, libc::MAP_SHARED, number, 0)
        };
        // An empty file has no page to look at.
        let has_page = is_hidden && mapping != libc::MAP_FAILED && file_len(number) > 0;
        has_any |= is_hidden;
        // SAFETY: mapped just now.
        assert!(!has_page || unsafe { is_zero(mapping.addr(), PAGE_BYTES) }, "a secret in a child");
    }
    if has_any {
        // SAFETY: ends this process.
        unsafe { libc::_exit(HAD_SOME) };
    }
}

fn file_len(descriptor: i32) -> i64 {
    // SAFETY: `stat` consists of integers, for which all zeros are a value.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `status` is valid for a write (fstat(2)).
    assert_eq!(unsafe { libc::fstat(descriptor, &raw mut status) }, 0);
    status.st_size
}

/// # Safety
///
/// - The range is mapped and readable.
unsafe fn is_zero(start: usize, len: usize) -> bool {
    // SAFETY: mapped and readable, says the caller.
    let bytes = unsafe { std::slice::from_raw_parts(start as *const u8, len) };
    bytes.iter().all(|&byte| byte == 0)
}

/// Never a step down: an error that says so.
#[test]
fn where_there_is_none_nothing_is_made() {
    for errno in [libc::ENOSYS, libc::EPERM] {
        child::run("hidden_refused", &errno.to_string()).assert_success();
    }
}

fn refused(errno: &str) {
    let errno = errno.parse().unwrap();
    deny(&[Denied { errno, ..Denied::MEMFD_SECRET }]).unwrap();
    hide();
    let expected = Error::CannotHide { errno };
    assert_eq!(try_key_of(1).unwrap_err(), expected);
    assert_eq!(SecretBox::<Key>::random().unwrap_err(), expected);
    assert_eq!(SecretVec::<u8>::with_capacity(100_000).unwrap_err(), expected);
    assert_eq!(GuardedPages::<Secret>::new(32).unwrap_err(), expected);
    assert!(expected.to_string().contains("CONFIG_SECRETMEM"));
    assert_eq!((report().hidden_bytes(), status_bytes("VmLck")), (0, 0), "{}", report());
}

#[test]
fn the_limit_of_locked_memory_counts_it() {
    play("hidden_limit", "");
}

fn limit() {
    const LIMIT: usize = 1 << 20;
    if let Err(refused) = as_ordinary_user(LIMIT as u64) {
        return skip::not_set_up(&format!("{refused:?}"));
    }
    hide();
    let mut secrets = Vec::new();
    let error = loop {
        match try_key_of(7) {
            Ok(secret) => secrets.push(secret),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::LockLimit { limit_bytes: LIMIT, .. }), "{error:?}");
    assert_eq!(secrets.len(), LIMIT / PAGE_BYTES, "guards are not counted");
    assert!(secrets.iter().all(|secret| secret.open().unwrap() == [7; 32]));
    assert!(matches!(SecretBox::<Key>::random(), Err(Error::LockLimit { .. })));
    drop(secrets);
    trim();
    assert_eq!((status_bytes("VmLck"), report().hidden_bytes()), (0, 0));
    drop(SecretBox::<Key>::random().unwrap());
}

/// Two mappings each, and no more than the process may have: then an error, and nothing is lost.
#[test]
fn the_limit_of_mappings_is_an_error() {
    play("hidden_many", "");
}

fn many() {
    if !is_root() {
        return skip::not_set_up("an ordinary user may not lock as much");
    }
    hide();
    let mut secrets = Vec::new();
    let error = loop {
        match try_key_of((secrets.len() % 251) as u8) {
            Ok(secret) => secrets.push(secret),
            Err(error) => break error,
        }
    };
    assert_eq!(error, Error::MappingLimit, "after {}", secrets.len());
    assert!(secrets.len() > 32_000, "{}", secrets.len());
    println!("{} hidden secrets", secrets.len());
    for i in (0..secrets.len()).step_by(997) {
        assert!(secrets[i].open().unwrap() == [(i % 251) as u8; 32]);
    }
    drop(secrets);
    assert!(key_of(3).open().unwrap() == [3; 32]);
}

#[test]
fn the_dense_heap() {
    play("hidden_dense", "");
}

fn dense() {
    hide();
    set_secret_flush(Flush::Bounded);
    let small = |i: usize| SecretBox::<[u8; 40]>::new_with(|bytes| bytes.fill(i as u8)).unwrap();
    for _ in 0..3 {
        let mut keys: Vec<_> = (0..20_000).map(small).collect();
        let mut large: Vec<SecretVec<u8>> = Vec::new();
        for i in 1..20 {
            let mut bytes = SecretVec::with_capacity(i * 9000).unwrap();
            bytes.extend_from_slice(&vec![i as u8; i * 9000]).unwrap();
            large.push(bytes);
        }
        assert!(keys.iter().enumerate().all(|(i, key)| key.expose() == &[i as u8; 40]));
        assert!(large.iter().zip(1..).all(|(bytes, i)| bytes.expose().iter().all(|&byte| byte == i)));
        let heap = *report().secrets().unwrap();
        assert_eq!(heap.policy.backing(), Backing::Hidden);
        assert_eq!((heap.hidden_bytes, heap.pinned_bytes), (heap.locked_bytes, 0));
        assert!(heap.hidden_bytes >= 20_000 * 40 && heap.resident_bytes <= heap.hidden_bytes, "{}", report());
        assert!(report().to_string().contains("does not hibernate"));
        // Freed elsewhere, while other threads remember lines of the same slabs.
        let rest = keys.split_off(10_000);
        std::thread::spawn(move || drop(rest)).join().unwrap();
        drop((keys, large));
        oubliette::flush();
        trim();
        oubliette::flush();
    }
    assert_eq!((report().hidden_bytes(), status_bytes("VmLck")), (0, 0), "{}", report());
    let key = small(9);
    purge();
    assert_eq!(key.expose(), &[0; 40]);
    // A heap with the policy spelled out has memory of its own kind.
    static HEAP: oubliette::Oubliette =
        oubliette::Oubliette::with_policy(Policy::SECRET.with_backing(Backing::Hidden));
    let layout = std::alloc::Layout::new::<Key>();
    // SAFETY: the layout has a size.
    let block = unsafe { std::alloc::GlobalAlloc::alloc(&HEAP, layout) };
    assert!(mapping_at(block.addr()).name.contains("secretmem"));
    // SAFETY: allocated above with this layout.
    unsafe { std::alloc::GlobalAlloc::dealloc(&HEAP, block, layout) };
}

#[test]
fn isolated_ones_are_recycled_and_purged() {
    play("hidden_isolated", "");
}

fn isolated() {
    hide();
    let mut secrets: Vec<_> = (0..3000).map(|i| key_of(i as u8)).collect();
    for round in 0..20_000_usize {
        let at = round * 7 % 3000;
        match round % 3 {
            0 => secrets[at].open_mut().unwrap()[0] = at as u8,
            1 => assert!(secrets[at].open().unwrap() == [at as u8; 32]),
            _ => secrets[at] = key_of(at as u8),
        }
    }
    assert!(secrets.iter().zip(0_usize..).all(|(secret, i)| secret.open().unwrap() == [i as u8; 32]));
    let at = address_of(&secrets[0]);
    assert!(mapping_at(at).access.starts_with("---"), "sealed");
    assert_eq!(report().isolated().hidden_bytes, report().isolated().locked_bytes);
    assert!(
        report()
            .to_string()
            .contains("isolated: guarded, sealed at rest, wiped when dropped, locked, hidden\n")
    );
    purge();
    assert!(secrets.iter().all(|secret| *secret.open().unwrap() == [0; 32]));
    drop(secrets);
    trim();
    assert_eq!((report().hidden_bytes(), status_bytes("VmLck")), (0, 0));
    // Several pages, and nothing left of what was there.
    let large = IsolatedBox::<[u8; 50_000]>::new_with(|bytes| {
        assert!(bytes.iter().all(|&byte| byte == 0));
        bytes.fill(1);
    });
    drop(large.unwrap());
    IsolatedBox::<Key>::reserve(20).unwrap();
    assert_eq!(report().isolated().ready, 21);
}

#[test]
fn runs_of_pages_and_what_may_be_said_of_them() {
    play("hidden_runs", "");
}

fn runs() {
    hide();
    let mut run = GuardedPages::<Secret>::new(5000).unwrap();
    run.fill(BYTE);
    assert_eq!((run.is_locked(), run.is_pinned()), (Ok(true), false));
    assert_eq!(report().isolated().hidden_bytes, 8192);
    // A child would share it.
    assert_eq!(run.advise(Advice::DoFork), Err(Error::Refused(Refusal::Hidden)));
    assert_eq!(run.advise(Advice::WipeOnFork), Err(Error::Refused(Refusal::Unknown)));
    assert!(run.iter().all(|&byte| byte == BYTE));
    assert_eq!(run.discard(), Err(Error::Refused(Refusal::Hidden)));
    assert!(run.iter().all(|&byte| byte == 0), "wiped all the same");
    drop(run);
    assert_eq!(status_bytes("VmLck"), 0);
}

#[test]
fn the_choice_comes_first() {
    play("hidden_late", "");
}

fn late() {
    set_secret_backing(Backing::Locked).unwrap();
    hide();
    drop(key_of(1));
    assert_eq!(set_secret_backing(Backing::Auto), Err(Error::TooLate));
    hide();
    assert_eq!(oubliette::secret_backing(), Backing::Hidden);
}
