//! The programs of `oubliette_peers::programs` on zeroizing-alloc over the C library's allocator.

use std::alloc::System;

#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<System> = zeroizing_alloc::ZeroAlloc(System);

fn main() {
    oubliette_peers::programs::main();
}
