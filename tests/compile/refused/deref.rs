//! A look at a secret is taken on purpose only.

fn main() -> Result<(), oubliette::Error> {
    let key = oubliette::SecretVec::<u8>::random(32)?;
    let _ = key.iter();
    let _: &[u8] = &key;
    let _ = key[0];
    Ok(())
}
