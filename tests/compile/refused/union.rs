//! A union may hold something else than the field that is checked.

union Either {
    number: u64,
    name: core::mem::ManuallyDrop<&'static str>,
}

oubliette::impl_inline!(Either { number });

fn main() {}
