//! What seals secrets, where there are no protection keys, and where they are simulated: what each thread may do
//! at each step. What a real key does to an access is seen in `tests/lab/keys.rs`.
#![cfg(target_os = "linux")]
#![expect(unsafe_code, reason = "forks, sets signal handlers, asks the kernel for a key")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::mem_forget,
    reason = "a test may panic, and leaks on purpose"
)]

#[cfg(feature = "fault-injection")]
#[path = "seal/simulated.rs"]
mod simulated;
#[cfg(not(feature = "fault-injection"))]
mod simulated {
    pub(super) const ROLES: &[super::support::child::Role] = &[];
}
#[path = "support/mod.rs"]
mod support;

use oubliette::{
    Error, IsolatedBox, Policy, Seal, SecretBox, SecretString, SecretVec, report, seal_thread, secret_seal,
    set_secret_seal, unsealed,
};
use support::child::{self, Role};

const ROLES: &[Role] = &[("refused", refused), ("none", none), ("too_late", too_late), ("guards", guards)];

#[test]
#[ignore = "runs in a child of the other tests"]
fn role() {
    child::play(&[ROLES, simulated::ROLES].concat());
}

fn access(address: usize) -> String {
    support::pages::mapping_at(address).access
}

/// Takes a key, if this machine has one left.
fn take_key() -> bool {
    // SAFETY: takes a key that nobody has; no memory is involved (pkey_alloc(2)).
    unsafe { libc::syscall(libc::SYS_pkey_alloc, 0, 0) >= 0 }
}

#[test]
fn without_keys_the_choice_is_refused_and_the_report_says_so() {
    child::run("refused", "").assert_success();
}

fn refused(_: &str) {
    // There are 15 at most (pkeys(7)).
    while take_key() {}
    assert_eq!(report().seal().keys_refused_errno, None);
    let refusal = set_secret_seal(Seal::ProtectionKey);
    let Err(Error::NoProtectionKey { errno }) = refusal else { panic!("{refusal:?}") };
    assert!(matches!(errno, libc::ENOSPC | libc::ENOSYS | libc::EINVAL), "{errno}");
    assert_eq!(secret_seal(), Seal::Pages);
    let isolated = IsolatedBox::<[u8; 32]>::new_with(|bytes| bytes.fill(1)).unwrap();
    let dense = SecretBox::<[u8; 32]>::new_with(|bytes| bytes.fill(2)).unwrap();
    // Sealed by pages, as before: one mapping without access holds it.
    let address = (&raw const *isolated.open().unwrap()).addr();
    assert_eq!(access(address), "---p");
    assert_eq!(dense.expose(), &[2; 32]);
    let report = report();
    assert_eq!(report.seal().seal, Seal::Pages);
    assert_eq!(report.seal().keys_refused_errno, Some(errno));
    assert!(
        report.to_string().contains(&format!(
            "by their pages, dense ones not (protection keys refused with errno {errno})"
        ))
    );
    assert!(report.heap(Policy::SECRET.with_seal(Seal::ProtectionKey)).is_none());
    assert!(refusal.unwrap_err().to_string().contains("Seal::Pages"), "says what to do");
}

#[test]
fn without_a_seal_an_isolated_secret_stays_open_between_its_guards() {
    child::run("none", "").assert_success();
}

fn none(_: &str) {
    set_secret_seal(Seal::None).unwrap();
    let mut secret = IsolatedBox::<[u8; 32]>::new_with(|bytes| bytes.fill(1)).unwrap();
    let address = (&raw const *secret.open().unwrap()).addr();
    assert_eq!(access(address), "rw-p");
    assert_eq!(access(address - 4096), "---p", "the guard in front");
    assert_eq!(access(address + 4096), "---p", "the guard behind");
    secret.open_mut().unwrap()[0] = 9;
    assert_eq!(secret.open().unwrap()[..2], [9, 1]);
    assert_eq!(report().seal().seal, Seal::None);
    // More than one regime holds: see `heap/isolated/regime`.
    let many: Vec<_> =
        (0..9000_u32).map(|number| IsolatedBox::<u32>::new_with(|place| *place = number).unwrap()).collect();
    for (number, secret) in (0..).zip(&many) {
        assert_eq!(*secret.open().unwrap(), number);
    }
    drop(many);
    let again: Vec<_> =
        (0..9000_u32).map(|number| IsolatedBox::<u32>::new_with(|place| *place += number).unwrap()).collect();
    assert!((0..).zip(&again).all(|(number, secret)| *secret.open().unwrap() == number));
}

#[test]
fn the_first_secret_settles_the_seal() {
    child::run("too_late", "").assert_success();
}

fn too_late(_: &str) {
    assert_eq!(set_secret_seal(Seal::None), Ok(()));
    assert_eq!(set_secret_seal(Seal::Pages), Ok(()), "no secret yet");
    let secret = SecretBox::<u64>::new(1).unwrap();
    assert_eq!(set_secret_seal(Seal::None), Err(Error::TooLate));
    assert_eq!(set_secret_seal(Seal::ProtectionKey), Err(Error::TooLate));
    assert_eq!(set_secret_seal(Seal::Pages), Ok(()), "in force already");
    drop(secret);
    assert_eq!(set_secret_seal(Seal::None), Err(Error::TooLate));
}

#[test]
fn guards_of_dense_secrets_work_without_keys() {
    child::run("guards", "").assert_success();
}

fn guards(_: &str) {
    let mut key = SecretBox::<[u8; 4]>::new([1, 2, 3, 4]).unwrap();
    key.open_mut()[0] = 7;
    assert!(key.open() == [7, 2, 3, 4]);
    assert_eq!(format!("{:?}", key.open()), "Opened(..)");
    assert_eq!(format!("{:?}", key.open_mut()), "OpenedMut(..)");
    let mut values = SecretVec::take(&mut vec![1_u8, 2]).unwrap();
    values.open_mut()[1] = 9;
    assert!(values.open() == [1, 9][..]);
    let mut text = SecretString::take(&mut "Hunter2".to_owned()).unwrap();
    text.open_mut().make_ascii_uppercase();
    assert!(text.open() == *"HUNTER2");
    assert_eq!(unsealed(|| text.expose().len()), 7);
    seal_thread();
    assert_eq!(key.expose()[0], 7);
}
