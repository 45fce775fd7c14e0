//! A secret is not serialised.

fn serialize<T: serde::Serialize>(_: &T) {}

fn main() -> Result<(), oubliette::Error> {
    serialize(&oubliette::SecretBox::<u64>::random()?);
    Ok(())
}
