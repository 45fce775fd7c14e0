//! A program cannot run on sealed memory.

use oubliette::{Oubliette, Policy, Seal};

#[global_allocator]
static ALLOC: Oubliette = Oubliette::with_policy(Policy::PROGRAM.with_seal(Seal::ProtectionKey));

fn main() {}
