//! What is exposed is borrowed from the owner.

fn main() -> Result<(), oubliette::Error> {
    let key = oubliette::SecretBox::<[u8; 32]>::random()?;
    let bytes = key.expose();
    drop(key);
    assert_eq!(bytes[0], 0);
    Ok(())
}
