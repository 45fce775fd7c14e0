//! An enum has no fields to check; the first variant need not be zeros.

enum Kind {
    Key = 1,
}

oubliette::impl_inline!(Kind {});

fn main() {}
