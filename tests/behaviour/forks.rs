//! A forked child sees no secret, may drop what it inherited, and may make secrets of its own.

use std::alloc::GlobalAlloc;
use std::sync::atomic::{AtomicBool, Ordering};

use oubliette::{Fork, Oubliette, Policy, SecretBox, SecretVec};

use crate::support::block::{allocate, free, layout};
use crate::support::child::{self, Role};
use crate::support::fork::{ChildEnd, in_child};
use crate::support::{limits, pages, pattern};

pub(crate) const ROLES: &[Role] = &[
    ("fork_reads", |_| child_reads_zeros()),
    ("fork_drops", |_| child_drops_what_it_inherited()),
    ("fork_makes", |_| child_makes_its_own()),
    ("fork_nested", |_| grandchild_does_the_same()),
    ("fork_busy", |_| forks_under_load()),
    ("fork_inherit", |_| program_heap_is_inherited()),
    ("fork_open_places", |_| child_leaves_open_places_alone()),
    ("fork_exclude", |_| excluded_memory_is_gone()),
];

#[test]
fn a_child_reads_zeros() {
    if !limits::allow_secrets() {
        return;
    }
    child::run("fork_reads", "").assert_success();
}

#[test]
fn a_child_may_drop_what_it_inherited() {
    if !limits::allow_secrets() {
        return;
    }
    child::run("fork_drops", "").assert_success();
}

#[test]
fn a_child_makes_locked_secrets_of_its_own() {
    if !limits::allow_secrets() {
        return;
    }
    child::run("fork_makes", "").assert_success();
}

#[test]
fn a_grandchild_does_the_same() {
    if !limits::allow_secrets() {
        return;
    }
    child::run("fork_nested", "").assert_success();
}

#[test]
fn a_child_has_large_blocks_of_its_own() {
    child::run("fork_open_places", "").assert_success();
}

#[test]
fn forks_while_other_threads_allocate() {
    if !limits::allow_secrets() {
        return;
    }
    child::run("fork_busy", "").assert_success();
}

#[test]
fn a_program_heap_is_inherited() {
    child::run("fork_inherit", "").assert_success();
}

#[test]
fn excluded_memory_faults_in_a_child() {
    if !limits::allow_secrets() {
        return;
    }
    child::run("fork_exclude", "").assert_success();
}

/// Secrets in slots of several sizes, and one with pages of its own.
struct Wallet {
    keys: Vec<SecretBox<[u8; 32]>>,
    middle: SecretBox<[u8; 2000]>,
    large: SecretVec<u8>,
}

impl Wallet {
    fn filled() -> Self {
        Self {
            keys: (0..500)
                .map(|i| SecretBox::new_with(|bytes: &mut [u8; 32]| pattern::fill(bytes, i)).unwrap())
                .collect(),
            middle: SecretBox::new_with(|bytes: &mut [u8; 2000]| pattern::fill(bytes, 1000)).unwrap(),
            large: SecretVec::new_with(200_000, |bytes| pattern::fill(bytes, 1001)).unwrap(),
        }
    }

    fn is_intact(&self) -> bool {
        self.keys.iter().zip(0..).all(|(key, i)| pattern::matches(key.expose(), i))
            && pattern::matches(self.middle.expose(), 1000)
            && pattern::matches(self.large.expose(), 1001)
    }

    fn is_zero(&self) -> bool {
        let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        self.keys.iter().all(|key| zero(key.expose()))
            && zero(self.middle.expose())
            && zero(self.large.expose())
    }

    fn is_locked(&self) -> bool {
        let locked = |address: *const u8| pages::mapping_at(address.addr()).has("lo");
        locked(self.keys[0].expose().as_ptr())
            && locked(self.middle.expose().as_ptr())
            && locked(self.large.expose().as_ptr())
    }
}

fn child_reads_zeros() {
    let wallet = Wallet::filled();
    assert!(wallet.is_intact());
    assert_eq!(in_child(|| assert!(wallet.is_zero())), ChildEnd::Done);
    assert!(wallet.is_intact(), "the parent lost something");
}

fn child_drops_what_it_inherited() {
    let wallet = Wallet::filled();
    let child = in_child(|| {
        // SAFETY: in the child this is the only use of the copy of the parent's value; the parent's own is in
        // another process.
        let mut inherited = unsafe { std::ptr::read(&raw const wallet) };
        // Some before anything else happens in the child, the rest between secrets of its own.
        inherited.keys.truncate(250);
        let own: Vec<_> = (0..5).map(|_| Wallet::filled()).collect();
        drop(inherited);
        assert!(own.iter().all(Wallet::is_intact));
        drop(own);
        assert!(Wallet::filled().is_intact());
    });
    assert_eq!(child, ChildEnd::Done);
    assert!(wallet.is_intact(), "the parent lost something");
    drop(wallet);
    assert!(Wallet::filled().is_intact());
}

fn child_makes_its_own() {
    let wallet = Wallet::filled();
    assert!(wallet.is_locked());
    let child = in_child(|| {
        let own = Wallet::filled();
        assert!(own.is_intact());
        assert!(own.is_locked(), "a child does not inherit locks (mlock(2)), so it must make its own");
        assert!(wallet.is_zero());
    });
    assert_eq!(child, ChildEnd::Done);
    assert!(wallet.is_intact());
    assert!(wallet.is_locked());
}

fn grandchild_does_the_same() {
    let wallet = Wallet::filled();
    let child = in_child(|| {
        let own = Wallet::filled();
        let grandchild = in_child(|| {
            assert!(own.is_zero() && wallet.is_zero());
            // SAFETY: as in `child_drops_what_it_inherited`.
            drop(unsafe { std::ptr::read(&raw const own) });
            // SAFETY: as above.
            drop(unsafe { std::ptr::read(&raw const wallet) });
            assert!(Wallet::filled().is_locked());
        });
        assert_eq!(grandchild, ChildEnd::Done);
        assert!(own.is_intact());
    });
    assert_eq!(child, ChildEnd::Done);
    assert!(wallet.is_intact());
}

/// No lock is held across a fork, so a child can allocate whatever the other threads were doing.
fn forks_under_load() {
    static DONE: AtomicBool = AtomicBool::new(false);
    let threads: Vec<_> = (0..3)
        .map(|_| {
            std::thread::spawn(|| {
                while !DONE.load(Ordering::Relaxed) {
                    let key = SecretBox::<[u8; 32]>::new_with(|bytes| pattern::fill(bytes, 7)).unwrap();
                    assert!(pattern::matches(key.expose(), 7));
                }
            })
        })
        .collect();
    let wallet = Wallet::filled();
    for _ in 0..30 {
        let child = in_child(|| {
            let key = SecretBox::<[u8; 32]>::new_with(|bytes| pattern::fill(bytes, 8)).unwrap();
            assert!(pattern::matches(key.expose(), 8));
            assert!(wallet.is_zero());
        });
        assert_eq!(child, ChildEnd::Done);
    }
    DONE.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(wallet.is_intact());
}

/// Where the parent left the place of a large block open, the child makes its own elsewhere, and the parent finds it as it
/// was.
fn child_leaves_open_places_alone() {
    static HEAP: Oubliette = Oubliette::new();
    let large = layout(100_000, 8);
    let recycle = || {
        let block = allocate(&HEAP, large);
        // SAFETY: a block of that many bytes.
        let bytes = unsafe { std::slice::from_raw_parts_mut(block, large.size()) };
        assert!(bytes.iter().all(|&byte| byte == 0), "a new block is zero");
        bytes.fill(7);
        // SAFETY: allocated above with this layout.
        unsafe { free(&HEAP, block, large) };
        block
    };
    let place = recycle();
    assert_eq!(recycle(), place, "the control");
    let end = in_child(|| {
        let own = recycle();
        assert_ne!(own, place);
        assert_eq!(recycle(), own);
    });
    assert_eq!(end, ChildEnd::Done);
    assert_eq!(recycle(), place);
}

/// A child of a program on this heap goes on with its memory, as with any other allocator.
fn program_heap_is_inherited() {
    static HEAP: Oubliette = Oubliette::new();
    let layout = layout(100, 8);
    let blocks: Vec<*mut u8> = (0..1000).map(|_| allocate(&HEAP, layout)).collect();
    for block in &blocks {
        // SAFETY: allocated above, 100 bytes, used by nobody else.
        pattern::fill(unsafe { std::slice::from_raw_parts_mut(*block, 100) }, 9);
    }
    let child = in_child(|| {
        for block in &blocks {
            // SAFETY: the child's copy of the same block.
            assert!(pattern::matches(unsafe { std::slice::from_raw_parts(*block, 100) }, 9));
            // SAFETY: allocated with this layout, and freed once in this process.
            unsafe { free(&HEAP, *block, layout) };
        }
        let block = allocate(&HEAP, layout);
        // SAFETY: allocated with this layout.
        unsafe { free(&HEAP, block, layout) };
    });
    assert_eq!(child, ChildEnd::Done);
    for block in blocks {
        // SAFETY: as above; the parent's own copy.
        unsafe { free(&HEAP, block, layout) };
    }
}

fn excluded_memory_is_gone() {
    static HEAP: Oubliette = Oubliette::with_policy(Policy::SECRET.with_fork(Fork::Exclude));
    let layout = layout(100, 8);
    let block = allocate(&HEAP, layout);
    let inherited = [30, 100, 1000, 3000, 20_000, 100_000].map(|size| {
        let layout = self::layout(size, 8);
        (allocate(&HEAP, layout), layout)
    });
    let child = in_child(|| {
        // SAFETY: not in this process: the fault is what is asked for.
        let _: u8 = unsafe { block.read_volatile() };
    });
    assert_eq!(child, ChildEnd::Signal(libc::SIGSEGV));
    let child = in_child(|| {
        // SAFETY: allocated with this layout; nothing is read.
        unsafe { HEAP.dealloc(block, layout) };
        let own = allocate(&HEAP, layout);
        // SAFETY: allocated with this layout.
        unsafe { free(&HEAP, own, layout) };
    });
    assert_eq!(child, ChildEnd::Done);
    let child = in_child(|| {
        // With a block of its own, so that the child has a thread heap, and does not take these for blocks of that: it
        // must not look at them.
        let own = allocate(&HEAP, layout);
        for (block, layout) in &inherited {
            // SAFETY: as above.
            unsafe { HEAP.dealloc(*block, *layout) };
        }
        // SAFETY: allocated with this layout.
        unsafe { free(&HEAP, own, layout) };
    });
    assert_eq!(child, ChildEnd::Done);
    // SAFETY: allocated with this layout.
    unsafe { free(&HEAP, block, layout) };
    for (block, layout) in inherited {
        // SAFETY: as above.
        unsafe { free(&HEAP, block, layout) };
    }
}
