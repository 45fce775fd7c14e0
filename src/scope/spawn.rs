//! A thread whose whole life is a scope.

use std::io;
use std::thread::{Builder, JoinHandle};

use super::outcome::Outcome;
use super::run::scope;

/// Starts a thread that runs `f` in a scope of its own. Threads started in any other way do not inherit the
/// scope of the thread that starts them.
///
/// `f` is moved to the new thread through memory that the caller's allocator gives: called in a scope that
/// is the secret heap. Its result is an [`Outcome`], as for [`scope`]. A panic comes out of
/// [`JoinHandle::join`].
///
/// ```
/// let thread = oubliette::spawn_scoped(|| u64::from(oubliette::is_in_scope()))?;
/// assert_eq!(thread.join().unwrap(), 1);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// When the system has no thread for it.
pub fn spawn_scoped<R, F>(f: F) -> io::Result<JoinHandle<R>>
where
    R: Outcome + Send + 'static,
    F: FnOnce() -> R + Send + 'static,
{
    Builder::new().name("oubliette scope".into()).spawn(move || scope(f))
}
