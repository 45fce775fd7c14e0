//! A `Vec` would take memory of the scope with it.

fn main() {
    let _ = oubliette::scope(|| vec![7_u8; 32]);
}
