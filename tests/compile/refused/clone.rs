//! A second copy is made on purpose only.

fn main() -> Result<(), oubliette::Error> {
    let key = oubliette::SecretBox::<[u8; 32]>::random()?;
    let _ = key.clone();
    let text = oubliette::SecretString::new();
    let _ = text.clone();
    Ok(())
}
