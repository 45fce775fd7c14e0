//! Nobody said that this type may leave a scope.

struct Answer(#[allow(dead_code, reason = "a test")] Box<u32>);

fn main() {
    let _ = oubliette::scope(|| Answer(Box::new(42)));
}
