//! The programs of `oubliette_peers::programs` on the secret heap.

#[global_allocator]
static ALLOCATOR: oubliette::Oubliette = oubliette::Oubliette::new();

fn main() {
    oubliette_peers::programs::main();
}
