//! Against a naive oracle, over every size and alignment.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::as_conversions,
    reason = "a test that panics is a test that fails"
)]

use super::*;

const EDGE: usize = 64;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8 + 1).collect()
}

/// Runs `f` on `len` bytes that begin `shift` after a multiple of 64, and expects them zero and all others kept.
fn expect_zeroed(len: usize, shift: usize, f: impl Fn(NonNull<u8>, usize)) {
    let mut memory = pattern(len + shift + 3 * EDGE);
    let start = EDGE + memory.as_ptr().addr().wrapping_neg() % EDGE + shift;
    let mut expected = memory.clone();
    expected[start..start + len].iter_mut().for_each(|byte| *byte = 0);
    f(NonNull::from(&mut memory[start..start + len]).cast(), len);
    assert!(memory == expected, "len {len} shift {shift}");
}

#[test]
fn zeroing_matches_the_oracle() {
    for len in 0..=1100 {
        for shift in [0, 1, 7, 8, 15, 16, 17, 31, 32, 33, 63] {
            // SAFETY: `expect_zeroed` gives bytes of a vector that it owns.
            expect_zeroed(len, shift, |ptr, len| unsafe { zero(ptr, len) });
            // SAFETY: as above.
            expect_zeroed(len, shift, |ptr, len| unsafe { zero_and_flush(ptr, len) });
            if len % 16 == 0 && shift % 16 == 0 && len > 0 {
                // SAFETY: as above, in granules.
                expect_zeroed(len, shift, |ptr, len| unsafe { zero_slot(ptr, len) });
            }
        }
    }
}

#[test]
fn one_byte_is_seen_wherever_it_is() {
    for len in 1..=600 {
        let mut memory = vec![0_u8; len + 2 * EDGE];
        memory[EDGE - 1] = 1;
        memory[EDGE + len] = 1;
        let at = NonNull::from(&mut memory[EDGE..]).cast();
        // SAFETY: bytes of a vector.
        assert!(unsafe { is_zero(at, len) }, "len {len}");
        for spot in 0..len {
            memory[EDGE + spot] = 0x80;
            let at = NonNull::from(&mut memory[EDGE..]).cast();
            // SAFETY: bytes of a vector.
            assert!(!unsafe { is_zero(at, len) }, "len {len} spot {spot}");
            memory[EDGE + spot] = 0;
        }
    }
}

#[test]
fn one_byte_in_a_slot_is_seen_wherever_it_is() {
    for len in (16..=600).step_by(16) {
        let mut memory = vec![0_u8; len + 2 * EDGE];
        let start = EDGE + memory.as_ptr().addr().wrapping_neg() % EDGE;
        memory[start - 1] = 1;
        memory[start + len..].fill(1);
        let at = NonNull::from(&mut memory[start..]).cast();
        // SAFETY: granules of a vector.
        assert!(unsafe { slot_is_zero(at, len) }, "len {len}");
        for spot in 0..len {
            memory[start + spot] = 1;
            let at = NonNull::from(&mut memory[start..]).cast();
            // SAFETY: granules of a vector.
            assert!(!unsafe { slot_is_zero(at, len) }, "len {len} spot {spot}");
            memory[start + spot] = 0;
        }
    }
}

#[test]
fn writing_back_changes_nothing() {
    let memory = pattern(1000);
    let at = NonNull::from(&memory[7..]).cast();
    // SAFETY: bytes of a vector.
    unsafe { write_back(at, 900) };
    // SAFETY: as above; a line is never cut by the end of a page.
    unsafe { write_back_line(at) };
    fence();
    assert!(memory == pattern(1000));
    assert!(LINE_BYTES.is_power_of_two());
    assert_eq!(reach(), reach());
}
