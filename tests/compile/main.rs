//! Programs that must not compile, with what the compiler says of each, and ones that must.

#![forbid(unsafe_code)]

mod accepted;

#[test]
fn what_would_weaken_a_secret_is_refused() {
    trybuild::TestCases::new().compile_fail("tests/compile/refused/*.rs");
}

/// The wrong orders: touched while devices reach it, wiped or freed before it is unmapped, unmapped twice, and so on.
#[cfg(all(feature = "vfio", target_os = "linux"))]
#[test]
fn what_would_let_a_device_reach_memory_of_others_is_refused() {
    trybuild::TestCases::new().compile_fail("tests/compile/vfio/*.rs");
}

/// Each wrong order of starting a transfer, touching its buffer, and ending either.
#[test]
#[cfg(all(target_os = "linux", feature = "io-uring"))]
fn what_would_touch_a_buffer_in_flight_is_refused() {
    trybuild::TestCases::new().compile_fail("tests/compile/dma/*.rs");
}

/// The same for packets.
#[test]
#[cfg(all(feature = "xdp", target_os = "linux", target_pointer_width = "64", not(oubliette_portable)))]
fn what_would_touch_a_frame_of_the_kernel_is_refused() {
    trybuild::TestCases::new().compile_fail("tests/compile/xdp/*.rs");
}
