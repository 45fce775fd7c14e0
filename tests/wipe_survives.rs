//! The wipe survives the optimiser: memory that is dead after it, freed or popped off the stack, holds no
//! byte of the secret. Read from outside the language, through `/proc/self/mem`, since reading it in Rust
//! would be undefined and would keep the stores alive. Meant for release builds; the control shows there
//! that a plain overwrite is removed and that this test would see it.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that panics is a test that fails"
)]

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;

/// Larger than what the C library writes into a freed block (its list links, at the front).
const BLOCK_BYTES: usize = 512;
const FRONT_BYTES: usize = 64;

/// Larger than the frames of the calls that read it afterwards, which lie over its upper end.
const FRAME_BYTES: usize = 16 * 1024;

/// Reads this process' memory as a file; opened and sized ahead, so that looking allocates nothing.
struct Witness {
    memory: File,
    bytes: Vec<u8>,
}

impl Witness {
    fn new() -> Self {
        Self { memory: File::open("/proc/self/mem").unwrap(), bytes: vec![0; FRAME_BYTES] }
    }

    /// How many of the `len` bytes at `address` are `value`.
    fn count(&mut self, address: usize, len: usize, value: u8) -> usize {
        self.memory.read_exact_at(&mut self.bytes[..len], address.try_into().unwrap()).unwrap();
        self.bytes[..len].iter().filter(|&&byte| byte == value).count()
    }
}

/// Fills a block, has `clear` clear it, frees it, and tells where it was.
#[inline(always)]
fn freed_block(value: u8, clear: impl FnOnce(&mut [u8; BLOCK_BYTES])) -> usize {
    let mut block = Box::new([0_u8; BLOCK_BYTES]);
    block.fill(black_box(value));
    black_box(block.as_ptr());
    clear(&mut block);
    let address = block.as_ptr().addr();
    drop(block);
    address
}

/// Fills an array on the stack, has `clear` clear it, returns, and tells where it was.
#[inline(never)]
fn popped_array(value: u8, clear: impl FnOnce(&mut [u8; FRAME_BYTES])) -> usize {
    let mut array = [0_u8; FRAME_BYTES];
    array.fill(black_box(value));
    black_box(array.as_ptr());
    clear(&mut array);
    array.as_ptr().addr()
}

#[inline(never)]
fn wiped_block() -> usize {
    freed_block(0xC7, |block| oubliette::wipe(block))
}

#[inline(never)]
fn overwritten_block() -> usize {
    freed_block(0xC9, |block| *block = [0; BLOCK_BYTES])
}

/// One test, so that no other thread reuses what it looks at.
#[test]
fn dead_memory_holds_nothing_after_a_wipe() {
    let mut witness = Witness::new();
    let rest = BLOCK_BYTES - FRONT_BYTES;

    let block = wiped_block();
    assert_eq!(witness.count(block + FRONT_BYTES, rest, 0xC7), 0, "a freed block");
    assert_eq!(witness.count(block + FRONT_BYTES, rest, 0), rest, "a freed block");

    let array = popped_array(0xC7, |array| oubliette::wipe(array));
    assert_eq!(witness.count(array, FRAME_BYTES / 2, 0xC7), 0, "a popped array");
    assert_eq!(witness.count(array, FRAME_BYTES / 2, 0), FRAME_BYTES / 2, "a popped array");

    let array = popped_array(0xC7, |array| array.fill_with(Default::default));
    let left_on_stack = witness.count(array, FRAME_BYTES / 2, 0xC7);
    let block = overwritten_block();
    let left_in_heap = witness.count(block + FRONT_BYTES, rest, 0xC9);
    println!(
        "control: a plain overwrite left {left_in_heap} bytes in the heap, {left_on_stack} on the stack"
    );
    if !cfg!(debug_assertions) {
        assert_eq!(left_in_heap, rest, "control: the optimiser removes a plain overwrite of a freed block");
        assert_eq!(left_on_stack, FRAME_BYTES / 2, "control: and one of a popped array");
    }
}
