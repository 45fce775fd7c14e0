//! What this thread holds, at a fixed distance from the thread pointer: for x86-64 Linux with the GNU C library.
//!
//! ```text
//! .tdata        NONE NONE NONE ...      the image that each thread's copy begins with: NR_HEAPS pointers
//! a thread      ... [ copy ] ... fs:0   at fs:0 + HELD@GOTTPOFF, which the linker or the loader works out
//! ```
//!
//! # Invariants
//! 1. Each thread's copy consists of `NR_HEAPS` words, each of them a `&'static ThreadHeap` at all times.
//!    *It is made* from the image, whose words are the address of [`NONE`], before the thread runs its first
//!    instruction, or for a library that is loaded later, by `dlopen` for all threads before it returns (the ELF
//!    Handling For Thread-Local Storage, U. Drepper, 2013, sections 3 and 4.3: the initial exec model); the address
//!    in it is relocated before, as any other in a data section. *It changes* by [`replace`] alone, one store of one
//!    aligned word, so that a signal handler at any moment finds either value. *It goes* with the thread's stack: no
//!    code of the thread runs after that. A forked child has the copy of the thread that forked.
//! 2. A copy is used by its own thread only: its address is found by the thread pointer, and no pointer to it is handed
//!    out.
//!
//! Code that switches stacks and goes on in another thread inside one function may find the former thread's copy, as with
//! every thread-local variable whose address the compiler may keep. (A future is none: it goes on in another call.)
//!
//! The name of the variable has the version in it, since two versions of this crate may be in one program, each with
//! thread heaps of its own. (Two of the same version do not link.)

// UNSAFETY: defines and reads a thread-local variable by assembly.
#![expect(
    unsafe_code,
    reason = "the compiler offers this model of thread-local variables for unstable Rust only"
)]

use core::arch::{asm, global_asm};

use super::super::NR_HEAPS;
use super::super::thread::{NONE, ThreadHeap};

/// The variable's name, with something before and behind it.
macro_rules! held {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            "oubliette_held_",
            env!("CARGO_PKG_VERSION_MAJOR"),
            "_",
            env!("CARGO_PKG_VERSION_MINOR"),
            "_",
            env!("CARGO_PKG_VERSION_PATCH"),
            $after
        )
    };
}

global_asm!(
    held!(".pushsection .tdata.", ", \"awT\", @progbits"),
    ".balign 8",
    held!(".globl ", ""),
    held!(".hidden ", ""),
    held!(".type ", ", @tls_object"),
    held!("", ":"),
    ".rept {count}",
    ".quad {none}",
    ".endr",
    held!(".size ", ", {count} * 8"),
    ".popsection",
    count = const NR_HEAPS,
    none = sym NONE,
);

const _: () = assert!(size_of::<&ThreadHeap>() == 8, "a word each");

/// What this thread holds of heap `index`: three instructions if that is constant.
#[inline(always)]
pub(crate) fn get(index: usize) -> &'static ThreadHeap {
    match place(index) {
        // SAFETY: a word of this thread's copy, which is a reference (1) and changes in this thread only (2).
        Some(place) => unsafe { place.read() },
        None => NONE.get(),
    }
}

/// Sets what this thread holds of heap `index`, and gives what it held before.
pub(crate) fn replace(index: usize, new: &'static ThreadHeap) -> &'static ThreadHeap {
    match place(index) {
        // SAFETY: a word of this thread's copy, which nobody else uses (2), and which is a reference before and after
        // (1).
        Some(place) => unsafe { place.replace(new) },
        None => NONE.get(),
    }
}

/// Where this thread's copy has the word of heap `index`, if it has one.
///
/// The thread pointer and the distance apart, so that the compiler can add them where it reads the word. (All in one
/// block that gives the word is an instruction less, and costs two more: the compiler moves what assembly gives to
/// another register before it adds to it.)
#[inline(always)]
fn place(index: usize) -> Option<*mut &'static ThreadHeap> {
    let thread_pointer: *mut &'static ThreadHeap;
    // SAFETY: reads the word at fs:0, which is the thread pointer itself (System V ABI, AMD64 supplement, 3.4.6 "the
    // thread control block"; U. Drepper, section 4.4.6); no stack, no flags. `pure` and `nomem`: the word is no memory
    // of Rust's and never changes in a thread.
    unsafe {
        asm!(
            "mov {}, qword ptr fs:[0]",
            lateout(reg) thread_pointer,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    let distance: usize;
    // SAFETY: reads a word of the GOT, or has it as a constant from the linker; no stack, no flags. `pure` and `nomem`:
    // the word never changes after the loader has written it.
    unsafe {
        asm!(
            held!("mov {}, qword ptr [rip + ", "@GOTTPOFF]"),
            lateout(reg) distance,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    (index < NR_HEAPS).then(|| thread_pointer.wrapping_byte_add(distance).wrapping_add(index))
}
