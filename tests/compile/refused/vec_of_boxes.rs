//! A `Box` keeps its value elsewhere.

fn main() {
    let _ = oubliette::SecretVec::<Box<[u8; 32]>>::new();
}
