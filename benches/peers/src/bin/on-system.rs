//! The programs of `oubliette_peers::programs` on the C library's allocator.

#[global_allocator]
static ALLOCATOR: std::alloc::System = std::alloc::System;

fn main() {
    oubliette_peers::programs::main();
}
