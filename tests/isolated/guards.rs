//! Guards: counted, on many threads, in any order, across panics and moves.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};

use oubliette::{IsolatedBox, NewWithError};

use super::support::child::{self, Role};
use super::support::pages::mapping_at;
use super::{Key, address_of, key_of};

fn access(address: usize) -> String {
    mapping_at(address).access
}

#[test]
fn sealed_at_rest_read_only_when_open_writable_when_open_mut() {
    let mut secret = key_of(1);
    let address = address_of(&secret);
    assert_eq!(access(address), "---p");
    {
        let open = secret.open().unwrap();
        assert_eq!(access(address), "r--p");
        assert!(open == [1; 32]);
    }
    assert_eq!(access(address), "---p");
    {
        let mut open = secret.open_mut().unwrap();
        assert_eq!(access(address), "rw-p");
        open[31] = 2;
    }
    assert_eq!(access(address), "---p");
    assert_eq!(secret.open().unwrap()[30..], [1, 2]);
}

#[test]
fn guards_end_in_any_order() {
    let secret = key_of(1);
    let address = address_of(&secret);
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]] {
        let mut guards: Vec<_> = (0..3).map(|_| Some(secret.open().unwrap())).collect();
        for (ended, index) in order.into_iter().enumerate() {
            assert_eq!(access(address), "r--p", "{ended} of {order:?} ended");
            guards[index] = None;
        }
        assert_eq!(access(address), "---p");
    }
}

#[test]
fn many_threads_read_one_secret_and_each_sees_it() {
    const THREADS: usize = 8;
    let secret = key_of(7);
    let start = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                start.wait();
                for round in 0..3000 {
                    let first = secret.open().unwrap();
                    assert!(first == [7; 32]);
                    if round % 3 == 0 {
                        let second = secret.open().unwrap();
                        drop(first);
                        assert!(second == [7; 32]);
                    }
                }
            });
        }
    });
    assert_eq!(access(address_of(&secret)), "---p");
}

#[test]
fn threads_make_open_and_drop_their_own() {
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            scope.spawn(move || {
                let mut kept = Vec::new();
                for round in 0..1500_usize {
                    let secret = key_of(thread);
                    assert!(secret.open().unwrap() == [thread; 32]);
                    kept.push(secret);
                    if round % 7 == 0 {
                        let taken = kept.swap_remove(round % kept.len());
                        assert!(taken.open().unwrap() == [thread; 32]);
                    }
                }
                assert!(kept.iter().all(|secret| secret.open().unwrap() == [thread; 32]));
            });
        }
    });
}

#[test]
fn a_panic_under_a_guard_seals() {
    let mut secret = key_of(1);
    let address = address_of(&secret);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _first = secret.open().unwrap();
        let _second = secret.open().unwrap();
        panic!("under two guards");
    }));
    assert!(outcome.is_err());
    assert_eq!(access(address), "---p");
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut open = secret.open_mut().unwrap();
        open[0] = 9;
        panic!("half written");
    }));
    assert!(outcome.is_err());
    assert_eq!(access(address), "---p");
    assert_eq!(secret.open().unwrap()[..2], [9, 1]);
}

/// In processes of their own: here other tests take the places that are given back.
pub(super) const ROLES: &[Role] = &[("half_filled", |_| half_filled()), ("leaked_guard", |_| leaked_guard())];

#[test]
fn a_panic_or_a_refusal_while_filling_leaves_nothing() {
    child::run("half_filled", "").assert_success();
}

fn half_filled() {
    let mut address = 0;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        IsolatedBox::<[u8; 48]>::new_with(|bytes| {
            address = bytes.as_ptr().addr();
            bytes.fill(0x5a);
            panic!("half filled");
        })
    }));
    assert!(outcome.is_err());
    assert!(super::support::pages::OwnMemory::open().is_zero(address, 48));
    let refused = IsolatedBox::<[u8; 48]>::try_new_with(|bytes| {
        address = bytes.as_ptr().addr();
        bytes.fill(0x5a);
        Err("no key here")
    });
    assert!(matches!(refused, Err(NewWithError::Refused("no key here"))));
    assert!(super::support::pages::OwnMemory::open().is_zero(address, 48));
}

#[test]
fn the_box_moves_and_the_secret_stays() {
    let secret = key_of(4);
    let address = address_of(&secret);
    let boxed = Box::new(secret);
    let shared: Arc<IsolatedBox<Key>> = Arc::from(boxed);
    let other = Arc::clone(&shared);
    let there = std::thread::spawn(move || address_of(&other)).join().unwrap();
    assert_eq!((address_of(&shared), there), (address, address));
    let mut many = vec![Arc::into_inner(shared).unwrap()];
    many.extend((0..100).map(key_of));
    many.reverse();
    assert!(many.last().unwrap().open().unwrap() == [4; 32]);
}

#[test]
fn a_leaked_guard_ends_with_the_next_exclusive_one() {
    child::run("leaked_guard", "").assert_success();
}

fn leaked_guard() {
    let mut secret = key_of(1);
    let address = address_of(&secret);
    core::mem::forget(secret.open().unwrap());
    assert_eq!(access(address), "r--p", "as documented");
    drop(secret.open_mut().unwrap());
    assert_eq!(access(address), "---p");
    core::mem::forget(secret.open_mut().unwrap());
    assert_eq!(access(address), "rw-p", "as documented");
    drop(secret);
    assert!(super::support::pages::OwnMemory::open().is_zero(address, 32));
}

#[test]
fn an_atomic_can_be_written_through_a_shared_guard() {
    struct Counted {
        key: u64,
        uses: AtomicU32,
    }
    oubliette::impl_inline!(Counted { key, uses });
    let secret = IsolatedBox::<Counted>::new_with(|counted| counted.key = 5).unwrap();
    let address = address_of(&secret);
    for _ in 0..3 {
        let open = secret.open().unwrap();
        assert_eq!(access(address), "rw-p", "a shared reference to an atomic writes");
        open.uses.fetch_add(1, Ordering::Relaxed);
    }
    assert_eq!(access(address), "---p");
    assert_eq!((secret.open().unwrap().key, secret.open().unwrap().uses.load(Ordering::Relaxed)), (5, 3));
}

#[test]
fn the_value_is_dropped_once_and_open() {
    static DROPS: AtomicU32 = AtomicU32::new(0);
    struct Loud(u64);
    impl Drop for Loud {
        fn drop(&mut self) {
            DROPS.fetch_add(u32::try_from(self.0).unwrap(), Ordering::Relaxed);
            self.0 = 0;
        }
    }
    oubliette::impl_inline!(Loud { 0 });
    drop(IsolatedBox::<Loud>::new_with(|loud| loud.0 = 1).unwrap());
    assert_eq!(DROPS.load(Ordering::Relaxed), 1);
}

#[test]
fn taken_random_and_debug() {
    let mut bytes = [0xa7_u8; 64];
    let taken = IsolatedBox::take(&mut bytes).unwrap();
    assert_eq!(bytes, [0; 64]);
    assert!(taken.open().unwrap() == [0xa7; 64]);
    let (one, other) = (IsolatedBox::<Key>::random().unwrap(), IsolatedBox::<Key>::random().unwrap());
    assert!(one.open().unwrap() != other.open().unwrap());
    assert_eq!(format!("{one:?} {:?}", one.open().unwrap()), "IsolatedBox(..) Open(..)");
}
