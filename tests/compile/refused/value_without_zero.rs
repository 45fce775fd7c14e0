//! A wiped secret reads as zeros, which are no `NonZero`.

fn main() {
    let _ = oubliette::SecretBox::new(core::num::NonZeroU64::MIN);
}
