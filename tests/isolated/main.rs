//! `IsolatedBox`, looked at from outside: what the kernel says of its pages, who dies that touches them, how many
//! fit, what a child sees, and what is left at the end.
#![expect(
    unsafe_code,
    reason = "touches pages that must not be touched, in child processes, and makes system calls"
)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::mem_forget,
    reason = "a test may panic, and leaks on purpose"
)]
#![cfg(target_os = "linux")]

mod cold;
mod crimes;
#[cfg(feature = "fault-injection")]
mod faults;
#[cfg(not(feature = "fault-injection"))]
mod faults {
    pub(super) const ROLES: &[super::support::child::Role] = &[];
}
mod guards;
mod hidden;
mod kernel;
mod ready;
mod scale;
#[path = "../support/mod.rs"]
mod support;

use oubliette::{Error, IsolatedBox};
use support::child;

type Key = [u8; 32];

/// A key of one byte, over and over.
fn key_of(byte: u8) -> IsolatedBox<Key> {
    try_key_of(byte).unwrap()
}

fn try_key_of(byte: u8) -> Result<IsolatedBox<Key>, Error> {
    IsolatedBox::new_with(|key: &mut Key| key.fill(byte))
}

/// Where the secret lies; it is sealed again afterwards.
fn address_of<T: oubliette::Inline>(secret: &IsolatedBox<T>) -> usize {
    let open = secret.open().unwrap();
    (&raw const *open).addr()
}

#[test]
#[ignore = "runs in a child of the other tests"]
fn role() {
    child::play(
        &[
            cold::ROLES,
            crimes::ROLES,
            faults::ROLES,
            guards::ROLES,
            hidden::ROLES,
            kernel::ROLES,
            ready::ROLES,
            scale::ROLES,
        ]
        .concat(),
    );
}
