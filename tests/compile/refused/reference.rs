//! A reference names memory elsewhere.

fn main() {
    let key = [7_u8; 32];
    let _ = oubliette::SecretBox::new(&key);
}
