//! The programs of `oubliette_peers::programs` on mimalloc, plain or secure.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    oubliette_peers::programs::main();
}
