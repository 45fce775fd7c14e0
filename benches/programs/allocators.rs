//! What the programs run on.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// One of the allocators that are compared.
pub(crate) struct Allocator {
    pub(crate) name: String,
    /// What takes the place of the C library's `malloc`.
    preload: Option<PathBuf>,
    /// What `OUBLIETTE_FLUSH` is; the others do not look at it.
    flush: &'static str,
}

impl Allocator {
    /// Lets a program run on this.
    pub(crate) fn set(&self, command: &mut Command) {
        command.env("OUBLIETTE_FLUSH", self.flush);
        match &self.preload {
            Some(library) => command.env("LD_PRELOAD", library),
            None => command.env_remove("LD_PRELOAD"),
        };
    }

    /// Panics unless programs really get this library: the dynamic loader only warns of one that it cannot load,
    /// and what is measured would be the C library's `malloc`.
    fn check(&self) {
        let Some(library) = &self.preload else { return };
        let mut command = Command::new("/bin/cat");
        self.set(command.arg("/proc/self/maps"));
        let maps = command.output().unwrap().stdout;
        let loaded = String::from_utf8_lossy(&maps).contains(library.to_str().unwrap());
        assert!(loaded, "{} is not loaded by LD_PRELOAD", library.display());
    }
}

/// The C library, which the others are compared with, comes first; then ours; then those of the variable `PEERS`.
pub(crate) fn all() -> Vec<Allocator> {
    let ours = build_library();
    let with = |name: &str, preload, flush| Allocator { name: name.to_owned(), preload, flush };
    let mut all = vec![
        with("C library", None, "bounded"),
        with("default", Some(ours.clone()), "bounded"),
        with("flush off", Some(ours), "off"),
    ];
    let peers = std::env::var("PEERS").unwrap_or_default();
    for path in peers.split(',').filter(|path| !path.is_empty()) {
        let library = fs::canonicalize(path).unwrap_or_else(|error| panic!("PEERS: {path}: {error}"));
        let name = library.file_stem().unwrap().to_string_lossy().into_owned();
        all.push(with(&name, Some(library), "bounded"));
    }
    all.iter().for_each(Allocator::check);
    all
}

/// Builds the library and tells where it is.
fn build_library() -> PathBuf {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--example", "preload"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(built.is_ok_and(|status| status.success()), "the example `preload` does not build");
    // This program is in target/release/deps.
    let me = std::env::current_exe().unwrap();
    let library = me.ancestors().nth(2).map(|release| release.join("examples/libpreload.so")).unwrap();
    fs::canonicalize(&library).unwrap_or_else(|error| panic!("{}: {error}", library.display()))
}
