//! Every system call failing, from the first use on. Needs the feature `fault-injection`.

use oubliette::fault::{self, Call};
use oubliette::{Backing, Error, IsolatedBox, Operation, SecretBox, SecretVec, set_secret_backing};

use super::support::child::{self, Role};
use super::support::{probe, skip};
use super::{Key, key_of, try_key_of};

pub(super) const ROLES: &[Role] =
    &[("fail_once", fail_once), ("fail_always", fail_always), ("fail_hidden", |_| fail_hidden())];

const KINDS: [Call; 9] = [
    Call::Reserve,
    Call::Protect,
    Call::InstallGuard,
    Call::Lock,
    Call::Unlock,
    Call::Advise,
    Call::Random,
    Call::RingSetup,
    Call::RingRegister,
];
/// The one thing that has no error to be returned.
const NOT_SEALED: &str = "oubliette: an isolated secret could not be sealed\n";

#[test]
fn each_call_fails_once() {
    for (index, kind) in KINDS.iter().enumerate() {
        for nth in 0..8 {
            let ended = child::run("fail_once", &format!("{index} {nth}"));
            let is_sealing = *kind == Call::Protect && ended.signal() == Some(libc::SIGABRT);
            if is_sealing {
                assert!(ended.stderr.ends_with(NOT_SEALED), "{kind:?} {nth}: {ended:?}");
            } else {
                ended.assert_success();
            }
        }
    }
}

#[test]
fn each_call_fails_for_ever() {
    for index in 0..KINDS.len() {
        child::run("fail_always", &index.to_string()).assert_success();
    }
}

/// Hidden memory refused at any moment, or not given back: an error or nothing, and no secret in other memory.
#[test]
fn each_call_fails_that_hides() {
    child::run("fail_hidden", "").assert_success();
}

fn fail_hidden() {
    if !probe::has_memfd_secret() {
        return skip::impossible("no memfd_secret: nothing can be hidden");
    }
    set_secret_backing(Backing::Hidden).unwrap();
    let _first = (key_of(1), SecretBox::<Key>::random().unwrap());
    for kind in [Call::Hide, Call::Unhide] {
        for nth in 0..60 {
            let failing = fault::fail(kind, nth, libc::ENOSYS);
            let before = fault::count(kind);
            let made: Vec<_> = (0..40).map(|_| IsolatedBox::<[u8; 9000]>::random()).collect();
            let dense: Vec<_> = (0..3).map(|_| SecretBox::<[u8; 20_000]>::random()).collect();
            let large = SecretVec::<u8>::with_capacity(200_000);
            let errors = made.iter().flat_map(|made| made.as_ref().err());
            let errors =
                errors.chain(dense.iter().flat_map(|made| made.as_ref().err())).chain(large.as_ref().err());
            assert!(errors.copied().all(|error| error == Error::CannotHide { errno: libc::ENOSYS }));
            drop((made, dense, large));
            oubliette::trim();
            assert!(nth > 40 || fault::count(kind) > before, "{kind:?} was never called");
            drop(failing);
        }
    }
    let refusing = fault::fail_always(Call::Hide, libc::EMFILE);
    let operation = IsolatedBox::<[u8; 9000]>::random().unwrap_err().operation();
    assert_eq!(operation, Operation::Hide);
    drop(refusing);
    works(vec![(key_of(1), 1)]);
}

fn fail_once(argument: &str) {
    let (index, nth) = argument.split_once(' ').unwrap();
    let kind = KINDS[index.parse::<usize>().unwrap()];
    let failing = fault::fail(kind, nth.parse().unwrap(), libc::ENOMEM);
    let mut secrets = Vec::new();
    let mut errors = 0;
    for byte in 0..4 {
        match try_key_of(byte) {
            Ok(secret) => secrets.push((secret, byte)),
            Err(error) => {
                errors += 1;
                assert!(!matches!(error, Error::LeftBehind), "{error:?}");
            }
        }
    }
    assert!(errors <= 1, "one call failed once");
    let refused = secrets.iter().filter(|(secret, _)| secret.open().is_err()).count();
    assert!(errors + refused <= 1);
    drop(failing);
    works(secrets);
}

fn fail_always(index: &str) {
    let kind = KINDS[index.parse::<usize>().unwrap()];
    let failing = fault::fail_always(kind, libc::ENOMEM);
    let first = try_key_of(1);
    match kind {
        Call::Reserve => assert!(matches!(first, Err(Error::AddressSpace { .. })), "{first:?}"),
        Call::Protect => assert!(first.is_err()),
        Call::Lock => assert!(matches!(first, Err(Error::LockLimit { .. } | Error::Os { .. })), "{first:?}"),
        Call::Advise | Call::Random => assert!(first.is_err()),
        // Only less: guards without markers, no pins.
        _ => assert!(first.is_ok(), "{kind:?}: {first:?}"),
    }
    drop(failing);
    works(first.into_iter().map(|secret| (secret, 1)).collect());
}

/// Nothing was lost by the failure, and everything works without it.
fn works(mut secrets: Vec<(IsolatedBox<Key>, u8)>) {
    secrets.extend((10..200).map(|byte| (key_of(byte), byte)));
    assert!(secrets.iter().all(|(secret, byte)| secret.open().unwrap() == [*byte; 32]));
    drop(secrets);
    drop(key_of(1));
}
