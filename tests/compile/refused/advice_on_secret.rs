//! What would betray a secret cannot be asked of secret memory.

use oubliette::{Advice, Error, GuardedPages, Secret};

fn main() -> Result<(), Error> {
    let mut key = GuardedPages::<Secret>::new(32)?;
    key.advise(Advice::PageOut)?;
    key.advise(Advice::Mergeable)?;
    key.advise(Advice::DoDump)?;
    key.advise(Advice::KeepOnFork)?;
    key.advise(Advice::Collapse)?;
    key.advise(Advice::<Secret>::HugePage)?;
    Ok(())
}
