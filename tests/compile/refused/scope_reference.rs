//! A reference names memory that may be the scope's.

fn main() {
    let key = [7_u8; 32];
    let _ = oubliette::scope(|| &key);
}
