//! The library opened by a program that runs already, with threads that began before.
//!
//! Its thread-local variable is then in memory that the C library keeps in each thread for libraries that come later.

use std::ffi::{CStr, CString, c_int, c_void};
use std::mem::transmute;
use std::sync::{Barrier, OnceLock};
use std::thread;

use crate::library;
use crate::support::child;

const THREADS: usize = 3;
const ROUNDS: usize = 3000;

#[test]
fn a_library_that_is_opened_late_serves_threads_that_began_before() {
    let path = library::path().to_str().unwrap();
    let ended = child::run("opened", path);
    ended.assert_success();
    assert_eq!(ended.number("usable"), 100, "of the heap of this crate: to the byte");
    assert_ne!(ended.number("usable_control"), 100, "of the C library's heap: rounded up");
    assert_eq!(ended.number("rounds"), (THREADS + 2) * ROUNDS);
}

/// The functions of a library.
#[derive(Clone, Copy)]
struct Functions {
    malloc: unsafe extern "C" fn(usize) -> *mut u8,
    realloc: unsafe extern "C" fn(*mut u8, usize) -> *mut u8,
    free: unsafe extern "C" fn(*mut u8),
    malloc_usable_size: unsafe extern "C" fn(*mut u8) -> usize,
}

impl Functions {
    /// Those of an open library, or of the program.
    fn of(library: *mut c_void) -> Self {
        let find = |name: &CStr| {
            // SAFETY: an open library, or the program itself; the name ends with a NUL (dlsym(3)).
            let found = unsafe { libc::dlsym(library, name.as_ptr()) };
            assert!(!found.is_null(), "{name:?} is missing");
            found
        };
        Self {
            // SAFETY: what malloc(3) declares.
            malloc: unsafe {
                transmute::<*mut c_void, unsafe extern "C" fn(usize) -> *mut u8>(find(c"malloc"))
            },
            // SAFETY: as above.
            realloc: unsafe {
                transmute::<*mut c_void, unsafe extern "C" fn(*mut u8, usize) -> *mut u8>(find(c"realloc"))
            },
            // SAFETY: as above.
            free: unsafe { transmute::<*mut c_void, unsafe extern "C" fn(*mut u8)>(find(c"free")) },
            // SAFETY: as above (malloc_usable_size(3)).
            malloc_usable_size: unsafe {
                transmute::<*mut c_void, unsafe extern "C" fn(*mut u8) -> usize>(find(c"malloc_usable_size"))
            },
        }
    }

    fn usable(self) -> usize {
        // SAFETY: any size will do.
        let block = unsafe { (self.malloc)(100) };
        // SAFETY: a live block.
        let usable = unsafe { (self.malloc_usable_size)(block) };
        // SAFETY: allocated above, freed once.
        unsafe { (self.free)(block) };
        usable
    }

    /// Blocks that hold what was written to them, whatever other threads do. Gives the number of rounds.
    fn exercise(self, seed: usize) -> usize {
        let mut blocks = [(std::ptr::null_mut::<u8>(), 0_usize); 50];
        for round in 0..ROUNDS {
            let number = round * 7 + seed;
            let (block, len) = &mut blocks[round % 50];
            if !block.is_null() {
                // SAFETY: the block has `len` bytes, which were written below.
                let bytes = unsafe { std::slice::from_raw_parts(*block, *len) };
                assert!(bytes.iter().all(|byte| *byte == seed as u8), "another thread has written here");
            }
            if round % 3 == 0 {
                // SAFETY: null or a block of this library, freed once.
                unsafe { (self.free)(*block) };
                *block = std::ptr::null_mut();
            }
            *len = 1 + number % 3000;
            // SAFETY: null or a block of this library, and not used by its old address any more.
            *block = unsafe { (self.realloc)(*block, *len) };
            // SAFETY: the block has `len` bytes.
            unsafe { block.write_bytes(seed as u8, *len) };
        }
        for (block, _) in blocks {
            // SAFETY: a block of this library, freed once.
            unsafe { (self.free)(block) };
        }
        ROUNDS
    }
}

pub(crate) fn open_and_use(path: &str) {
    static FUNCTIONS: OnceLock<Functions> = OnceLock::new();
    let opened = Barrier::new(THREADS + 1);
    let rounds: usize = thread::scope(|scope| {
        let before: Vec<_> = (1..=THREADS)
            .map(|seed| {
                scope.spawn({
                    let opened = &opened;
                    move || {
                        opened.wait();
                        opened.wait();
                        FUNCTIONS.get().unwrap().exercise(seed)
                    }
                })
            })
            .collect();
        // All of them run.
        opened.wait();
        let library = open(path);
        let functions = *FUNCTIONS.get_or_init(|| Functions::of(library));
        opened.wait();
        let after = scope.spawn(move || functions.exercise(THREADS + 1));
        let of_this = functions.exercise(THREADS + 2);
        before.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
            + after.join().unwrap()
            + of_this
    });
    println!("rounds {rounds}");
    println!("usable {}", FUNCTIONS.get().unwrap().usable());
    println!("usable_control {}", Functions::of(libc::RTLD_DEFAULT).usable());
}

fn open(path: &str) -> *mut c_void {
    const MODE: c_int = libc::RTLD_NOW | libc::RTLD_LOCAL;
    let path = CString::new(path).unwrap();
    // SAFETY: the path ends with a NUL; the library's initialiser reads the environment, which nobody changes
    // (dlopen(3)).
    let library = unsafe { libc::dlopen(path.as_ptr(), MODE) };
    if library.is_null() {
        // SAFETY: takes nothing (dlerror(3)).
        let reason = unsafe { libc::dlerror() };
        // SAFETY: after a failure it is a string (dlerror(3)).
        panic!("{:?}", unsafe { CStr::from_ptr(reason) });
    }
    library
}
