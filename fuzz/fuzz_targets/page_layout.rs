//! The layout of guarded runs, heaps and slabs against their invariants, for any numbers at all.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| oubliette::fuzzing::page_layout(bytes));
