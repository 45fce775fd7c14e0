//! What a thread knows about its scopes, and the stacks it keeps for them.

// UNSAFETY: keeps stacks in a list of raw pointers, since a thread-local without a destructor can be read
// in an allocator and in a signal handler, and one with a destructor cannot.
#![expect(unsafe_code, reason = "a list of raw pointers, see UNSAFETY above")]

use core::alloc::Layout;
use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicIsize, Ordering};

use super::alternate::Alternate;
use super::stack::{Size, Stack};
use crate::heap::{self, MOST_SECRET_BYTES};
use crate::{Error, Flush, Policy, wipe};

/// Where the thread is, as its allocator must know. In this order, so that one compare decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// In no scope, or suspended: memory comes from the inner allocator.
    Outside,
    /// In the panic hook of a scope: memory comes from the inner allocator, for a backtrace keeps 50 MB of
    /// debug information for the life of the process, and is wiped when it is freed.
    Hook,
    /// In a scope that covers the heap alone.
    Heap,
    /// In a scope that covers everything, on its stack.
    Covered,
}

impl Place {
    /// Whether memory comes from the secret heap.
    #[inline(always)]
    pub(crate) fn has_secret_heap(self) -> bool {
        self >= Self::Heap
    }
}

/// Blocks of scopes that outlived them, of all threads. Relaxed: a count that orders nothing.
static OUTLIVING: AtomicIsize = AtomicIsize::new(0);

/// A thread's state.
///
/// # Invariants
///
/// 1. `idle` is a list, linked by `Stack::next`, of stacks made by `Box::into_raw` on this thread, on which
///    nothing runs.
/// 2. `current` is null, or the stack that runs now, which is not in the list and lives until it is left.
/// 3. `outer_sp` is where the outer stack ends while `place` is `Covered`: below it nothing is in use.
/// 4. `alternate` is null, or was made by `Box::into_raw` on this thread.
/// 5. `special` is the largest size of the secret heap outside of scopes, and the largest number in them.
pub(super) struct Here {
    place: Cell<Place>,
    special: Cell<usize>,
    pub(super) outer_sp: Cell<*mut u8>,
    current: Cell<*const Stack>,
    idle: Cell<*mut Stack>,
    alternate: Cell<*mut Alternate>,
    ending: Cell<Ending>,
    balance: Cell<isize>,
    owes: Cell<Owes>,
    frees: Cell<u32>,
}

/// What was freed in this scope, and is not past the caches for sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owes {
    /// Nothing.
    Nothing,
    /// Lines that were written back and not waited for.
    Fence,
    /// Lines that the heap remembers.
    WriteBack,
}

/// How to flush a block that is freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FreeFlush {
    /// Wait for it: no scope will.
    Now,
    /// Write it back, do not wait: the end of the scope does. Costs 5 ns a line.
    WriteBack,
    /// Let the heap remember its lines, and write back all that it remembers at the end of the scope. Costs
    /// next to nothing here, and a microsecond there.
    Remember,
}

/// Blocks that a scope frees before it lets the heap remember lines, and their largest size.
const FEW_BLOCKS: u32 = 128;
const SMALL_BYTES: usize = 1 << 10;

/// Whether the thread keeps stacks for later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// It has none yet, and nothing to give back at its end.
    Untouched,
    /// It gives them back when it ends.
    Guarded,
    /// It ends: what is made now is given back at once.
    Ended,
}

thread_local! {
    /// No destructor: it can be used at any time in the life of a thread, in an allocator and in a handler.
    static HERE: Here = const {
        Here {
            place: Cell::new(Place::Outside),
            special: Cell::new(MOST_SECRET_BYTES),
            outer_sp: Cell::new(ptr::null_mut()),
            current: Cell::new(ptr::null()),
            idle: Cell::new(ptr::null_mut()),
            alternate: Cell::new(ptr::null_mut()),
            ending: Cell::new(Ending::Untouched),
            balance: Cell::new(0),
            owes: Cell::new(Owes::Nothing),
            frees: Cell::new(0),
        }
    };

    /// Touched when the first stack is made, so that its destructor runs at the end of the thread.
    static AT_END: AtEnd = const { AtEnd };
}

struct AtEnd;

impl Drop for AtEnd {
    fn drop(&mut self) {
        with(|here| {
            here.ending.set(Ending::Ended);
            here.give_back();
        });
    }
}

/// The state of this thread.
#[inline(always)]
pub(super) fn with<R>(f: impl FnOnce(&Here) -> R) -> R {
    HERE.with(f)
}

/// Where this thread is.
#[inline(always)]
pub(crate) fn place() -> Place {
    HERE.with(|here| here.place.get())
}

/// Counts a block that this thread takes from the secret heap in a scope.
#[inline(always)]
pub(crate) fn count_allocated() {
    HERE.with(|here| here.balance.set(here.balance.get().wrapping_add(1)));
}

/// Counts a block that this thread gives back to the secret heap, in a scope or not, and tells how to flush
/// it.
#[inline(always)]
pub(crate) fn count_freed(bytes: usize) -> FreeFlush {
    let flush = flush_for_free(bytes);
    if flush == FreeFlush::Now {
        OUTLIVING.fetch_sub(1, Ordering::Relaxed);
    } else {
        HERE.with(|here| here.balance.set(here.balance.get().wrapping_sub(1)));
    }
    flush
}

/// How to flush a block of this size that is freed now.
#[inline(always)]
pub(crate) fn flush_for_free(bytes: usize) -> FreeFlush {
    HERE.with(|here| {
        if here.place.get() == Place::Outside {
            return FreeFlush::Now;
        }
        let frees = here.frees.get();
        if frees < FEW_BLOCKS && bytes <= SMALL_BYTES {
            here.frees.set(frees.wrapping_add(1));
            here.owe(Owes::Fence);
            return FreeFlush::WriteBack;
        }
        here.owe(Owes::WriteBack);
        FreeFlush::Remember
    })
}

/// Notes that lines were written back which the end of the scope has to wait for.
pub(crate) fn owe_fence() {
    HERE.with(|here| here.owe(Owes::Fence));
}

/// Blocks of the secret heap that outlived the scope that they were allocated in.
pub(crate) fn outliving_blocks() -> usize {
    usize::try_from(OUTLIVING.load(Ordering::Relaxed)).unwrap_or(0)
}

/// Whether a block that starts this far above the start of the secret heap may have to be freed in another way
/// than by the inner allocator: one thread-local read and one compare.
#[inline(always)]
pub(crate) fn is_special(offset: usize) -> bool {
    HERE.with(|here| offset < here.special.get())
}

/// Stack and place to go back to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    place: Place,
    outer_sp: *mut u8,
    current: *const Stack,
}

impl Here {
    /// Where the thread is.
    #[inline]
    pub(super) fn place(&self) -> Place {
        self.place.get()
    }

    /// Goes somewhere else; [`back`](Self::back) undoes it.
    #[inline]
    pub(super) fn go(&self, place: Place, current: *const Stack) -> Before {
        let before =
            Before { place: self.place.get(), outer_sp: self.outer_sp.get(), current: self.current.get() };
        self.current.set(current);
        self.set_place(place);
        before
    }

    /// Keeps invariant 5.
    #[inline(always)]
    fn set_place(&self, place: Place) {
        self.place.set(place);
        self.special.set(if place == Place::Outside { MOST_SECRET_BYTES } else { usize::MAX });
    }

    /// Goes back.
    #[inline]
    pub(super) fn back(&self, before: Before) {
        self.set_place(before.place);
        self.outer_sp.set(before.outer_sp);
        self.current.set(before.current);
    }

    /// At the end of a scope: adds up what outlives it, and writes back what was freed in it.
    #[inline]
    pub(super) fn settle(&self, flush: Flush) {
        if self.balance.get() != 0 {
            OUTLIVING.fetch_add(self.balance.replace(0), Ordering::Relaxed);
        }
        if self.owes.get() != Owes::Nothing {
            self.pay(flush);
        }
    }

    /// Waits for what was freed.
    #[inline(never)]
    fn pay(&self, flush: Flush) {
        self.frees.set(0);
        match self.owes.replace(Owes::Nothing) {
            _ if flush == Flush::Off => {}
            Owes::Nothing => {}
            Owes::Fence => wipe::fence(),
            Owes::WriteBack => heap::of(Policy::SECRET).flush_thread(),
        }
    }

    /// Owes this much at least.
    #[inline(always)]
    fn owe(&self, owes: Owes) {
        self.owes.set(self.owes.get().max(owes));
    }

    /// Takes an idle stack, or makes one, and makes the alternate signal stack if there is none.
    #[inline]
    pub(super) fn take(&self, size: Size) -> Result<*mut Stack, Error> {
        let head = self.idle.get();
        if !head.is_null() && !self.alternate.get().is_null() {
            // SAFETY: a stack in the list is alive (invariant 1).
            let stack = unsafe { &*head };
            if stack.fits(size) && stack.is_here() {
                self.idle.set(stack.next.get());
                return Ok(head);
            }
        }
        self.take_slow(size)
    }

    #[cold]
    #[inline(never)]
    fn take_slow(&self, size: Size) -> Result<*mut Stack, Error> {
        self.forget_inherited();
        // What is made here belongs to no scope.
        let before = self.go(Place::Outside, self.current.get());
        let made = self.find_or_make(size);
        self.back(before);
        made
    }

    fn find_or_make(&self, size: Size) -> Result<*mut Stack, Error> {
        if self.alternate.get().is_null() {
            self.alternate.set(Box::into_raw(Box::new(Alternate::install()?)));
        }
        let mut link = &self.idle;
        loop {
            let stack = link.get();
            if stack.is_null() {
                break;
            }
            // SAFETY: a stack in the list is alive (invariant 1), and stays so: only `give_back` ends one.
            let found = unsafe { &*stack };
            if found.fits(size) {
                link.set(found.next.get());
                return Ok(stack);
            }
            link = &found.next;
        }
        self.warm_heap_up()?;
        let stack = Box::into_raw(Box::new(Stack::new(size)?));
        if self.ending.get() == Ending::Untouched && AT_END.try_with(|_| ()).is_ok() {
            self.ending.set(Ending::Guarded);
        }
        Ok(stack)
    }

    /// Takes a block as the scope would and gives it back, so that the secret heap is set up for this thread
    /// by now, on the normal stack, if the global allocator leads there at all; and tells why if it cannot.
    fn warm_heap_up(&self) -> Result<(), Error> {
        let layout = Layout::new::<u64>();
        let before = self.go(Place::Heap, self.current.get());
        // SAFETY: the layout is not of size zero.
        let block = unsafe { std::alloc::alloc(layout) };
        // An allocation that nobody looks at may be optimised away.
        let block = core::hint::black_box(block);
        if !block.is_null() {
            // SAFETY: allocated just now with this layout.
            unsafe { std::alloc::dealloc(block, layout) };
        }
        self.back(before);
        if block.is_null() {
            // The same once more, for the reason.
            let block = heap::of(Policy::SECRET).allocate(layout)?;
            // SAFETY: allocated just now with this layout.
            unsafe { heap::of(Policy::SECRET).deallocate(block, layout, Flush::Off) };
        }
        Ok(())
    }

    /// Puts a stack back, cleaned by the caller.
    #[inline]
    pub(super) fn put(&self, stack: *mut Stack) {
        // SAFETY: it came from `take` and is alive (invariant 2).
        unsafe { &*stack }.next.set(self.idle.get());
        self.idle.set(stack);
        if self.ending.get() == Ending::Ended {
            self.give_back();
        }
    }

    /// The same for one that is seldom wanted: behind the others, so that they are found first.
    pub(super) fn put_last(&self, stack: *mut Stack) {
        // SAFETY: it came from `take` and is alive (invariant 2).
        unsafe { &*stack }.next.set(ptr::null_mut());
        let mut link = &self.idle;
        while !link.get().is_null() {
            // SAFETY: a stack in the list is alive (invariant 1).
            link = &unsafe { &*link.get() }.next;
        }
        link.set(stack);
        if self.ending.get() == Ending::Ended {
            self.give_back();
        }
    }

    /// Wipes what signals left on the alternate stack.
    #[inline]
    pub(super) fn clean_alternate(&self, flush: Flush) {
        let alternate = self.alternate.get();
        if !alternate.is_null() {
            // SAFETY: alive (invariant 4).
            unsafe { &*alternate }.clean(flush);
        }
    }

    /// In a forked child, the stacks of the parent are not there any more: forgets them. Their boxes leak,
    /// which is one small block for each.
    fn forget_inherited(&self) {
        let head = self.idle.get();
        // SAFETY: a stack in the list is alive (invariant 1).
        if !head.is_null() && !unsafe { &*head }.is_here() {
            self.idle.set(ptr::null_mut());
            self.alternate.set(ptr::null_mut());
        }
    }

    /// Gives all idle stacks back, and the alternate one.
    #[cold]
    fn give_back(&self) {
        self.forget_inherited();
        let mut next = self.idle.replace(ptr::null_mut());
        while !next.is_null() {
            // SAFETY: made by `Box::into_raw`, and in no list any more (invariant 1).
            let stack = unsafe { Box::from_raw(next) };
            next = stack.next.get();
            stack.release();
        }
        let alternate = self.alternate.replace(ptr::null_mut());
        if !alternate.is_null() {
            // SAFETY: made by `Box::into_raw`, and nobody else has the pointer (invariant 4).
            unsafe { Box::from_raw(alternate) }.release();
        }
    }

    /// Whether the address is in the guard of the stack that runs now. For a signal handler.
    fn is_overflow(&self, address: usize) -> bool {
        let current = self.current.get();
        // SAFETY: the stack that runs is alive (invariant 2).
        !current.is_null() && unsafe { &*current }.is_overflow(address)
    }
}

/// Whether a fault at this address is an overflow of the scope stack that this thread runs on.
pub(super) fn is_overflow(address: usize) -> bool {
    with(|here| here.is_overflow(address))
}
