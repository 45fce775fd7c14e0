//! What a crate can do that forbids `unsafe` (see the top of `main.rs`) and has every lint on.

#![deny(warnings, unused)]

use oubliette::{SecretBox, SecretVec, impl_inline};

struct Session {
    key: [u8; 32],
    counter: u64,
    flags: (bool, char),
}

impl_inline!(Session { key, counter, flags });

struct Seed([u8; 64], u32);

impl_inline!(Seed { 0, 1 });

struct Token;

impl_inline!(Token {});

#[test]
fn a_crate_without_unsafe_keeps_its_own_types_in_secret_blocks() -> Result<(), oubliette::Error> {
    let session = SecretBox::<Session>::new_with(|session| session.counter = 7)?;
    assert_eq!((session.expose().counter, session.expose().key[31]), (7, 0));
    assert_eq!(session.expose().flags, (false, '\0'));
    let seeds = SecretVec::<Seed>::new_with(3, |seeds| seeds.iter_mut().for_each(|seed| seed.1 = 5))?;
    assert!(seeds.expose().iter().all(|seed| (seed.0, seed.1) == ([0; 64], 5)));
    SecretBox::new(Token)?;
    Ok(())
}
