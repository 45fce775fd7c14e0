//! Not every byte is a `bool`.

fn main() {
    let _ = oubliette::SecretBox::<bool>::random();
}
