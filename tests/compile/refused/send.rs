//! An owner is sent only where its value may be.

struct OneThread {
    key: [u8; 32],
    here: core::marker::PhantomData<*const u8>,
}

// SAFETY: zeros are valid for an array of bytes; the marker has no bytes.
unsafe impl oubliette::Inline for OneThread {}

fn main() -> Result<(), oubliette::Error> {
    let key = oubliette::SecretBox::<OneThread>::new_with(|_| {})?;
    std::thread::spawn(move || key.expose().key);
    Ok(())
}
