//! Every system call failing, from the first use on. Needs the feature `fault-injection`.

use oubliette::fault::{self, Call};
use oubliette::{Error, IsolatedBox};

use super::support::child::{self, Role};
use super::{Key, key_of, try_key_of};

pub(super) const ROLES: &[Role] = &[("fail_once", fail_once), ("fail_always", fail_always)];

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
