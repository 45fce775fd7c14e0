//! What malloc(3), posix_memalign(3) and malloc_usable_size(3) promise, row by row.

use std::ffi::c_void;

use crate::c::{self, Block};
use crate::library::{On, run};

/// A row of the semantics: its name, and a check that panics.
type Row = (&'static str, fn());

/// What every C library of this kind keeps.
const COMMON: &[Row] = &[
    ("malloc gives what was asked for, aligned for anything", malloc_gives_blocks),
    ("malloc(0) gives addresses that differ", malloc_of_nothing),
    ("realloc of a block of no bytes", nothing_becomes_something),
    ("malloc of too much fails with ENOMEM", malloc_of_too_much),
    ("calloc gives zeros, also where a block was before", calloc_gives_zeros),
    ("calloc that overflows fails with ENOMEM", calloc_overflow),
    ("realloc keeps what fits, from any size to any", realloc_keeps_contents),
    ("realloc of null allocates", realloc_of_null),
    ("realloc to 0 frees and gives null", realloc_to_nothing),
    ("realloc that fails leaves the block", realloc_that_fails),
    ("realloc of an aligned block", realloc_of_an_aligned_block),
    ("reallocarray, and its overflow", reallocarray_and_overflow),
    ("free of null does nothing, and errno stays", free_keeps_errno),
    ("aligned blocks of all alignments and sizes", aligned_blocks),
    ("posix_memalign refuses with EINVAL", posix_memalign_refuses),
    ("posix_memalign that fails leaves errno", posix_memalign_leaves_errno),
    ("aligned allocation of too much fails", aligned_allocation_of_too_much),
    ("memalign rounds odd alignments up", memalign_rounds_up),
    ("valloc and pvalloc", whole_pages),
    ("usable size holds what was asked for", usable_size_is_enough),
    ("blocks freed by other threads", blocks_change_threads),
];

/// What only we keep: C23, or more than C asks for.
const OURS: &[Row] = &[
    ("free_sized and free_aligned_sized", free_with_sizes),
    ("usable size is what was asked for", usable_size_is_exact),
    ("aligned_alloc refuses what is no power of two", aligned_alloc_refuses),
    ("pvalloc(0) gives a page", pvalloc_of_nothing),
    ("malloc gives zeros", malloc_gives_zeros),
    ("what realloc adds is zero", realloc_adds_zeros),
];

#[test]
fn semantics_are_those_of_the_c_library() {
    let ended = run(On::Preload, "semantics", "ours");
    ended.assert_success();
    assert_eq!(ended.number("rows"), COMMON.len() + OURS.len());
}

#[test]
fn control_the_c_library_itself() {
    let ended = run(On::CLibrary, "semantics", "common");
    ended.assert_success();
    assert_eq!(ended.number("rows"), COMMON.len());
}

pub(crate) fn check_all(whose: &str) {
    let more: &[Row] = if whose == "ours" { OURS } else { &[] };
    let mut count = 0;
    for (name, check) in COMMON.iter().chain(more) {
        println!("row: {name}");
        check();
        count += 1;
    }
    println!("rows {count}");
}

const TOO_MUCH: usize = isize::MAX as usize + 1;
const SIZES: [usize; 14] = [1, 7, 16, 24, 25, 100, 1000, 1032, 1033, 5000, 30_680, 30_681, 70_000, 3 << 20];

#[track_caller]
fn assert_failed(block: Block, errno: i32) {
    assert!(block.is_null());
    assert_eq!(c::errno(), errno);
}

fn malloc_gives_blocks() {
    for size in SIZES {
        let blocks: Vec<Block> = (0..20).map(|_| c::malloc(size)).collect();
        for (i, &block) in blocks.iter().enumerate() {
            assert!(
                !block.is_null() && block.addr().is_multiple_of(align_of::<libc::max_align_t>()),
                "{size}"
            );
            // SAFETY: just allocated with this size.
            unsafe { c::fill(block, i as u8 + 1, size) };
        }
        for (i, &block) in blocks.iter().enumerate() {
            // SAFETY: as above.
            assert!(unsafe { c::is_full_of(block, i as u8 + 1, size) }, "{size}");
            // SAFETY: allocated above, freed once.
            unsafe { c::free(block) };
        }
    }
}

fn malloc_of_nothing() {
    // Also more than the library has addresses without access for, and then again.
    for nr_blocks in [100, 40_000, 40_000] {
        c::set_errno(77);
        let mut blocks: Vec<Block> = (0..nr_blocks).map(|_| c::malloc(0)).collect();
        blocks.push(c::calloc(0, 8));
        blocks.push(c::memalign(16, 0));
        blocks.push(c::memalign(4096, 0));
        assert_eq!(c::errno(), 77);
        assert!(blocks.iter().all(|block| !block.is_null() && block.addr() % 16 == 0));
        blocks.sort();
        blocks.dedup();
        assert_eq!(blocks.len(), nr_blocks + 3);
        for block in blocks {
            // SAFETY: allocated above, freed once.
            unsafe { c::free(block) };
        }
    }
}

fn nothing_becomes_something() {
    for size in [1, 24, 5000, 1 << 20] {
        // SAFETY: a live block, not used by its old address any more.
        let block = unsafe { c::realloc(c::malloc(0), size) };
        // SAFETY: just allocated with this size.
        unsafe { c::fill(block, 1, size) };
        // SAFETY: as above.
        let gone = unsafe { c::realloc(block, 0) };
        assert!(gone.is_null());
        let nothing = c::malloc(0);
        // SAFETY: a live block.
        assert_failed(unsafe { c::realloc(nothing, TOO_MUCH) }, libc::ENOMEM);
        // SAFETY: it is as it was.
        unsafe { c::free(nothing) };
    }
}

fn malloc_of_too_much() {
    for size in [TOO_MUCH, usize::MAX, usize::MAX - 4096, isize::MAX as usize, 1 << 47] {
        c::set_errno(0);
        assert_failed(c::malloc(size), libc::ENOMEM);
    }
}

fn calloc_gives_zeros() {
    for size in SIZES {
        for _ in 0..40 {
            let dirty = c::malloc(size);
            // SAFETY: just allocated with this size.
            unsafe { c::fill(dirty, 0xa5, size) };
            // SAFETY: allocated above, freed once.
            unsafe { c::free(dirty) };
            let block = c::calloc(size, 1);
            // SAFETY: just allocated with this size.
            assert!(unsafe { c::is_full_of(block, 0, size) }, "{size}");
            // SAFETY: allocated above, freed once.
            unsafe { c::free(block) };
        }
    }
}

fn calloc_overflow() {
    for (count, size) in
        [(usize::MAX, 2), (2, usize::MAX), (1 << 32, 1 << 32), (3, usize::MAX / 2), (1, TOO_MUCH)]
    {
        c::set_errno(0);
        assert_failed(c::calloc(count, size), libc::ENOMEM);
    }
}

fn realloc_keeps_contents() {
    for from in SIZES {
        for to in SIZES {
            let block = c::malloc(from);
            // SAFETY: just allocated with this size.
            unsafe { c::fill(block, 0x5a, from) };
            // SAFETY: a live block, not used by its old address any more.
            let moved = unsafe { c::realloc(block, to) };
            assert!(!moved.is_null() && moved.addr().is_multiple_of(16));
            // SAFETY: the block has `to` bytes now.
            assert!(unsafe { c::is_full_of(moved, 0x5a, from.min(to)) }, "{from} to {to}");
            // SAFETY: as above.
            unsafe { c::fill(moved, 1, to) };
            // SAFETY: allocated above, freed once.
            unsafe { c::free(moved) };
        }
    }
}

fn realloc_of_null() {
    // SAFETY: null is no block.
    let block = unsafe { c::realloc(std::ptr::null_mut(), 40) };
    // SAFETY: just allocated with this size.
    unsafe { c::fill(block, 1, 40) };
    // SAFETY: allocated above, freed once.
    unsafe { c::free(block) };
    // SAFETY: null is no block.
    let empty = unsafe { c::realloc(std::ptr::null_mut(), 0) };
    assert!(!empty.is_null());
    // SAFETY: allocated above, freed once.
    unsafe { c::free(empty) };
}

fn realloc_to_nothing() {
    for size in SIZES {
        c::set_errno(77);
        // SAFETY: a live block, which is gone after this.
        let gone = unsafe { c::realloc(c::malloc(size), 0) };
        assert!(gone.is_null());
        assert_eq!(c::errno(), 77);
    }
}

fn realloc_that_fails() {
    for size in SIZES {
        let block = c::malloc(size);
        // SAFETY: just allocated with this size.
        unsafe { c::fill(block, 0x77, size) };
        for most in [TOO_MUCH, usize::MAX, 1 << 47] {
            c::set_errno(0);
            // SAFETY: a live block; it fails, so the block stays what it is.
            assert_failed(unsafe { c::realloc(block, most) }, libc::ENOMEM);
        }
        // SAFETY: it still has this size.
        assert!(unsafe { c::is_full_of(block, 0x77, size) });
        // SAFETY: allocated above, freed once.
        unsafe { c::free(block) };
    }
}

fn realloc_of_an_aligned_block() {
    for align in [64, 4096, 1 << 16] {
        for (from, to) in [(100, 50), (100, 3000), (3000, 100), (9000, 200_000), (200_000, 10)] {
            let block = c::memalign(align, from);
            // SAFETY: just allocated with this size.
            unsafe { c::fill(block, 0x33, from) };
            // SAFETY: a live block, not used by its old address any more.
            let moved = unsafe { c::realloc(block, to) };
            // SAFETY: the block has `to` bytes now.
            assert!(unsafe { c::is_full_of(moved, 0x33, from.min(to)) }, "{align} {from} {to}");
            // SAFETY: allocated above, freed once.
            unsafe { c::free(moved) };
        }
    }
}

fn reallocarray_and_overflow() {
    // SAFETY: null is no block.
    let block = unsafe { c::reallocarray(std::ptr::null_mut(), 10, 10) };
    // SAFETY: just allocated with this size.
    unsafe { c::fill(block, 9, 100) };
    c::set_errno(0);
    // SAFETY: a live block; it fails, so the block stays what it is.
    assert_failed(unsafe { c::reallocarray(block, usize::MAX / 4, 8) }, libc::ENOMEM);
    // SAFETY: a live block, not used by its old address any more.
    let moved = unsafe { c::reallocarray(block, 50, 100) };
    // SAFETY: the block has 5000 bytes now.
    assert!(unsafe { c::is_full_of(moved, 9, 100) });
    // SAFETY: allocated above, freed once.
    unsafe { c::free(moved) };
}

fn free_keeps_errno() {
    c::set_errno(77);
    // SAFETY: null is no block.
    unsafe { c::free(std::ptr::null_mut()) };
    let blocks: Vec<Block> = SIZES.iter().flat_map(|&size| (0..200).map(move |_| c::malloc(size))).collect();
    for block in blocks {
        c::set_errno(77);
        // SAFETY: allocated above, freed once.
        unsafe { c::free(block) };
        assert_eq!(c::errno(), 77);
    }
}

fn aligned_blocks() {
    for shift in 3..=21 {
        let align = 1_usize << shift;
        for size in [0, 1, align / 2 + 1, align, align + 1, 3 * align, 5000] {
            let (error, block) = c::posix_memalign(align, size);
            assert_eq!(error, 0, "{align} {size}");
            for block in [block, c::memalign(align, size), c::aligned_alloc(align, size)] {
                assert!(!block.is_null() && block.addr().is_multiple_of(align), "{align} {size}");
                // SAFETY: just allocated with this size.
                unsafe { c::fill(block, 1, size) };
                // SAFETY: allocated above, freed once.
                unsafe { c::free(block) };
            }
        }
    }
}

fn posix_memalign_refuses() {
    for align in [0, 1, 2, 4, 3, 12, 24, 100, usize::MAX] {
        let (error, place) = c::posix_memalign(align, 100);
        assert_eq!(error, libc::EINVAL, "{align}");
        assert_eq!(place, std::ptr::dangling_mut::<c_void>().cast(), "the place is left alone");
    }
}

fn posix_memalign_leaves_errno() {
    c::set_errno(77);
    assert_eq!(c::posix_memalign(64, isize::MAX as usize - 1).0, libc::ENOMEM);
    // "On error [..] errno is not set" (posix_memalign(3)); the C library sets it all the same.
    assert!([77, libc::ENOMEM].contains(&c::errno()));
}

fn aligned_allocation_of_too_much() {
    for size in [TOO_MUCH, usize::MAX, isize::MAX as usize] {
        assert_eq!(c::posix_memalign(4096, size).0, libc::ENOMEM);
        for allocate in [c::memalign, c::aligned_alloc] {
            c::set_errno(0);
            assert_failed(allocate(4096, size), libc::ENOMEM);
        }
    }
    for allocate in [c::page_aligned, c::pages] {
        for size in [TOO_MUCH, usize::MAX, usize::MAX - 4095] {
            c::set_errno(0);
            assert_failed(allocate(size), libc::ENOMEM);
        }
    }
}

fn memalign_rounds_up() {
    for (align, least) in [(0, 1), (3, 4), (100, 128), (5000, 8192)] {
        let block = c::memalign(align, 10);
        assert!(!block.is_null() && block.addr().is_multiple_of(least), "{align}");
        // SAFETY: allocated above, freed once.
        unsafe { c::free(block) };
    }
    c::set_errno(0);
    assert_failed(c::memalign(usize::MAX / 2 + 2, 10), libc::EINVAL);
}

fn whole_pages() {
    for size in [0, 1, 100, 4096, 4097, 100_000] {
        for (block, usable) in [(c::page_aligned(size), size), (c::pages(size), size.next_multiple_of(4096))]
        {
            assert!(!block.is_null() && block.addr().is_multiple_of(4096), "{size}");
            // SAFETY: pvalloc rounds the size up to whole pages, valloc does not.
            unsafe { c::fill(block, 1, usable) };
            // SAFETY: allocated above, freed once.
            unsafe { c::free(block) };
        }
    }
}

fn usable_size_is_enough() {
    // SAFETY: null is no block.
    assert_eq!(unsafe { c::usable_size(std::ptr::null_mut()) }, 0);
    for size in SIZES {
        for block in [c::malloc(size), c::calloc(1, size), c::memalign(64, size)] {
            // SAFETY: a live block.
            let usable = unsafe { c::usable_size(block) };
            assert!(usable >= size);
            // SAFETY: so many bytes may be used (malloc_usable_size(3)).
            unsafe { c::fill(block, 1, usable) };
            // SAFETY: allocated above, freed once.
            unsafe { c::free(block) };
        }
    }
}

fn blocks_change_threads() {
    for _ in 0..10 {
        let made = std::thread::spawn(|| {
            SIZES
                .iter()
                .flat_map(|&size| (0..50).map(move |_| c::malloc(size).expose_provenance()))
                .collect::<Vec<_>>()
        });
        for address in made.join().unwrap() {
            // SAFETY: allocated by the other thread, which has ended; freed once.
            unsafe { c::free(std::ptr::with_exposed_provenance_mut(address)) };
        }
    }
}

fn free_with_sizes() {
    let (Some(sized), Some(aligned_sized)) = (c::symbol(c"free_sized"), c::symbol(c"free_aligned_sized"))
    else {
        panic!("not there")
    };
    // SAFETY: the symbol of this name has this type (C23, 7.24.3.4).
    let sized: extern "C" fn(Block, usize) = unsafe { std::mem::transmute(sized) };
    // SAFETY: as above (C23, 7.24.3.5).
    let aligned_sized: extern "C" fn(Block, usize, usize) = unsafe { std::mem::transmute(aligned_sized) };
    sized(std::ptr::null_mut(), 0);
    aligned_sized(std::ptr::null_mut(), 64, 0);
    for size in SIZES {
        c::set_errno(77);
        sized(c::malloc(size), size);
        sized(c::calloc(size, 1), size);
        // SAFETY: a live block, not used by its old address any more.
        sized(unsafe { c::realloc(c::malloc(10), size) }, size);
        for align in [8, 64, 4096, 1 << 14] {
            aligned_sized(c::aligned_alloc(align, size), align, size);
        }
        assert_eq!(c::errno(), 77);
    }
    sized(c::malloc(0), 0);
}

fn usable_size_is_exact() {
    for size in SIZES {
        let block = c::malloc(size);
        // SAFETY: a live block.
        assert_eq!(unsafe { c::usable_size(block) }, size);
        // SAFETY: allocated above, freed once.
        unsafe { c::free(block) };
    }
}

fn aligned_alloc_refuses() {
    for align in [0, 3, 24, usize::MAX] {
        c::set_errno(0);
        assert_failed(c::aligned_alloc(align, 100), libc::EINVAL);
    }
    c::set_errno(77);
    assert_eq!(c::posix_memalign(64, isize::MAX as usize - 1).0, libc::ENOMEM);
    assert_eq!(c::errno(), 77);
}

fn pvalloc_of_nothing() {
    let block = c::pages(0);
    // SAFETY: a page, by what this library promises.
    unsafe { c::fill(block, 1, 4096) };
    // SAFETY: allocated above, freed once.
    unsafe { c::free(block) };
}

fn malloc_gives_zeros() {
    for size in SIZES {
        for _ in 0..40 {
            let block = c::malloc(size);
            // SAFETY: just allocated with this size.
            assert!(unsafe { c::is_full_of(block, 0, size) }, "{size}");
            // SAFETY: as above.
            unsafe { c::fill(block, 0xa5, size) };
            // SAFETY: allocated above, freed once.
            unsafe { c::free(block) };
        }
    }
}

fn realloc_adds_zeros() {
    for from in SIZES {
        for to in SIZES {
            let block = c::malloc(from);
            // SAFETY: just allocated with this size.
            unsafe { c::fill(block, 0x5a, from) };
            // SAFETY: a live block, not used by its old address any more.
            let moved = unsafe { c::realloc(block, to) };
            // SAFETY: the block has `to` bytes now.
            let added = unsafe { moved.add(from.min(to)) };
            // SAFETY: what is behind the old size, within the block.
            assert!(unsafe { c::is_full_of(added, 0, to.saturating_sub(from)) }, "{from} to {to}");
            // SAFETY: allocated above, freed once.
            unsafe { c::free(moved) };
        }
    }
}
