//! The thread heaps that this thread holds: one pointer for each heap, [`NONE`] where it holds none. Every allocation
//! and every free begins here.
//!
//! Two designs, one file each:
//!
//! 1. `thread_local!`. In a program that is two instructions. In a shared library it is a call of `__tls_get_addr`,
//!    about twelve instructions and the registers that the caller has to save around it, since a library has to expect
//!    that it is loaded late, and that its thread-locals may be anywhere (the model "general dynamic"). Which model it is
//!    cannot be chosen in stable Rust.
//! 2. A thread-local variable of our own, defined and found by assembly, in the model "initial exec": the loader puts
//!    it at a fixed distance from the thread pointer, and the distance into the GOT. That is three instructions in a
//!    library as well as in a program, where the linker knows the distance; in a loop two of them come before it. The C
//!    libraries of mimalloc and jemalloc are built that way (`-ftls-model=initial-exec`).
//!
//! Measured: `json.load` of Python under `examples/preload` takes 642 million instructions with the second one, and 666
//! with the first. Allocating and freeing 32 bytes in a Rust program takes two more of about a hundred, or none in a loop
//! of a constant layout (`ci/instructions`).
//!
//! The second one wins where it can be had: x86-64 Linux with the GNU C library, which keeps room for such variables
//! of libraries that are loaded later (`dlopen`): 1,664 bytes for all of them (ld.so(8), `rtld.optional_static_tls`),
//! of which these are 160. The first one is for everything else: other systems, Miri, and programs in which the crate
//! is part of a Rust `dylib`, which does not export what assembly defines: they are built with
//! `--cfg oubliette_thread_local`.
//!
//! Both are without a destructor, so that they can be used at any time, also in the destructors of other thread-locals,
//! in functions at exit and in signal handlers. `threads` has the destructor.
//!
//! [`NONE`]: super::thread::NONE

#[cfg(all(
    target_arch = "x86_64",
    target_pointer_width = "64",
    target_os = "linux",
    target_env = "gnu",
    not(any(miri, oubliette_portable, oubliette_thread_local))
))]
#[path = "initial_exec.rs"]
mod model;
#[cfg(not(all(
    target_arch = "x86_64",
    target_pointer_width = "64",
    target_os = "linux",
    target_env = "gnu",
    not(any(miri, oubliette_portable, oubliette_thread_local))
)))]
#[path = "thread_local.rs"]
mod model;

pub(super) use model::{get, replace};

#[cfg(test)]
mod tests {
    use core::ptr;

    use super::super::NR_HEAPS;
    use super::super::thread::{NONE, Unused};
    use super::*;

    static OTHER: Unused = Unused::new();

    #[test]
    fn each_place_of_each_thread_is_its_own() {
        let of_this_thread: Vec<_> = (0..NR_HEAPS).map(get).collect();
        // In a thread of its own, which holds nothing and never allocates between the two calls of `replace`.
        let others = std::thread::spawn(|| {
            (0..NR_HEAPS).all(|index| {
                assert!(ptr::eq(get(index), NONE.get()), "a new thread holds nothing");
                let before = replace(index, OTHER.get());
                let seen: [bool; NR_HEAPS] = core::array::from_fn(|i| ptr::eq(get(i), OTHER.get()));
                let after = replace(index, before);
                assert!(ptr::eq(before, NONE.get()), "nothing was held");
                assert!(ptr::eq(after, OTHER.get()), "what was set before");
                seen.iter().enumerate().all(|(i, is_set)| *is_set == (i == index))
            })
        });
        assert!(others.join().is_ok_and(|is_right| is_right), "a place shows in another one");
        let still: Vec<_> = (0..NR_HEAPS).map(get).collect();
        assert!(of_this_thread.iter().zip(still).all(|(was, is)| ptr::eq(*was, is)), "of another thread");
    }

    #[test]
    fn there_is_no_place_past_the_last() {
        assert!(ptr::eq(get(NR_HEAPS), NONE.get()), "read past the last");
        assert!(ptr::eq(replace(NR_HEAPS, OTHER.get()), NONE.get()), "written past the last");
        assert!(ptr::eq(get(NR_HEAPS - 1), NONE.get()), "written to another place");
    }
}
