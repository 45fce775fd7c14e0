//! Pins, seen from the kernel.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests")]

use super::*;
use crate::os::Hint;
use crate::pages::{PageBytes, Reservation};

#[test]
fn pin_and_unpin() {
    let len = PageBytes::exact(1 << 20).unwrap();
    let range = Reservation::new(len, len).unwrap();
    range.commit(PageBytes::ZERO, len).unwrap();
    // SAFETY: the range is reserved and outlives the pin.
    let id = match unsafe { pins().pin(range.base(), len.get()) } {
        Ok(id) => id,
        Err(errno) => return println!("skipped: no pins here, {errno:?}"),
    };
    assert!(pins().holds(&id));
    assert!(pins().is_alive());
    println!("{:?} {:?}", pins().tables[0].name(0), os::features());
    pins().unpin(id).unwrap();
}
