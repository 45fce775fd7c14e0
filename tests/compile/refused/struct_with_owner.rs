//! A field that owns other memory.

struct Login {
    id: u64,
    name: String,
}

oubliette::impl_inline!(Login { id, name });

fn main() {}
