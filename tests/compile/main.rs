//! Programs that must not compile, with what the compiler says of each, and ones that must.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod accepted;

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

/// Each program of a folder is refused, with the words that stand beside it.
///
/// Where the source of the standard library is installed (`rust-src`), the compiler quotes it in notes that elsewhere only
/// name a place in it. The words are those of a compiler that does not, as in CI.
fn refused(folder: &str) {
    let cases = trybuild::TestCases::new();
    let quotes_std = has_source_of_std();
    let mut programs: Vec<_> =
        Path::new(folder).read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    programs.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    programs.sort();
    assert!(!programs.is_empty(), "{folder}");
    for program in programs {
        let words = std::fs::read_to_string(program.with_extension("stderr")).unwrap();
        // E0599, no such method, quotes the definition of the type.
        if quotes_std && (words.contains("$RUST/") || words.contains("error[E0599]")) {
            // Not `eprintln!`: the test harness keeps that for itself as long as the test passes.
            let _ =
                writeln!(std::io::stderr(), "skipped: {}: this compiler quotes rust-src", program.display());
        } else {
            cases.compile_fail(program);
        }
    }
}

fn has_source_of_std() -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let printed = Command::new(rustc).args(["--print", "sysroot"]).output().unwrap();
    let sysroot = String::from_utf8(printed.stdout).unwrap();
    Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/std/src/lib.rs").exists()
}

#[test]
fn what_would_weaken_a_secret_is_refused() {
    refused("tests/compile/refused");
}

/// The wrong orders: touched while devices reach it, wiped or freed before it is unmapped, unmapped twice, and so on.
#[cfg(all(feature = "vfio", target_os = "linux"))]
#[test]
fn what_would_let_a_device_reach_memory_of_others_is_refused() {
    refused("tests/compile/vfio");
}

/// Each wrong order of starting a transfer, touching its buffer, and ending either.
#[test]
#[cfg(all(target_os = "linux", feature = "io-uring"))]
fn what_would_touch_a_buffer_in_flight_is_refused() {
    refused("tests/compile/dma");
}

/// The same for packets.
#[test]
#[cfg(all(feature = "xdp", target_os = "linux", target_pointer_width = "64", not(oubliette_portable)))]
fn what_would_touch_a_frame_of_the_kernel_is_refused() {
    refused("tests/compile/xdp");
}
