//! Allocators for whole programs, ours and others.

use std::alloc::{GlobalAlloc, System};

use oubliette::{Flush, Oubliette, Policy};

static BOUNDED: Oubliette = Oubliette::new();
static OFF: Oubliette = Oubliette::with_policy(Policy::PROGRAM.with_flush(Flush::Off));
static ZEROIZING: zeroizing_alloc::ZeroAlloc<System> = zeroizing_alloc::ZeroAlloc(System);

pub type Allocator = &'static (dyn GlobalAlloc + Sync);

/// What this build calls mimalloc: its secure mode is a build of its own.
pub const MIMALLOC: &str = if cfg!(feature = "mimalloc-secure") { "mimalloc secure" } else { "mimalloc" };

/// Every allocator with its name; in a build with `mimalloc-secure` only those that are needed beside it.
pub fn all() -> Vec<(&'static str, Allocator)> {
    let mut all: Vec<(&'static str, Allocator)> = vec![
        ("System", &System),
        ("Oubliette", &BOUNDED),
        ("Oubliette, flush off", &OFF),
        (MIMALLOC, &mimalloc::MiMalloc),
    ];
    if !cfg!(feature = "mimalloc-secure") {
        all.push(("snmalloc", &snmalloc_rs::SnMalloc));
        all.push(("jemalloc", &tikv_jemallocator::Jemalloc));
        all.push(("zeroizing-alloc", &ZEROIZING));
    }
    all
}

/// The allocator of this name.
pub fn by_name(name: &str) -> Option<Allocator> {
    all().into_iter().find(|(other, _)| *other == name).map(|(_, allocator)| allocator)
}
