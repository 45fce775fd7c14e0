//! A field that is not checked.

struct Login {
    id: u64,
    name: String,
}

oubliette::impl_inline!(Login { id });

fn main() {}
