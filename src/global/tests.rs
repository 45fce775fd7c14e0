//! The contracts of the two allocator traits, call by call.

// UNSAFETY: calls what a program calls through its collections.
#![expect(unsafe_code, reason = "calls unsafe traits")]
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests"
)]

use core::alloc::{GlobalAlloc as _, Layout};
use core::slice;

use crate::{Backing, Oubliette, Policy};

static PROGRAM: Oubliette = Oubliette::new();

#[test]
fn blocks_are_zero_aligned_and_apart() {
    for align_log2 in [0, 3, 4, 6, 12, 16, 21] {
        for size in [1, 8, 31, 32, 33, 1000, 4096, 30_000, 70_000, 1 << 20] {
            let layout = Layout::from_size_align(size, 1 << align_log2).unwrap();
            let one = unsafe { PROGRAM.alloc(layout) };
            let other = unsafe { PROGRAM.alloc_zeroed(layout) };
            for block in [one, other] {
                assert!(!block.is_null(), "{layout:?}");
                assert_eq!(block.addr() % layout.align(), 0, "{layout:?}");
                assert!(unsafe { slice::from_raw_parts(block, size) }.iter().all(|byte| *byte == 0));
                unsafe { block.write_bytes(0xA5, size) };
            }
            assert!(one.addr().abs_diff(other.addr()) >= size);
            unsafe { PROGRAM.dealloc(one, layout) };
            unsafe { PROGRAM.dealloc(other, layout) };
        }
    }
}

#[test]
fn realloc_keeps_the_contents_and_adds_zeros() {
    let mut layout = Layout::from_size_align(1, 16).unwrap();
    let mut block = unsafe { PROGRAM.alloc(layout) };
    unsafe { block.write(0xA5) };
    for size in [40, 5000, 200_000, 3 << 20, 100_000, 300, 17, 16, 64, 1] {
        block = unsafe { PROGRAM.realloc(block, layout, size) };
        assert!(!block.is_null());
        let bytes = unsafe { slice::from_raw_parts_mut(block, size) };
        let kept = size.min(layout.size());
        assert!(bytes.iter().take(kept).all(|byte| *byte == 0xA5), "{layout:?} to {size}");
        assert!(bytes.iter().skip(kept).all(|byte| *byte == 0), "{layout:?} to {size}");
        bytes.fill(0xA5);
        layout = Layout::from_size_align(size, 16).unwrap();
    }
    unsafe { PROGRAM.dealloc(block, layout) };
}

#[test]
fn blocks_without_size_are_survived() {
    // `GlobalAlloc` leaves them undefined; callers of C habits ask for them all the same.
    let layout = Layout::from_size_align(0, 8).unwrap();
    let block = unsafe { PROGRAM.alloc(layout) };
    assert!(!block.is_null());
    unsafe { PROGRAM.dealloc(block, layout) };
}

#[test]
fn what_cannot_be_is_null_and_changes_nothing() {
    let layout = Layout::from_size_align(isize::MAX.unsigned_abs() - 4095, 4096).unwrap();
    assert!(unsafe { PROGRAM.alloc(layout) }.is_null());
    let small = Layout::from_size_align(64, 64).unwrap();
    let block = unsafe { PROGRAM.alloc(small) };
    unsafe { block.write_bytes(7, 64) };
    assert!(unsafe { PROGRAM.realloc(block, small, layout.size()) }.is_null());
    assert_eq!(unsafe { slice::from_raw_parts(block, 64) }, [7; 64]);
    unsafe { PROGRAM.dealloc(block, small) };
}

#[test]
fn errno_stays_as_it_was() {
    let errno = unsafe { libc::__errno_location() };
    let check = |what: &str| assert_eq!(unsafe { errno.read() }, 77, "{what}");
    unsafe { errno.write(77) };
    for round in 0..3_usize {
        // Small, the largest slots, large, aligned; enough of them for slabs to be made and given back.
        for (size, align) in [(24, 8), (30_000, 8), (200_000, 8), (1 << 20, 8), (100, 1 << 16)] {
            let layout = Layout::from_size_align(size, align).unwrap();
            let blocks = [(); 12].map(|()| unsafe { PROGRAM.alloc(layout) });
            check("alloc");
            let larger = Layout::from_size_align(size + size / 2, align).unwrap();
            let blocks = blocks.map(|block| unsafe { PROGRAM.realloc(block, layout, larger.size()) });
            check("realloc");
            for block in blocks.into_iter().skip(round) {
                unsafe { PROGRAM.dealloc(block, larger) };
            }
            check("dealloc");
            for block in blocks.into_iter().take(round) {
                std::thread::scope(|scope| {
                    let block = block.expose_provenance();
                    let free = move || unsafe {
                        libc::__errno_location().write(77);
                        PROGRAM.dealloc(core::ptr::with_exposed_provenance_mut(block), larger);
                        libc::__errno_location().read()
                    };
                    assert_eq!(scope.spawn(free).join().unwrap(), 77);
                });
                unsafe { errno.write(77) };
            }
        }
    }
}

#[test]
fn tells_its_policy() {
    const PINNED: Oubliette = Oubliette::with_policy(Policy::PROGRAM.with_backing(Backing::Auto));
    assert_eq!(PINNED.policy().backing(), Backing::Auto);
    assert_eq!(Oubliette::default().policy(), Policy::PROGRAM);
    assert!(format!("{PINNED:?}").contains("Auto"));
}

#[cfg(feature = "allocator-api2")]
mod secret_alloc {
    use allocator_api2::alloc::{Allocator as _, Layout};
    use allocator_api2::boxed::Box;
    use allocator_api2::vec::Vec;

    use crate::SecretAlloc;

    #[test]
    fn holds_collections() {
        let mut keys: Vec<[u8; 32], SecretAlloc> = Vec::new_in(SecretAlloc);
        for n in 0..1000_u32 {
            let mut key = [0; 32];
            key.as_mut_slice().split_at_mut(4).0.copy_from_slice(&n.to_le_bytes());
            keys.push(key);
        }
        keys.shrink_to_fit();
        assert!(keys.iter().zip(0_u32..).all(|(key, n)| key.starts_with(&n.to_le_bytes())));
        assert_eq!(*Box::new_in(7_u64, SecretAlloc), 7);

        let mut by_name: hashbrown::HashMap<u32, [u8; 16], _, SecretAlloc> =
            hashbrown::HashMap::new_in(SecretAlloc);
        for n in 0..1000 {
            by_name.insert(n, [n.to_le_bytes()[0]; 16]);
        }
        assert!((0..1000).all(|n| by_name.get(&n) == Some(&[n.to_le_bytes()[0]; 16])));
    }

    #[test]
    fn grows_and_shrinks_over_every_kind_of_step() {
        // From and to no size, and to another alignment, which `GlobalAlloc` never asks for.
        let steps =
            [(0, 8), (40, 8), (100, 64), (5000, 8), (5000, 4096), (60, 4096), (60, 1), (0, 1), (9, 2)];
        let layouts = steps.map(|(size, align)| Layout::from_size_align(size, align).unwrap());
        let mut block = SecretAlloc.allocate(layouts[0]).unwrap().cast::<u8>();
        for pair in layouts.windows(2) {
            let [old, new] = *pair else { unreachable!() };
            unsafe { block.write_bytes(0xA5, old.size()) };
            let resized = if new.size() >= old.size() {
                unsafe { SecretAlloc.grow_zeroed(block, old, new) }
            } else {
                unsafe { SecretAlloc.shrink(block, old, new) }
            };
            let resized = resized.unwrap();
            assert_eq!((resized.len(), resized.cast::<u8>().addr().get() % new.align()), (new.size(), 0));
            let bytes = unsafe { resized.as_ref() };
            let kept = old.size().min(new.size());
            assert!(bytes.iter().take(kept).all(|byte| *byte == 0xA5), "{old:?} to {new:?}");
            assert!(bytes.iter().skip(kept).all(|byte| *byte == 0), "{old:?} to {new:?}");
            block = resized.cast();
        }
        unsafe { SecretAlloc.deallocate(block, layouts[layouts.len() - 1]) };
    }
}

#[test]
fn blocks_are_freed_and_resized_by_their_address() {
    for align_log2 in [0, 4, 6, 12, 16] {
        let mut layout = Layout::from_size_align(1, 1 << align_log2).unwrap();
        let mut block = unsafe { PROGRAM.alloc(layout) };
        unsafe { block.write(0xA5) };
        for size in [1, 40, 41, 5000, 200_000, 200_001, 3 << 20, 100_000, 300, 17, 16, 64, 2] {
            let moved = unsafe { PROGRAM.resize(block, size, 16) };
            assert!(!moved.is_null() && moved.addr().is_multiple_of(16));
            assert_eq!(PROGRAM.usable_size(moved), Some(size), "of {layout:?}");
            let bytes = unsafe { slice::from_raw_parts_mut(moved, size) };
            let kept = size.min(layout.size());
            assert!(bytes.iter().take(kept).all(|byte| *byte == 0xA5), "{layout:?} to {size}");
            assert!(bytes.iter().skip(kept).all(|byte| *byte == 0), "{layout:?} to {size}");
            bytes.fill(0xA5);
            block = moved;
            layout = Layout::from_size_align(size, 16).unwrap();
        }
        unsafe { PROGRAM.free(block) };
    }
    unsafe { PROGRAM.free(core::ptr::null_mut()) };
}

#[test]
fn a_block_takes_every_size_and_keeps_what_fits() {
    let mut seed = 3_u32;
    let by_lot = (0..4000).map(|_| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % [60, 1100, 32_000][(seed >> 30) as usize % 3]
    });
    let (mut size, mut in_place) = (0, 0);
    let mut block = unsafe { PROGRAM.alloc(Layout::from_size_align(0, 16).unwrap()) };
    for new in (1..1100).chain((0..1100).rev()).chain(by_lot) {
        let moved = unsafe { PROGRAM.resize(block, new, 16) };
        assert_eq!(PROGRAM.usable_size(moved), Some(new), "from {size}");
        let bytes = unsafe { slice::from_raw_parts_mut(moved, new) };
        let kept = size.min(new);
        assert!(bytes.iter().take(kept).all(|byte| *byte == 0xA5), "{size} to {new}");
        assert!(bytes.iter().skip(kept).all(|byte| *byte == 0), "{size} to {new}");
        bytes.fill(0xA5);
        in_place += usize::from(moved == block);
        (block, size) = (moved, new);
    }
    // By one byte most of the time.
    assert!(in_place > 2000, "{in_place}");
    unsafe { PROGRAM.free(block) };
}

#[cfg(all(target_os = "linux", not(any(miri, oubliette_portable))))]
#[test]
fn a_long_block_that_is_not_locked_grows_by_its_address_without_a_copy() {
    const BYTES: usize = 4 << 20;
    let faults = || {
        let mut usage = core::mem::MaybeUninit::<libc::rusage>::zeroed();
        assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) }, 0);
        unsafe { usage.assume_init() }.ru_minflt
    };
    let unlocked = Oubliette::with_policy(Policy::PROGRAM.with_lock(crate::Lock::Off));
    let layout = Layout::from_size_align(BYTES, 16).unwrap();
    let block = unsafe { unlocked.alloc(layout) };
    unsafe { block.write_bytes(0xA5, BYTES) };
    let before = faults();
    let moved = unsafe { unlocked.resize(block, 2 * BYTES, 16) };
    let taken = faults() - before;
    assert!(moved != block && taken < 100, "{taken} faults");
    let bytes = unsafe { slice::from_raw_parts(moved, 2 * BYTES) };
    assert!(bytes[..BYTES].iter().all(|byte| *byte == 0xA5) && bytes[BYTES..].iter().all(|byte| *byte == 0));
    // The control: a copy takes a fault for each page of the new place.
    let copy = unsafe { unlocked.alloc(layout) };
    let before = faults();
    unsafe { moved.copy_to_nonoverlapping(copy, BYTES) };
    assert!(faults() - before >= 1000);
    unsafe { unlocked.free(copy) };
    unsafe { unlocked.free(moved) };
}

#[test]
fn knows_its_own_blocks_from_others() {
    let layout = Layout::from_size_align(100, 8).unwrap();
    for size in [100, 1 << 20] {
        let layout = Layout::from_size_align(size, 8).unwrap();
        let block = unsafe { PROGRAM.alloc(layout) };
        assert!(PROGRAM.owns(block) && PROGRAM.owns(block.wrapping_add(size - 1)));
        assert_eq!(PROGRAM.usable_size(block), Some(size));
        unsafe { PROGRAM.dealloc(block, layout) };
    }
    let foreign = unsafe { std::alloc::System.alloc(layout) };
    assert!(!PROGRAM.owns(foreign) && !PROGRAM.owns(core::ptr::null()));
    assert_eq!(PROGRAM.usable_size(foreign), None);
    unsafe { std::alloc::System.dealloc(foreign, layout) };
}

#[test]
fn a_resize_that_cannot_be_leaves_the_block() {
    let layout = Layout::from_size_align(100, 16).unwrap();
    let block = unsafe { PROGRAM.alloc(layout) };
    assert!(unsafe { PROGRAM.resize(block, isize::MAX.cast_unsigned(), 16) }.is_null());
    assert!(unsafe { PROGRAM.resize(block, 10, 3) }.is_null());
    assert_eq!(PROGRAM.usable_size(block), Some(100));
    unsafe { PROGRAM.dealloc(block, layout) };
}
