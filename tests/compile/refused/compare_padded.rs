//! Bytes of padding cannot be compared.

use oubliette::SecretBox;

fn main() -> Result<(), oubliette::Error> {
    let left = SecretBox::new((1_u8, 2_u32))?;
    let right = SecretBox::new((1_u8, 2_u32))?;
    assert!(left == right);
    Ok(())
}
