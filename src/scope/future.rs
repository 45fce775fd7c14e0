//! A future that is made, polled and dropped in scopes.

// UNSAFETY: keeps the future in a block of the secret heap, by address, since it must neither move nor be
// made anywhere else first.
#![expect(unsafe_code, reason = "owns a raw block, see UNSAFETY above")]

use core::alloc::Layout;
use core::future::Future;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::pin::Pin;
use core::ptr::{self, NonNull};
use core::task::{Context, Poll};

use super::outcome::Outcome;
use super::run::Scope;
use crate::heap::{self, Heap};
use crate::{Error, Flush, Policy};

/// Where the futures are.
static SECRET: &Heap = heap::of(Policy::SECRET);

/// A future whose every step runs in a scope: it is made in one, each poll is one, and it is dropped in one,
/// also when that happens between two polls. What it keeps from one poll to the next is in the secret heap.
///
/// It works on any executor; a poll runs on whatever thread that chooses, and each thread has its own stack
/// for scopes. Give the closure its secrets by reference or in a secret type, and make the future inside:
///
/// ```
/// use oubliette::{ScopedFuture, SecretBox};
///
/// # tokio::runtime::Builder::new_multi_thread().build().unwrap().block_on(async {
/// let key = SecretBox::<[u8; 32]>::random().unwrap();
/// let first = ScopedFuture::new(|| async move {
///     let copy = *key.expose();              // in the future, which is in the secret heap
///     tokio::task::yield_now().await;        // not in a scope here: nothing of it is on a stack
///     copy[0] == key.expose()[0]
/// })
/// .unwrap();
/// assert!(first.await);
/// # });
/// ```
///
/// Allocations of the future's own come from the secret heap under [`ScopedAlloc`](crate::ScopedAlloc).
/// What it registers with the executor (a timer, a waker's place in a list) is allocated there as well, and
/// stays until the executor gives it back.
pub struct ScopedFuture<F: Future> {
    /// Invariant: a block of the secret heap with the layout of `F`, with a future in it that was pinned
    /// there and is not dropped before `self`.
    future: NonNull<F>,
    scope: Scope,
    owns: PhantomData<F>,
}

// SAFETY: it owns the future and nothing else, and the heap takes its blocks back from any thread.
unsafe impl<F: Future + Send> Send for ScopedFuture<F> {}

// SAFETY: a shared reference to it gives access to nothing.
unsafe impl<F: Future> Sync for ScopedFuture<F> {}

// The future does not move with it.
impl<F: Future> Unpin for ScopedFuture<F> {}

impl<F: Future> core::fmt::Debug for ScopedFuture<F> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ScopedFuture").finish_non_exhaustive()
    }
}

impl<F: Future> ScopedFuture<F>
where
    F::Output: Outcome,
{
    /// Calls `make` in a scope and keeps the future that it returns.
    ///
    /// # Errors
    ///
    /// When there is no memory for it in the secret heap, or no scope can be entered.
    pub fn new(make: impl FnOnce() -> F) -> Result<Self, Error> {
        Self::with(Scope::DEFAULT, make)
    }

    /// The same with scopes of this kind, for this call and for all polls.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn with(scope: Scope, make: impl FnOnce() -> F) -> Result<Self, Error> {
        let block = Block::<F>::new()?;
        scope.run(|| {
            let future = make();
            // SAFETY: a fresh block with the layout of `F`.
            unsafe { block.0.write(future) };
        })?;
        let future = ManuallyDrop::new(block).0;
        Ok(Self { future, scope, owns: PhantomData })
    }
}

/// A block without a future in it yet.
struct Block<F>(NonNull<F>);

impl<F> Block<F> {
    fn new() -> Result<Self, Error> {
        SECRET.allocate(Layout::new::<F>()).map(|block| Self(block.cast()))
    }
}

impl<F> Drop for Block<F> {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `new`, and nobody else has it.
        unsafe { SECRET.deallocate(self.0.cast(), Layout::new::<F>(), Flush::Immediate) };
    }
}

impl<F: Future> Future for ScopedFuture<F>
where
    F::Output: Outcome,
{
    type Output = F::Output;

    /// Polls in a scope.
    ///
    /// # Panics
    ///
    /// When this thread has no stack for scopes yet, and none can be locked or mapped.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let mut future = self.future;
        // SAFETY: by the invariant of `future` it is there, and `&mut Self` makes this the only access.
        let future = unsafe { future.as_mut() };
        // SAFETY: it stays in its block until it is dropped there (the invariant of `future`).
        let future = unsafe { Pin::new_unchecked(future) };
        match self.scope.run(|| future.poll(context)) {
            Ok(poll) => poll,
            Err(error) => super::run::refuse(error),
        }
    }
}

impl<F: Future> Drop for ScopedFuture<F> {
    fn drop(&mut self) {
        // Freed also when dropping the future panics.
        let block = Block(self.future);
        let future = block.0.as_ptr();
        // SAFETY: the future is there, and this is its end (the invariant of `future`).
        let dropped = self.scope.run(|| unsafe { ptr::drop_in_place(future) });
        if dropped.is_err() {
            // No scope on this thread: better here than not at all.
            // SAFETY: the scope was not entered, so the future is still there.
            unsafe { ptr::drop_in_place(future) };
        }
    }
}
