//! `scope(f)`: what `f` does leaves nothing behind, in the heap, on the stack or in the registers.
//!
//! | file | what |
//! |---|---|
//! | `run` | [`scope`], [`suspended`], [`Scope`] and its builder |
//! | `enter` | into a scope and out of it |
//! | `outcome` | what may leave a scope by value |
//! | `future`, `spawn` | scopes for futures and threads |
//! | `thread` | what a thread knows: where it is, and its stacks |
//! | `stack`, `tracked`, `scan` | a stack, and how much of it was used |
//! | `alternate`, `process` | signals, faults, panics |
//! | `switch`, `registers` | the assembly |
//! | `stats` | what [`report()`](crate::report()) shows |

mod alternate;
mod enter;
mod future;
mod outcome;
mod process;
mod registers;
mod run;
mod scan;
mod spawn;
mod stack;
mod stats;
mod switch;
mod thread;
mod tracked;

#[cfg(test)]
mod tests;

pub use future::ScopedFuture;
pub use outcome::Outcome;
pub use run::{Cover, Scope, ScopeBuilder, is_in_scope, scope, suspended, try_scope};
pub use spawn::spawn_scoped;
pub use stats::{Registers, ScopeReport};
pub(crate) use thread::{
    FreeFlush, Place, count_allocated, count_freed, flush_for_free, is_special, outliving_blocks, owe_fence,
    place,
};
