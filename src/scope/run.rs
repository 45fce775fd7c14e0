//! The public ways into a scope and out of it.

use super::enter;
use super::outcome::Outcome;
use super::stack::Size;
use super::thread::{self, Place};
use crate::{Error, Flush};

/// What a scope covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cover {
    /// The heap, the stack, the registers and the alternate signal stack.
    Everything,
    /// The heap alone: the closure runs on the normal stack and leaves there, and in the registers, what
    /// it leaves.
    Heap,
}

/// How scopes are run. A value of it is a constant; it owns nothing.
///
/// ```
/// use oubliette::Scope;
/// const DEEP: Scope = Scope::builder().stack_bytes(1 << 20).build();
/// let sum = DEEP.run(|| (1..=100_u32).sum::<u32>())?;
/// assert_eq!(sum, 5050);
/// # Ok::<(), oubliette::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    stack_bytes: usize,
    window_bytes: usize,
    cover: Cover,
    flush: Flush,
}

/// Makes a [`Scope`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "it does nothing before `build` and `run`"]
pub struct ScopeBuilder(Scope);

impl Scope {
    /// What [`scope`] uses: 64 KiB of stack of which 8 KiB are always pinned, everything covered, flushed.
    pub const DEFAULT: Self = Self {
        stack_bytes: 64 << 10,
        window_bytes: 8 << 10,
        cover: Cover::Everything,
        flush: Flush::Immediate,
    };

    /// Starts from the default.
    pub const fn builder() -> ScopeBuilder {
        ScopeBuilder(Self::DEFAULT)
    }

    /// Runs `f` in such a scope. Within another scope that covers as much, `f` continues on its stack.
    ///
    /// # Errors
    ///
    /// When the thread has no such stack yet, and none can be locked or mapped. `f` was not called then.
    #[inline]
    pub fn run<R: Outcome, F: FnOnce() -> R>(self, f: F) -> Result<R, Error> {
        match self.cover {
            Cover::Heap => Ok(enter::with_heap(self.flush, f)),
            Cover::Everything => {
                let size = Size { stack_bytes: self.stack_bytes, window_bytes: self.window_bytes };
                enter::covered(size, self.flush, f)
            }
        }
    }
}

impl ScopeBuilder {
    /// The size of the stack, rounded up to whole pages. It counts against `RLIMIT_MEMLOCK`, once for each
    /// thread that enters scopes.
    pub const fn stack_bytes(self, bytes: usize) -> Self {
        Self(Scope { stack_bytes: bytes, ..self.0 })
    }

    /// How much of the stack, counted from its start, is pinned before it is first used. Deeper parts are
    /// locked when they are first touched, and pinned from the end of that scope on. Each scope looks
    /// through this part, at 5 ns a KiB.
    pub const fn pinned_bytes(self, bytes: usize) -> Self {
        Self(Scope { window_bytes: bytes, ..self.0 })
    }

    /// What is covered.
    pub const fn cover(self, cover: Cover) -> Self {
        Self(Scope { cover, ..self.0 })
    }

    /// Whether the zeros that replace what was on the stack are sent past the caches before the scope
    /// returns. There is nothing to put off for a stack, so [`Flush::Bounded`] is the same as
    /// [`Flush::Immediate`].
    pub const fn flush(self, flush: Flush) -> Self {
        Self(Scope { flush, ..self.0 })
    }

    /// The scope.
    #[must_use]
    pub const fn build(self) -> Scope {
        self.0
    }
}

/// Runs `f` so that it leaves nothing behind: on a stack that is wiped, with registers that are cleared,
/// and, under [`ScopedAlloc`](crate::ScopedAlloc), with all its memory from the secret heap.
///
/// Secrets go in by reference and come out in a secret type. What the closure owned by value, or returns
/// by value, was or will be outside:
///
/// ```
/// # fn third_party_mac(key: &[u8; 32], message: &[u8]) -> [u8; 16] { [key[0] ^ message[0]; 16] }
/// # let key = [7_u8; 32];
/// let tag = oubliette::scope(|| third_party_mac(&key, b"message"));
/// # assert_eq!(tag[0], 7 ^ b'm');
/// ```
///
/// A panic in `f` unwinds out of the scope when all is wiped. Its payload stays in the secret heap.
///
/// # Panics
///
/// When no stack can be locked or mapped, with the message of the [`Error`]; [`try_scope`] returns it.
#[inline]
pub fn scope<R: Outcome, F: FnOnce() -> R>(f: F) -> R {
    match try_scope(f) {
        Ok(outcome) => outcome,
        Err(error) => refuse(error),
    }
}

/// Runs `f` as [`scope`] does.
///
/// # Errors
///
/// When the thread has no stack for it yet, and none can be locked or mapped. `f` was not called then.
#[inline]
pub fn try_scope<R: Outcome, F: FnOnce() -> R>(f: F) -> Result<R, Error> {
    Scope::DEFAULT.run(f)
}

/// Runs `f` outside of the scope that this thread is in: on its normal stack, with the inner allocator, and
/// without anything of the scope in its registers. In no scope it is just a call.
///
/// For what would fill the secret heap with things that are not secret, or needs a large stack: logging,
/// caches, starting a thread or a process. What `f` captures or computes there is not covered.
#[inline]
pub fn suspended<R, F: FnOnce() -> R>(f: F) -> R {
    enter::suspended(f)
}

/// Whether this thread is in a scope, and not suspended.
#[must_use]
#[inline]
pub fn is_in_scope() -> bool {
    matches!(thread::place(), Place::Heap | Place::Covered)
}

#[cold]
#[inline(never)]
pub(super) fn refuse(error: Error) -> ! {
    panic!("cannot enter a scope: {error}")
}
