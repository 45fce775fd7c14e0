//! What would betray a secret cannot be asked of secret memory.

use oubliette::{Advice, Error, GuardedPages, Secret};

fn main() -> Result<(), Error> {
    let mut key = GuardedPages::<Secret>::new(32)?;
    key.advise(Advice::PAGE_OUT)?;
    key.advise(Advice::MERGEABLE)?;
    key.advise(Advice::DO_DUMP)?;
    key.advise(Advice::KEEP_ON_FORK)?;
    key.advise(Advice::COLLAPSE)?;
    key.advise(Advice::<Secret>::HUGE_PAGE)?;
    Ok(())
}
