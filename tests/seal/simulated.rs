//! Rights at each step, with simulated keys. Needs the feature `fault-injection`.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};

use oubliette::fault::{self, Call, KeyRights, key_rights};
use oubliette::{
    Backing, Error, IsolatedBox, Policy, Seal, SecretBox, SecretString, SecretVec, flush, purge, report,
    seal_thread, secret_seal, set_secret_backing, set_secret_seal, trim, unsealed,
};
use zeroize::Zeroize as _;

use super::support::child::{self, Role};
use super::support::fork::{ChildEnd, in_child};
use super::support::skip;

pub(super) const ROLES: &[Role] = &[
    ("rights", rights),
    ("owners", owners),
    ("drops", drops),
    ("threads", threads),
    ("handler", handler),
    ("scale", scale),
    ("one_key", one_key),
    ("no_key_for_pages", no_key_for_pages),
    ("forks", forks),
    ("hidden", hidden),
    ("wipes", wipes),
];

const SEALED: (KeyRights, KeyRights) = (KeyRights::None, KeyRights::None);

macro_rules! plays {
    ($($test:ident: $role:literal,)*) => {
        $(#[test]
        fn $test() {
            child::run($role, "").assert_success();
        })*
    };
}

plays! {
    each_guard_gives_what_it_needs_and_takes_it_back: "rights",
    owners_work_on_sealed_secrets_and_leave_them_sealed: "owners",
    the_drop_of_a_value_may_touch_it: "drops",
    rights_are_a_threads_own: "threads",
    a_handler_may_open: "handler",
    thousands_of_secrets_are_few_mappings: "scale",
    one_key_is_not_enough: "one_key",
    pages_that_take_no_key_are_an_error: "no_key_for_pages",
    a_child_opens_its_own: "forks",
    hidden_memory_gets_the_key: "hidden",
    purge_flush_and_trim_leave_the_rights_as_they_were: "wipes",
}

fn begin() {
    fault::simulate_protection_keys();
    set_secret_seal(Seal::ProtectionKey).unwrap();
    assert_eq!(secret_seal(), Seal::ProtectionKey);
    assert_eq!(key_rights(), SEALED);
}

fn isolated(byte: u8) -> IsolatedBox<[u8; 32]> {
    let secret = IsolatedBox::new_with(|bytes: &mut [u8; 32]| {
        assert_eq!(key_rights(), (KeyRights::ReadWrite, KeyRights::None));
        assert_eq!(*bytes, [0; 32]);
        bytes.fill(byte);
    });
    assert_eq!(key_rights(), SEALED);
    secret.unwrap()
}

fn dense(byte: u8) -> SecretBox<[u8; 32]> {
    let secret = SecretBox::new_with(|bytes: &mut [u8; 32]| {
        assert_eq!(key_rights(), (KeyRights::None, KeyRights::ReadWrite));
        bytes.fill(byte);
    });
    assert_eq!(key_rights(), SEALED);
    secret.unwrap()
}

fn rights(_: &str) {
    begin();
    let (mut one, two) = (isolated(1), isolated(2));
    let first = two.open().unwrap();
    assert_eq!(key_rights().0, KeyRights::Read);
    let writing = one.open_mut().unwrap();
    assert_eq!(key_rights().0, KeyRights::ReadWrite);
    let second = two.open().unwrap();
    drop(first);
    assert_eq!(key_rights().0, KeyRights::ReadWrite, "the writer is still there");
    drop(writing);
    assert_eq!(key_rights(), (KeyRights::Read, KeyRights::None), "the last reader");
    drop(second);
    assert_eq!(key_rights(), SEALED);

    // What a shared reference may write to is opened to be written.
    let counter = IsolatedBox::<AtomicU32>::new_with(|_| ()).unwrap();
    let open = counter.open().unwrap();
    assert_eq!(key_rights().0, KeyRights::ReadWrite);
    open.fetch_add(1, Ordering::Relaxed);
    drop(open);
    assert_eq!(key_rights(), SEALED);

    let mut three = dense(3);
    let open = three.open();
    assert_eq!(key_rights(), (KeyRights::None, KeyRights::Read));
    unsealed(|| {
        assert_eq!(key_rights(), (KeyRights::None, KeyRights::ReadWrite));
        unsealed(|| assert_eq!(key_rights().1, KeyRights::ReadWrite));
        assert_eq!(key_rights().1, KeyRights::ReadWrite);
    });
    assert_eq!(key_rights().1, KeyRights::Read);
    drop(open);
    drop(three.open_mut());
    assert_eq!(key_rights(), SEALED);

    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _isolated = one.open_mut().unwrap();
        let _dense = three.open();
        unsealed(|| panic!("under three guards"));
    }));
    assert!(outcome.is_err());
    assert_eq!(key_rights(), SEALED);
    let outcome = catch_unwind(|| IsolatedBox::<[u8; 32]>::new_with(|_| panic!("while filling")));
    assert!(outcome.is_err());
    let outcome = catch_unwind(|| SecretBox::<[u8; 32]>::new_with(|_| panic!("while filling")));
    assert!(outcome.is_err());
    assert_eq!(key_rights(), SEALED);
    let refused = IsolatedBox::<[u8; 32]>::try_new_with(|_| Err("no"));
    assert!(refused.is_err());
    assert_eq!(key_rights(), SEALED);

    let report = report();
    assert_eq!(report.seal().seal, Seal::ProtectionKey);
    assert_eq!(report.seal().keys_refused_errno, None);
    let heap = report.heap(Policy::SECRET.with_seal(Seal::ProtectionKey)).expect("the sealed heap");
    assert_eq!(heap.live_blocks, 1);
    assert_eq!(report.secrets(), Some(heap));
    assert!(report.heap(Policy::SECRET).is_none(), "no block where it is not sealed");
    assert!(report.to_string().contains(", sealed by a protection key\n"));
}

fn owners(_: &str) {
    begin();
    let sealed = || assert_eq!(key_rights(), SEALED);
    let mut key = SecretBox::<[u8; 32]>::random().unwrap();
    sealed();
    let copy = key.try_clone().unwrap();
    sealed();
    assert!(key == copy);
    sealed();
    key.zeroize();
    sealed();
    assert!(key == [0; 32]);
    let mut values = SecretVec::<u32>::new();
    for value in 0..10_000 {
        values.push(value).unwrap();
    }
    sealed();
    values.extend_from_slice(&[1, 2]).unwrap();
    values.resize(20_000).unwrap();
    values.truncate(3);
    sealed();
    assert!(values == [0, 1, 2]);
    assert!(values.try_clone().unwrap() == values);
    let mut text = SecretString::take(&mut "gr\u{fc}n".to_owned()).unwrap();
    text.push('!').unwrap();
    text.truncate(3);
    sealed();
    assert!(text == *"gr");
    let leaked = dense(1).leak();
    assert_eq!(unsealed(|| leaked[0]), 1);
    let kept: Vec<_> = (0..2000).map(|_| SecretBox::<[u8; 600]>::random().unwrap()).collect();
    drop(kept);
    let mut boxed = isolated(3);
    boxed.open_mut().unwrap()[0] = 1;
    assert!(boxed.open().unwrap()[..2] == [1, 3]);
    sealed();
    drop((key, copy, values, text, boxed));
    sealed();
    IsolatedBox::<[u8; 32]>::reserve(20).unwrap();
    sealed();
    IsolatedBox::<[u8; 5000]>::random().unwrap();
    sealed();
}

fn drops(_: &str) {
    thread_local!(static SEEN: Cell<Option<(KeyRights, KeyRights)>> = const { Cell::new(None) });
    struct Looks([u8; 40]);
    // SAFETY: zeros are an array of bytes.
    unsafe impl oubliette::Inline for Looks {}
    impl Drop for Looks {
        fn drop(&mut self) {
            SEEN.set(Some(key_rights()));
            self.0[0] ^= 1;
            assert_ne!(self.0[1], 9, "panics for a nine");
        }
    }
    begin();
    drop(SecretBox::<Looks>::new_with(|_| ()).unwrap());
    assert_eq!(SEEN.take(), Some((KeyRights::None, KeyRights::ReadWrite)));
    drop(IsolatedBox::<Looks>::new_with(|_| ()).unwrap());
    assert_eq!(SEEN.take(), Some((KeyRights::ReadWrite, KeyRights::None)));
    let mut values = SecretVec::<Looks>::new_with(2, |_| ()).unwrap();
    values.truncate(1);
    assert_eq!(SEEN.take(), Some((KeyRights::None, KeyRights::ReadWrite)));
    drop(values);
    assert_eq!(SEEN.take(), Some((KeyRights::None, KeyRights::ReadWrite)));
    assert_eq!(key_rights(), SEALED);
    let dense = SecretBox::<Looks>::new_with(|value| value.0[1] = 9).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(dense))).is_err());
    let isolated = IsolatedBox::<Looks>::new_with(|value| value.0[1] = 9).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(isolated))).is_err());
    assert_eq!(key_rights(), SEALED);
}

fn threads(_: &str) {
    begin();
    let secret = isolated(1);
    let dense = dense(2);
    let open = secret.open().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // A real thread inherits; the lab looks at that. Here it starts with none.
            assert_eq!(key_rights(), SEALED);
            let here = secret.open().unwrap();
            assert_eq!(key_rights(), (KeyRights::Read, KeyRights::None));
            assert!(here == [1; 32] && dense.open() == [2; 32]);
            drop(here);
            seal_thread();
            assert_eq!(key_rights(), SEALED);
        });
    });
    assert_eq!(key_rights(), (KeyRights::Read, KeyRights::None), "nothing of it is this thread's");
    seal_thread();
    assert_eq!(key_rights(), (KeyRights::Read, KeyRights::None), "it has a guard for that");
    drop(open);
    // Freed by another thread than the one that allocated.
    let many: Vec<_> = (0..3000).map(|_| SecretBox::<[u8; 100]>::random().unwrap()).collect();
    std::thread::spawn(move || {
        drop(many);
        assert_eq!(key_rights(), SEALED);
    })
    .join()
    .unwrap();
    drop((0..3000).map(|_| SecretBox::<[u8; 100]>::random().unwrap()).collect::<Vec<_>>());
    assert_eq!(key_rights(), SEALED);
}

fn handler(_: &str) {
    static KEPT: std::sync::OnceLock<IsolatedBox<[u8; 32]>> = std::sync::OnceLock::new();
    extern "C" fn on_signal(_: i32) {
        let open = KEPT.get().unwrap().open().unwrap();
        assert!(open == [7; 32]);
        assert_ne!(key_rights().0, KeyRights::None);
    }
    begin();
    KEPT.set(isolated(7)).unwrap();
    // SAFETY: the handler opens a secret, which under keys waits for nobody.
    unsafe { libc::signal(libc::SIGUSR1, on_signal as *const () as libc::sighandler_t) };
    let mut other = isolated(1);
    let open = other.open_mut().unwrap();
    for _ in 0..100 {
        // SAFETY: the handler is set.
        unsafe { libc::raise(libc::SIGUSR1) };
        assert_eq!(key_rights(), (KeyRights::ReadWrite, KeyRights::None));
    }
    drop(open);
    assert_eq!(key_rights(), SEALED);
}

fn scale(_: &str) {
    const SECRETS: u32 = 40_000;
    begin();
    let many: Vec<_> =
        (0..SECRETS).map(|number| IsolatedBox::<u32>::new_with(|place| *place = number).unwrap()).collect();
    let mappings = std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    println!("mappings {mappings}");
    // Where guards have no markers it ends at the limit of mappings, by an error.
    assert!(mappings < 200, "{mappings}");
    assert!((0..).zip(&many).all(|(number, secret)| *secret.open().unwrap() == number));
    drop(many);
    let again: Vec<_> =
        (0..SECRETS).map(|number| IsolatedBox::<u32>::new_with(|place| *place += number).unwrap()).collect();
    assert!((0..).zip(&again).all(|(number, secret)| *secret.open().unwrap() == number));
    assert_eq!(key_rights(), SEALED);
}

fn one_key(_: &str) {
    fault::simulate_protection_keys();
    let failing = fault::fail(Call::KeyNew, 1, libc::ENOSPC);
    assert_eq!(set_secret_seal(Seal::ProtectionKey), Err(Error::NoProtectionKey { errno: libc::ENOSPC }));
    drop(failing);
    assert_eq!(secret_seal(), Seal::Pages);
    assert_eq!(report().seal().keys_refused_errno, Some(libc::ENOSPC));
    set_secret_seal(Seal::ProtectionKey).unwrap();
    assert_eq!(report().seal().keys_refused_errno, None);
}

fn no_key_for_pages(_: &str) {
    begin();
    let failing = fault::fail_always(Call::KeyProtect, libc::ENOMEM);
    assert!(matches!(SecretBox::<u64>::new(1), Err(Error::Os { .. } | Error::AddressSpace { .. })));
    assert!(matches!(
        IsolatedBox::<u64>::new_with(|_| ()),
        Err(Error::Os { .. } | Error::AddressSpace { .. })
    ));
    assert_eq!(key_rights(), SEALED);
    drop(failing);
    assert!(*isolated(1).open().unwrap() == [1; 32]);
    assert!(dense(1) == [1; 32]);
}

fn forks(_: &str) {
    begin();
    let (secret, mut dense) = (isolated(1), dense(2));
    let open = secret.open().unwrap();
    let ended = in_child(|| {
        assert_eq!(secret.open().err(), Some(Error::LeftBehind));
        assert_eq!(key_rights(), (KeyRights::Read, KeyRights::None), "the inherited guard");
        assert!(dense == [0; 32]);
        let own = isolated_in_child();
        assert!(own.open().unwrap() == [5; 32]);
        dense.open_mut()[0] = 1;
    });
    assert_eq!(ended, ChildEnd::Done);
    drop(open);
    assert!(dense == [2; 32] && secret.open().unwrap() == [1; 32]);
    assert_eq!(key_rights(), SEALED);
}

fn isolated_in_child() -> IsolatedBox<[u8; 32]> {
    IsolatedBox::new_with(|bytes: &mut [u8; 32]| bytes.fill(5)).unwrap()
}

fn hidden(_: &str) {
    begin();
    if let Err(error) = set_secret_backing(Backing::Hidden) {
        return skip::impossible(&error.to_string());
    }
    let before = fault::count(Call::KeyProtect);
    let (secret, dense) = (isolated(1), dense(2));
    // Each range once, and each file in it again, which is a mapping of its own.
    assert!(fault::count(Call::KeyProtect) - before >= 4);
    assert!(dense == [2; 32] && secret.open().unwrap() == [1; 32]);
    assert!(report().hidden_bytes() > 0);
    drop((secret, dense));
    assert_eq!(key_rights(), SEALED);
}

fn wipes(_: &str) {
    begin();
    let (secret, dense) = (isolated(1), dense(2));
    flush();
    trim();
    assert_eq!(key_rights(), SEALED);
    let open = secret.open().unwrap();
    purge();
    assert_eq!(key_rights(), (KeyRights::Read, KeyRights::None));
    assert!(open == [0; 32] && dense == [0; 32]);
    drop(open);
    drop((secret, dense));
    assert_eq!(key_rights(), SEALED);
    drop((isolated(3), self::dense(4)));
}
