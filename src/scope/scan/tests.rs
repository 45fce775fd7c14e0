//! Every way against the plain one.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "tests"
)]

use core::ptr::NonNull;

use super::BLOCK_BYTES;

#[repr(align(64))]
struct Blocks([u8; 8 * BLOCK_BYTES]);

fn plain(bytes: &[u8]) -> usize {
    bytes.iter().position(|&byte| byte != 0).map_or(bytes.len(), |first| first / BLOCK_BYTES * BLOCK_BYTES)
}

#[cfg(target_arch = "x86_64")]
#[test]
fn every_way_finds_the_first_byte_wherever_it_is() {
    for (name, way) in super::machine::all() {
        let mut blocks = Blocks([0; 8 * BLOCK_BYTES]);
        for at in 0..=blocks.0.len() {
            if let Some(byte) = blocks.0.get_mut(at) {
                *byte = 0x80;
            }
            let found = unsafe { way(NonNull::from(&mut blocks).cast(), blocks.0.len()) };
            assert_eq!(found, plain(&blocks.0), "{name}, byte {at}");
            if let Some(byte) = blocks.0.get_mut(at) {
                *byte = 0;
            }
        }
    }
}

#[test]
fn an_empty_range_is_unused() {
    let mut blocks = Blocks([0; 8 * BLOCK_BYTES]);
    let found = unsafe { super::first_used(NonNull::from(&mut blocks).cast(), 0) };
    assert_eq!(found, 0);
    assert_eq!(plain(&blocks.0[..0]), 0);
}
