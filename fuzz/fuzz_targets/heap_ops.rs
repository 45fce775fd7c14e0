//! A heap against a model of its blocks, with the consistency walker after each step and system calls that fail.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| oubliette::fuzzing::heap_ops(bytes));
