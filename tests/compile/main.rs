//! Programs that must not compile, with what the compiler says of each, and ones that must.

#![forbid(unsafe_code)]

mod accepted;

#[test]
fn what_would_weaken_a_secret_is_refused() {
    trybuild::TestCases::new().compile_fail("tests/compile/refused/*.rs");
}
