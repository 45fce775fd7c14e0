//! For this crate's own tests: the kernel's view of an address, and bodies that run in a process of their own,
//! where they may crash.

#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "tests")]
// UNSAFETY: calls the system for its own process, and in children that it forks.
#![allow(unsafe_code, reason = "limits and frees resources of a test process")]

use std::collections::HashMap;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output, exit};
use std::{env, fs};

/// Names the body that a child process is to run.
const CHILD: &str = "OUBLIETTE_TEST_CHILD";
/// Printed before a body starts, so that a crash on the way there is not taken for the one expected.
const READY: &str = "the body starts";

/// Runs `body` in a process of its own, in this test under this name, and expects it to end with this signal
/// and to print this message. `test` is `module_path!()` and the name of the test function.
pub(crate) fn dies(test: &str, case: &str, signal: i32, message: &str, body: impl FnOnce()) {
    let Some(output) = in_child(test, case, body) else { return };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(signal), "{case}: {:?}\n{errors}", output.status);
    assert!(errors.contains(message), "{case}: no `{message}` in:\n{errors}");
}

/// Runs `body` in a process of its own and expects it to return.
pub(crate) fn passes(test: &str, case: &str, body: impl FnOnce()) {
    let Some(output) = in_child(test, case, body) else { return };
    let (printed, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{case}: {:?}\n{printed}\n{errors}", output.status);
    printed.lines().filter(|line| line.starts_with("skipped: ")).for_each(|line| println!("{line}"));
}

/// In the child that is to run this body: never returns. In any other child: `None`, since the body is not its
/// own. Else: what the child left.
fn in_child(test: &str, case: &str, body: impl FnOnce()) -> Option<Output> {
    let (_, path) = test.split_once("::").unwrap();
    let name = format!("{path}#{case}");
    if let Ok(wanted) = env::var(CHILD) {
        if wanted == name {
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: reads one `rlimit`: a body that crashes on purpose leaves no core file.
            unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
            println!("{READY}");
            body();
            exit(0);
        }
        return None;
    }
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([path, "--exact", "--nocapture", "--test-threads=1"]).env(CHILD, &name);
    let output = command.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains(READY), "{name} did not start:\n{printed}");
    Some(output)
}

/// Runs `body` in a child made by fork and returns its exit status; a body that returns exits with 0. Call it
/// in a process of its own only, and do no more in `body` than a signal handler may.
pub(crate) fn forked(body: impl FnOnce()) -> i32 {
    // SAFETY: the child calls only what a signal handler may call, by the promise of this function's caller.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork failed");
    if child == 0 {
        body();
        // SAFETY: ends the child without running the parent's destructors.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: the kernel writes one word to `status`.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    status
}

/// Ends a test, saying why, where the limit does not let it lock, and pin, what it needs: 8 MiB, the default of
/// most systems, is enough for all of them at once.
macro_rules! skip_unless_lockable {
    () => {
        skip_unless_lockable!(1)
    };
    ($mib:expr) => {
        if !$crate::testing::can_lock($mib << 20) {
            return println!("skipped: this process may not lock {} MiB", $mib);
        }
    };
}
pub(crate) use skip_unless_lockable;

/// Whether this process may lock as much as this.
pub(crate) fn can_lock(bytes: usize) -> bool {
    let buffer = vec![0_u8; bytes];
    // SAFETY: locks memory of this function and reads none.
    let locked = unsafe { libc::mlock(buffer.as_ptr().cast(), bytes) } == 0;
    // SAFETY: as above.
    unsafe { libc::munlock(buffer.as_ptr().cast(), bytes) };
    locked
}

/// A mapping as `/proc/self/smaps` shows it.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// The first address.
    pub(crate) start: usize,
    /// The address after the last.
    pub(crate) end: usize,
    /// Such as `rw-p`.
    pub(crate) access: String,
    /// The two-letter marks of `VmFlags`.
    pub(crate) flags: Vec<String>,
    /// Every figure in KiB, by its name.
    pub(crate) figures: HashMap<String, usize>,
}

impl Mapping {
    /// Whether it has this mark.
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|other| other == flag)
    }
}

/// The mappings that overlap `[start, start + len)`.
pub(crate) fn mappings(start: usize, len: usize) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        let bounds = first.split_once('-').and_then(|(start, end)| {
            Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
        });
        if let Some((start, end)) = bounds {
            let access = words.next().unwrap_or_default().to_owned();
            mappings.push(Mapping { start, end, access, flags: Vec::new(), figures: HashMap::new() });
        } else if first == "VmFlags:" {
            mappings.last_mut().unwrap().flags = words.map(str::to_owned).collect();
        } else if let (Some(kib), Some("kB")) = (words.next(), words.next()) {
            let figures = &mut mappings.last_mut().unwrap().figures;
            figures.insert(first.trim_end_matches(':').to_owned(), kib.parse().unwrap());
        }
    }
    mappings.retain(|mapping| mapping.start < start + len && start < mapping.end);
    mappings
}

/// The one mapping that holds an address.
pub(crate) fn mapping(address: usize) -> Mapping {
    mappings(address, 1).pop().unwrap()
}

/// A figure in KiB of `/proc/self/status`, such as `VmLck`.
pub(crate) fn status_kib(field: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The number of the frame that holds the page of an address; `None` without the right to see it.
pub(crate) fn frame(address: usize) -> Option<u64> {
    const IN_RAM: u64 = 1 << 63;
    const NUMBER: u64 = (1 << 55) - 1;
    let mut entry = [0; 8];
    let pagemap = fs::File::open("/proc/self/pagemap").ok()?;
    let offset = u64::try_from(address / crate::os::page_size() * entry.len()).unwrap();
    pagemap.read_exact_at(&mut entry, offset).ok()?;
    let entry = u64::from_ne_bytes(entry);
    let number = entry & NUMBER;
    (entry & IN_RAM != 0 && number != 0).then_some(number)
}

/// Reads memory of this process through the kernel, whatever its access is.
pub(crate) fn peek(address: usize, len: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let memory = fs::File::open("/proc/self/mem")?;
    memory.read_exact_at(&mut bytes, u64::try_from(address).unwrap())?;
    Ok(bytes)
}
