//! The library under test, and programs on it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::child::{self, Ended};

/// What a program runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    /// The heap of this crate.
    Preload,
    /// The C library's: the control.
    CLibrary,
}

/// A command that plays a role.
pub(crate) fn command(on: On, role: &str, argument: &str) -> Command {
    let mut command = child::command(role, argument);
    command.env_remove("OUBLIETTE_FLUSH").env_remove("OUBLIETTE_LOCK").env_remove("OUBLIETTE_REPORT");
    match on {
        On::Preload => command.env("LD_PRELOAD", path()),
        On::CLibrary => command.env_remove("LD_PRELOAD"),
    };
    command
}

/// Plays a role to its end.
pub(crate) fn run(on: On, role: &str, argument: &str) -> Ended {
    child::run_command(command(on, role, argument))
}

/// The library, built as this test was: `cargo test` has done so before, `cargo test --test preload` has not.
pub(crate) fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        // This binary is in `<target>/<profile>/deps`.
        let me = std::env::current_exe().unwrap();
        let profile_folder = me.parent().and_then(Path::parent).unwrap();
        let mut build = Command::new(option_env!("CARGO").unwrap_or("cargo"));
        build.args(["build", "--quiet", "--example", "preload", "--no-default-features", "--target-dir"]);
        build.arg(profile_folder.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile_folder.ends_with("release") {
            build.arg("--release");
        }
        // The features of this build, so that nothing is built twice.
        for (is_on, feature) in [
            (cfg!(feature = "allocator-api2"), "allocator-api2"),
            (cfg!(feature = "serde"), "serde"),
            (cfg!(feature = "io-uring"), "io-uring"),
            (cfg!(feature = "vfio"), "vfio"),
            (cfg!(feature = "xdp"), "xdp"),
            (cfg!(feature = "fault-injection"), "fault-injection"),
        ] {
            if is_on {
                build.args(["--features", feature]);
            }
        }
        let built = build.status().expect("cargo can be started");
        assert!(built.success(), "the example `preload` does not build");
        let library = profile_folder.join("examples/libpreload.so");
        assert!(library.exists(), "{} is missing", library.display());
        library
    })
}
