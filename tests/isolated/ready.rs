//! After `warm_up` and `reserve`: no page fault, and no system call but `mprotect`.

use oubliette::{IsolatedBox, SecretBox, report, scope, trim, warm_up};

use super::Key;
use super::support::child::{self, Role};
use super::support::limits::{as_ordinary_user, faults, status_bytes};
use super::support::seccomp::{Denied, deny, kill_on};
use super::support::{probe, skip};

pub(super) const ROLES: &[Role] = &[
    ("ready_faults", ready_faults),
    ("ready_sandboxed", sandboxed),
    ("ready_under_a_limit", |_| under_a_limit()),
];

/// Secrets of each kind alive at once.
const ALIVE: usize = 50;

fn get_ready() {
    warm_up().unwrap();
    IsolatedBox::<Key>::reserve(ALIVE + 1).unwrap();
    SecretBox::<Key>::reserve(ALIVE + 1).unwrap();
}

/// Opens, writes, makes and drops secrets of both kinds.
fn work(rounds: usize) {
    let isolated = || IsolatedBox::<Key>::new_with(|key| key.fill(1)).unwrap();
    let dense = || SecretBox::<Key>::new_with(|key| key.fill(1)).unwrap();
    let mut isolated_ones: [IsolatedBox<Key>; ALIVE] = std::array::from_fn(|_| isolated());
    let mut dense_ones: [SecretBox<Key>; ALIVE] = std::array::from_fn(|_| dense());
    for round in 0..rounds {
        let at = round * 7 % ALIVE;
        isolated_ones[at].open_mut().unwrap()[0] = round as u8;
        assert_eq!(isolated_ones[(at + 1) % ALIVE].open().unwrap()[1], 1);
        dense_ones[at].expose_mut()[0] = round as u8;
        assert_eq!(dense_ones[(at + 1) % ALIVE].expose()[1], 1);
        isolated_ones[at] = isolated();
        dense_ones[at] = dense();
    }
}

/// A million of each kind: 250,000 opened to be written, read, made, and dropped. Fewer where pins do not fault pages in.
#[test]
fn no_page_fault_in_a_million_operations() {
    for kernel in ["", "without io_uring"] {
        let faults = child::fewest_faults("ready_faults", kernel);
        assert!(faults.is_none_or(|faults| faults == 0), "{kernel}: {faults:?} page faults");
    }
}

fn ready_faults(kernel: &str) {
    if !kernel.is_empty() {
        deny(&[Denied::IO_URING]).unwrap();
    } else if !probe::has_io_uring() {
        return skip::impossible("no io_uring: the other half of the test goes without");
    }
    get_ready();
    // The program's own code and stack, and the counter's.
    let before = faults();
    work(0);
    assert!(faults() >= before);
    work(1);
    let before = faults();
    work(if kernel.is_empty() { 250_000 } else { 25_000 });
    println!("faults {}", faults() - before);
    // The control: what was not reserved faults.
    let more: Vec<_> = (0..2000).map(|_| SecretBox::<[u8; 500]>::random().unwrap()).collect();
    assert!(faults() > before);
    drop(more);
    trim();
    work(10);
}

/// Under a filter that kills at every call that setting up takes.
#[test]
fn no_system_call_that_a_sandbox_forbids() {
    let killed = child::run("ready_sandboxed", "cold");
    assert_eq!(killed.signal(), Some(libc::SIGSYS), "the control: not set up before. {killed:?}");
    child::run("ready_sandboxed", "warm").assert_success();
}

fn sandboxed(start: &str) {
    if start == "warm" {
        get_ready();
        work(1);
    }
    kill_on(&[
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_process_madvise,
        libc::SYS_mlock,
        libc::SYS_mlock2,
        libc::SYS_munlock,
        libc::SYS_mincore,
        libc::SYS_msync,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_register,
        libc::SYS_memfd_create,
        libc::SYS_ftruncate,
        libc::SYS_getrandom,
        libc::SYS_openat,
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_fcntl,
        libc::SYS_close,
        libc::SYS_capget,
        libc::SYS_prlimit64,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigaction,
        libc::SYS_brk,
    ])
    .unwrap();
    work(10_000);
    for _ in 0..100 {
        scope(|| assert_eq!(std::hint::black_box([1_u8; 2000]).len(), 2000));
    }
    // Without what the C library and the harness do at an end.
    // SAFETY: ends this process.
    unsafe { libc::_exit(0) };
}

#[test]
fn it_fits_under_the_usual_limit_and_can_be_given_back() {
    child::run("ready_under_a_limit", "").assert_success();
}

fn under_a_limit() {
    if let Err(refused) = as_ordinary_user(1 << 20) {
        return skip::not_set_up(&format!("{refused:?}"));
    }
    warm_up().unwrap();
    let locked = status_bytes("VmLck");
    println!("locked {locked} bytes\n{}", report());
    assert!(locked <= 512 << 10, "{locked} bytes");
    warm_up().unwrap();
    assert_eq!(status_bytes("VmLck"), locked, "done once");
    // More than the limit has room for: an error, and what there is goes on.
    assert!(SecretBox::<[u8; 1000]>::reserve(2000).is_err());
    assert!(IsolatedBox::<Key>::reserve(1000).is_err());
    trim();
    work(100);
    trim();
    // Places for isolated secrets that were asked for stay, those of the attempt above included.
    let ready = report().isolated().ready * 4096;
    assert_eq!(report().secrets().unwrap().locked_bytes, 0, "{}", report());
    assert!(report().isolated().locked_bytes <= ready, "{}", report());
}
