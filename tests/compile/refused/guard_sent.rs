//! A guard belongs to the thread that made it: under a protection key it is that thread's right.

use oubliette::{IsolatedBox, SecretBox};

fn main() -> Result<(), oubliette::Error> {
    let root = IsolatedBox::<[u8; 32]>::random()?;
    let key = SecretBox::<[u8; 32]>::random()?;
    let open = root.open()?;
    let dense = key.open();
    std::thread::scope(|scope| {
        scope.spawn(move || open[0]);
        scope.spawn(|| dense[0]);
    });
    Ok(())
}
