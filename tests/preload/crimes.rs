//! Crimes of C programs, each in a process of its own, which ends with exactly the static message; each with a
//! lawful twin. And what is no crime though no block is there.

use std::io::Write;

use crate::c::{self, Block};
use crate::library::{On, run};

/// A crime: what is done, what the process says before it aborts, and the sizes it is done with.
struct Crime {
    name: &'static str,
    message: &'static str,
    sizes: &'static [usize],
    commit: fn(Conduct, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Conduct {
    Lawful,
    Criminal,
}

const CRIMES: &[Crime] = &[
    Crime {
        name: "overflow",
        message: "block overflow",
        sizes: &[1, 24, 25, 1000, 5000, 1_000_001],
        commit: overflow,
    },
    Crime {
        name: "double_free",
        message: "double free",
        sizes: &[0, 32, 1000, 30_000, 1 << 20],
        commit: double_free,
    },
    Crime {
        name: "free_inside",
        message: "invalid free",
        sizes: &[0, 256, 5000, 1 << 20],
        commit: free_inside,
    },
    Crime { name: "realloc_of_freed", message: "invalid free", sizes: &[32, 1000], commit: realloc_of_freed },
    Crime {
        name: "write_after_free",
        message: "write after free",
        sizes: &[32, 1000, 5000],
        commit: write_after_free,
    },
    Crime {
        name: "wrong_size",
        message: "free with a wrong layout",
        sizes: &[0, 32, 1000, 5000, 1 << 20],
        commit: wrong_size,
    },
];

/// What a program may do to a block of no bytes, and what it must not.
const TOUCHES: [(&str, bool); 3] = [("look at its address", true), ("read", false), ("write", false)];

const CONFESSION: &str = "about to do it";

#[test]
fn crimes_end_the_process() {
    for crime in CRIMES {
        for size in crime.sizes {
            let clean = run(On::Preload, "crime", &format!("{} lawful {size}", crime.name));
            clean.assert_success();
            assert!(clean.stdout.contains("survived"), "{clean:?}");
            let criminal = run(On::Preload, "crime", &format!("{} criminal {size}", crime.name));
            assert!(criminal.stdout.contains(CONFESSION), "{} {size}: {criminal:?}", crime.name);
            assert_eq!(criminal.signal(), Some(libc::SIGABRT), "{} {size}: {criminal:?}", crime.name);
            assert_eq!(criminal.stderr, format!("oubliette: {}\n", crime.message), "{} {size}", crime.name);
        }
    }
}

/// Without the library nobody notices one byte too many, so it is the library that does.
#[test]
fn control_the_c_library_lets_an_overflow_pass() {
    let ended = run(On::CLibrary, "crime", "overflow criminal 1");
    assert!(ended.stdout.contains("survived"), "{ended:?}");
}

#[test]
fn blocks_of_no_bytes_have_no_access() {
    for (touch, is_lawful) in TOUCHES {
        let ended = run(On::Preload, "nothing", touch);
        assert!(ended.stdout.contains(CONFESSION), "{touch}: {ended:?}");
        if is_lawful {
            ended.assert_success();
        } else {
            assert_eq!(ended.signal(), Some(libc::SIGSEGV), "{touch}: {ended:?}");
        }
        // The control: the C library lets all of it pass.
        run(On::CLibrary, "nothing", touch).assert_success();
    }
}

#[test]
fn foreign_pointers_are_survived() {
    run(On::Preload, "foreign", "").assert_success();
}

pub(crate) fn commit(argument: &str) {
    let words: Vec<&str> = argument.split(' ').collect();
    let crime = CRIMES.iter().find(|crime| crime.name == words[0]).unwrap();
    let conduct = if words[1] == "criminal" { Conduct::Criminal } else { Conduct::Lawful };
    (crime.commit)(conduct, words[2].parse().unwrap());
    println!("survived");
}

fn confess() {
    println!("{CONFESSION}");
    std::io::stdout().flush().unwrap();
}

fn overflow(conduct: Conduct, size: usize) {
    let block = c::malloc(size);
    confess();
    let last = if conduct == Conduct::Criminal { size } else { size - 1 };
    // SAFETY: inside the block for the lawful; the byte behind it for the criminal, which is the crime.
    let byte = unsafe { block.wrapping_add(last).read_volatile() };
    // SAFETY: as above.
    unsafe { block.wrapping_add(last).write_volatile(!byte) };
    // SAFETY: allocated above, freed once.
    unsafe { c::free(block) };
}

fn double_free(conduct: Conduct, size: usize) {
    let block = c::malloc(size);
    // SAFETY: allocated above.
    unsafe { c::free(block) };
    confess();
    if conduct == Conduct::Criminal {
        // SAFETY: none: the crime.
        unsafe { c::free(block) };
    }
}

/// Inside a block, or between two of no bytes.
fn free_inside(conduct: Conduct, size: usize) {
    let block = c::malloc(size);
    confess();
    let off = match conduct {
        Conduct::Lawful => 0,
        Conduct::Criminal if size == 0 => 8,
        Conduct::Criminal => 48,
    };
    // SAFETY: the block itself for the lawful; another address for the criminal, which is the crime.
    unsafe { c::free(block.wrapping_add(off)) };
}

fn realloc_of_freed(conduct: Conduct, size: usize) {
    let block = c::malloc(size);
    if conduct == Conduct::Criminal {
        // SAFETY: allocated above.
        unsafe { c::free(block) };
    }
    confess();
    // SAFETY: a live block for the lawful; a freed one for the criminal, which is the crime.
    let moved = unsafe { c::realloc(block, 2 * size) };
    // SAFETY: allocated above, freed once.
    unsafe { c::free(moved) };
}

fn write_after_free(conduct: Conduct, size: usize) {
    let block = c::malloc(size);
    let write = |block: Block| {
        // SAFETY: inside the block for the lawful; a freed one for the criminal, which is the crime.
        unsafe { block.wrapping_add(size / 2).write_volatile(1) };
    };
    if conduct == Conduct::Lawful {
        write(block);
    }
    // SAFETY: allocated above, freed once.
    unsafe { c::free(block) };
    confess();
    if conduct == Conduct::Criminal {
        write(block);
    }
    // The slot is used again sooner or later.
    for _ in 0..5000 {
        let block = c::malloc(size);
        // SAFETY: allocated above, freed once.
        unsafe { c::free(block) };
    }
}

fn wrong_size(conduct: Conduct, size: usize) {
    let sized = c::symbol(c"free_sized").expect("the library has it");
    // SAFETY: the symbol of this name has this type (C23, 7.24.3.4).
    let sized: extern "C" fn(Block, usize) = unsafe { std::mem::transmute(sized) };
    let block = c::malloc(size);
    confess();
    sized(block, if conduct == Conduct::Criminal { size.abs_diff(1) } else { size });
}

/// Touches a block of no bytes as `touch` says.
pub(crate) fn touch_nothing(touch: &str) {
    let block = c::malloc(0);
    assert!(!block.is_null());
    confess();
    match touch {
        // SAFETY: none: the crime.
        "read" => drop(unsafe { block.read_volatile() }),
        // SAFETY: none: the crime.
        "write" => unsafe { block.write_volatile(1) },
        _ => assert_eq!(block.addr() % 16, 0),
    }
    // SAFETY: allocated above, freed once.
    unsafe { c::free(block) };
}

/// Pointers that no heap here knows: of a mapping, of a static, of the stack.
pub(crate) fn hand_in_foreign_pointers(_: &str) {
    static STATIC: [u8; 64] = [7; 64];
    let mapping = crate::support::pages::map(4096);
    let mut local = [7_u8; 64];
    for foreign in [mapping, STATIC.as_ptr().cast_mut(), (&raw mut local).cast()] {
        c::set_errno(77);
        // SAFETY: this library promises to leave what is not its own alone.
        unsafe { c::free(foreign) };
        assert_eq!(c::errno(), 77);
        // SAFETY: as above.
        assert_eq!(unsafe { c::usable_size(foreign) }, 0);
        // SAFETY: as above.
        assert!(unsafe { c::realloc(foreign, 100) }.is_null());
        assert_eq!(c::errno(), libc::ENOMEM);
    }
    assert!(local.iter().all(|&byte| byte == 7));
}
