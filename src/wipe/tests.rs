//! Every way of zeroing, checking and flushing against a naive oracle: every size and alignment, the last
//! byte before a page that faults, and whatever proptest comes up with.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::as_conversions,
    reason = "a test that panics is a test that fails"
)]

use core::ptr::NonNull;

use proptest::prelude::*;

use super::*;

/// Bytes that have to stay as they are, on both sides of a range. Two cache lines and a half.
const EDGE: usize = 160;

/// Every alignment that a branch or an instruction distinguishes, and its neighbours.
const SHIFTS: [usize; 14] = [0, 1, 3, 7, 8, 15, 16, 17, 31, 32, 33, 48, 62, 63];

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8 + 1).collect()
}

/// Hands `zeroing` a range of `len` bytes, `shift` after a multiple of 64, and expects all of it zero and
/// everything around it untouched.
pub(super) fn expect_zeroed(len: usize, shift: usize, zeroing: impl Fn(NonNull<u8>, usize)) {
    let mut memory = pattern(64 + shift + len + 2 * EDGE);
    let base = NonNull::from(memory.as_mut_slice()).cast::<u8>();
    let start = EDGE + (base.as_ptr().addr() + EDGE).wrapping_neg() % 64 + shift;
    let mut expected = memory.clone();
    expected[start..start + len].fill(0);
    let base = NonNull::from(memory.as_mut_slice()).cast::<u8>();
    // SAFETY: `start + len` is at most the length of `memory`.
    zeroing(unsafe { base.add(start) }, len);
    assert!(memory == expected, "{len} bytes, {shift} past a line");
}

/// The oracle for every size up to 1,100 bytes, every alignment.
pub(super) fn expect_zeroed_at_every_size(least: usize, zeroing: impl Fn(NonNull<u8>, usize)) {
    for len in least..=1100 {
        for shift in SHIFTS {
            expect_zeroed(len, shift, &zeroing);
        }
    }
}

/// One byte set anywhere in the range is seen, one on either side of it is not.
pub(super) fn expect_checked(len: usize, shift: usize, check: impl Fn(NonNull<u8>, usize) -> bool) {
    let mut memory = vec![0_u8; 64 + shift + len + 2 * EDGE];
    let start = EDGE + (memory.as_ptr().addr() + EDGE).wrapping_neg() % 64 + shift;
    memory[..start].fill(0xFF);
    memory[start + len..].fill(0xFF);
    // SAFETY: `start + len` is at most the length of `memory`.
    let range =
        |memory: &mut Vec<u8>| unsafe { NonNull::from(memory.as_mut_slice()).cast::<u8>().add(start) };
    assert!(check(range(&mut memory), len), "{len} bytes, {shift} past a line");
    for spot in 0..len {
        memory[start + spot] = 1 << (spot % 8);
        assert!(!check(range(&mut memory), len), "{len} bytes, {shift} past a line, byte {spot} set");
        memory[start + spot] = 0;
    }
}

#[test]
fn zeroing_matches_the_oracle() {
    // SAFETY: `expect_zeroed` hands over bytes that it owns.
    expect_zeroed_at_every_size(0, |ptr, len| unsafe { zero(ptr, len) });
}

#[test]
fn slots_match_the_oracle() {
    for len in [32, 48, 64] {
        // SAFETY: the oracle hands over bytes that it owns, as long and as aligned as such a slot.
        expect_zeroed(len, 16, |ptr, len| unsafe { zero_small_slot(ptr, len) });
        // SAFETY: as above.
        expect_checked(len, 16, |ptr, len| unsafe { small_slot_is_zero(ptr, len) });
    }
    prepare();
    for len in (64..=1040).step_by(16) {
        for shift in [0, 16, 32, 48] {
            if len >= 144 {
                // SAFETY: as above.
                expect_zeroed(len, shift, |ptr, len| unsafe { zero_mid_slot(ptr, len) });
                // SAFETY: as above.
                expect_checked(len, shift, |ptr, len| unsafe { mid_slot_is_zero(ptr, len) });
            }
            if len <= 144 {
                // SAFETY: as above.
                expect_zeroed(len, shift, |ptr, len| unsafe { zero_short_slot(ptr, len) });
                // SAFETY: as above.
                expect_checked(len, shift, |ptr, len| unsafe { short_slot_is_zero(ptr, len) });
            }
        }
    }
    for len in (16..=1040).step_by(16) {
        // SAFETY: as above.
        expect_zeroed(len, 16, |ptr, len| unsafe { zero_slot(ptr, len) });
        // SAFETY: as above.
        expect_checked(len, 16, |ptr, len| unsafe { slot_is_zero(ptr, len) });
    }
}

#[test]
fn zeroing_and_flushing_matches_the_oracle() {
    // SAFETY: `expect_zeroed` hands over bytes that it owns.
    expect_zeroed_at_every_size(0, |ptr, len| unsafe { zero_and_flush(ptr, len) });
}

#[test]
fn zeroing_a_slot_matches_the_oracle() {
    for len in (16..=1100).step_by(16) {
        for shift in [0, 16, 32, 48] {
            // SAFETY: `expect_zeroed` hands over bytes that it owns; both are multiples of 16.
            expect_zeroed(len, shift, |ptr, len| unsafe { zero_slot(ptr, len) });
        }
    }
}

#[test]
fn large_ranges_match_the_oracle() {
    for len in [(1 << 20) - 1, 1 << 20, (1 << 20) + 77, (16 << 20) - 1, 16 << 20, (16 << 20) + 33] {
        for shift in [0, 1, 63] {
            // SAFETY: `expect_zeroed` hands over bytes that it owns.
            expect_zeroed(len, shift, |ptr, len| unsafe { zero(ptr, len) });
            // SAFETY: as above.
            expect_zeroed(len, shift, |ptr, len| unsafe { zero_and_flush(ptr, len) });
        }
    }
}

#[test]
fn one_set_byte_is_seen_wherever_it_is() {
    for len in (0..=300).chain([511, 512, 513, 1000, 1024, 1100]) {
        for shift in [0, 1, 15, 33] {
            // SAFETY: `expect_checked` hands over bytes that it owns.
            expect_checked(len, shift, |ptr, len| unsafe { is_zero(ptr, len) });
        }
    }
}

#[test]
fn one_set_byte_of_a_slot_is_seen_wherever_it_is() {
    for len in (16..=1100).step_by(16) {
        for shift in [0, 16] {
            // SAFETY: `expect_checked` hands over bytes that it owns; both are multiples of 16.
            expect_checked(len, shift, |ptr, len| unsafe { slot_is_zero(ptr, len) });
        }
    }
}

#[test]
fn writing_back_changes_nothing() {
    let memory = pattern(4096);
    let base = NonNull::from(memory.as_slice()).cast::<u8>();
    for (start, len) in [(0, 0), (0, 1), (63, 2), (7, 900), (0, 4096), (4095, 1)] {
        // SAFETY: inside `memory`.
        let at = unsafe { base.add(start) };
        // SAFETY: as above.
        unsafe { write_back(at, len) };
        // SAFETY: as above.
        unsafe { write_back_line(at) };
    }
    fence();
    assert!(memory == pattern(4096));
}

#[test]
fn the_reach_never_changes() {
    let reach = reach();
    assert!(std::thread::spawn(super::reach).join().unwrap() == reach);
    if cfg!(all(target_arch = "x86_64", not(any(miri, oubliette_portable)))) {
        assert!(matches!(reach, Reach::PastCaches(_)));
    }
}

#[test]
fn a_value_is_its_default_afterwards_and_its_padding_zero() {
    #[derive(Clone, Copy)]
    #[repr(C)]
    struct Padded {
        small: u8,
        // Three bytes of padding.
        large: u32,
    }
    // A default that is not zero: the marker is wrong, the value still has to be valid.
    impl Default for Padded {
        fn default() -> Self {
            Self { small: 3, large: 0 }
        }
    }
    impl DefaultIsZeroes for Padded {}

    let mut bytes = [0xAA_u32; 2];
    // SAFETY: `Padded` has the size and the alignment of `[u32; 2]`, and every bit pattern is valid.
    let value = unsafe { &mut *bytes.as_mut_ptr().cast::<Padded>() };
    wipe_value(value);
    assert_eq!((value.small, value.large), (3, 0));

    let mut number = u128::MAX;
    wipe_value(&mut number);
    assert_eq!(number, 0);
}

/// Two pages that can be used, with one before and one behind that fault at a touch.
#[cfg(all(unix, not(miri)))]
fn with_fenced_pages(f: impl FnOnce(NonNull<u8>, usize)) {
    // SAFETY: it only reads a constant of the system.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap();
    // SAFETY: a new mapping takes nothing from anyone.
    let base = unsafe {
        libc::mmap(
            core::ptr::null_mut(),
            4 * page,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(base, libc::MAP_FAILED);
    let middle = base.cast::<u8>().wrapping_add(page);
    // SAFETY: two pages of the mapping that was just made.
    assert_eq!(unsafe { libc::mprotect(middle.cast(), 2 * page, libc::PROT_READ | libc::PROT_WRITE) }, 0);
    f(NonNull::new(middle).unwrap(), 2 * page);
    // SAFETY: the mapping that was made above, and nobody kept a pointer.
    assert_eq!(unsafe { libc::munmap(base, 4 * page) }, 0);
}

#[test]
#[cfg(all(unix, not(miri)))]
fn nothing_is_touched_past_the_edge_of_a_page() {
    with_fenced_pages(|first, room| {
        for len in (0..=1100).chain([room - 1, room]) {
            // SAFETY: `len <= room`.
            let at_the_end = unsafe { first.add(room - len) };
            for ptr in [first, at_the_end] {
                // SAFETY: `len` bytes of pages that nobody else knows.
                unsafe { ptr.write_bytes(0xAA, len) };
                // SAFETY: as above.
                unsafe { zero(ptr, len) };
                // SAFETY: as above.
                assert!(unsafe { is_zero(ptr, len) });
                // SAFETY: as above.
                unsafe { ptr.write_bytes(0xAA, len) };
                // SAFETY: as above.
                unsafe { zero_and_flush(ptr, len) };
                // SAFETY: as above.
                assert!(unsafe { is_zero(ptr, len) });
                // SAFETY: as above.
                unsafe { write_back(ptr, len) };
                if (64..=144).contains(&len) && len.is_multiple_of(16) {
                    // SAFETY: as above.
                    unsafe { ptr.write_bytes(0xAA, len) };
                    // SAFETY: as above, of the length and the alignment of a short slot.
                    unsafe { zero_short_slot(ptr, len) };
                    // SAFETY: as above.
                    assert!(unsafe { short_slot_is_zero(ptr, len) });
                }
                if (144..=1040).contains(&len) && len.is_multiple_of(16) {
                    // SAFETY: as above.
                    unsafe { ptr.write_bytes(0xAA, len) };
                    // SAFETY: as above, of the length and the alignment of a mid slot.
                    unsafe { zero_mid_slot(ptr, len) };
                    // SAFETY: as above.
                    assert!(unsafe { mid_slot_is_zero(ptr, len) });
                }
            }
        }
    });
}

proptest! {
    #[test]
    fn any_part_of_any_bytes(
        bytes in proptest::collection::vec(any::<u8>(), 0..5000),
        from in 0.0..1.0,
        part in 0.0..1.0,
    ) {
        let start = (bytes.len() as f64 * from) as usize;
        let len = ((bytes.len() - start) as f64 * part) as usize;
        let mut expected = bytes.clone();
        expected[start..start + len].fill(0);

        let mut wiped = bytes.clone();
        wipe(&mut wiped[start..start + len]);
        prop_assert!(wiped == expected);

        let mut zeroed = bytes.clone();
        let range = NonNull::from(&mut zeroed[start..start + len]).cast();
        // SAFETY: a slice of a vector.
        unsafe { zero(range, len) };
        prop_assert!(zeroed == expected);

        let mut original = bytes;
        let is_zero_by_hand = original[start..start + len].iter().all(|&byte| byte == 0);
        let range = NonNull::from(&mut original[start..start + len]).cast();
        // SAFETY: a slice of a vector.
        prop_assert_eq!(unsafe { is_zero(range, len) }, is_zero_by_hand);
    }
}
