//! A drop-in `malloc` for any Linux program, by `LD_PRELOAD`:
//!
//! ```text
//! cargo build --release --example preload
//! LD_PRELOAD=$PWD/target/release/examples/libpreload.so gpg --full-generate-key
//! ```
//!
//! Every block of the program lives in the heap of `oubliette` then: guarded, locked as far as the limit goes,
//! kept out of core dumps, wiped when it is freed and flushed past the caches within a bound, with a canary
//! behind it and a check at its next use. What the functions promise is what malloc(3) and posix_memalign(3)
//! of the C library promise.
//!
//! | variable | value | meaning |
//! |---|---|---|
//! | `OUBLIETTE_FLUSH` | `bounded` (default), `off`, `immediate` | when freed lines leave the CPU's caches |
//! | `OUBLIETTE_LOCK` | `best-effort` (default), `off` | whether pages are locked |
//! | `OUBLIETTE_REPORT` | a path | a line about the heap is appended there when the process exits |
//!
//! They are read once, at the first allocation, and ignored in programs that run with the rights of others
//! (`secure_getenv(3)`). A value that is none of these counts as the default.
//!
//! For programs that use libsodium's guarded heap, its functions are here too ([`sodium`]): each secret on pages
//! of its own.
#![expect(unsafe_code, reason = "a C interface")]
#![cfg(target_os = "linux")]
// Nothing here is called from Rust.
#![allow(unreachable_pub, reason = "the functions are public symbols of a C library")]

#[path = "preload/aligned.rs"]
mod aligned;
#[path = "preload/choice.rs"]
mod choice;
#[path = "preload/empty.rs"]
mod empty;
#[path = "preload/errno.rs"]
mod errno;
#[path = "preload/heap.rs"]
mod heap;
#[path = "preload/life.rs"]
mod life;
#[path = "preload/plain.rs"]
mod plain;
#[path = "preload/sodium.rs"]
mod sodium;
#[path = "preload/sodium_table.rs"]
mod sodium_table;
#[path = "preload/tuning.rs"]
mod tuning;
