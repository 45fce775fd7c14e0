//! The programs of `oubliette_peers::programs` on the secret heap, with the caches left to themselves.

use oubliette::{Flush, Oubliette, Policy};

#[global_allocator]
static ALLOCATOR: Oubliette = Oubliette::with_policy(Policy::PROGRAM.with_flush(Flush::Off));

fn main() {
    oubliette_peers::programs::main();
}
