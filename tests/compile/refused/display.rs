//! A secret is not printed.

fn main() -> Result<(), oubliette::Error> {
    let key = oubliette::SecretBox::<u64>::random()?;
    println!("{key}");
    println!("{}", oubliette::SecretString::new());
    Ok(())
}
