//! What this machine offers to a heap for secrets, and what the heap makes of it.
//!
//! ```text
//! cargo run --release --example doctor
//! ```
//!
//! Run it as the user and under the limits of the program that it is about: most of what it says depends on
//! them. It exits with 1 if a secret cannot be made at all.

use std::fs;
use std::process::ExitCode;

use oubliette::{HeapReport, Oubliette, SecretBox, report};

/// A program on the secret heap, so that there is something to report about.
#[global_allocator]
static ALLOC: Oubliette = Oubliette::new();

fn main() -> ExitCode {
    println!("the machine");
    machine();
    let secret = SecretBox::<[u8; 32]>::random();
    let report = report();
    println!("\nthe heaps of this process, with one secret of 32 bytes\n{report}");
    println!("what it means");
    match secret {
        Ok(_) => {
            secrets(report.secrets());
            limit(&report);
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(Finding::Bad, &format!("no secret can be made: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// How a line begins.
#[derive(Clone, Copy)]
enum Finding {
    Good,
    Note,
    Bad,
}

fn say(finding: Finding, text: &str) {
    let mark = match finding {
        Finding::Good => "ok  ",
        Finding::Note => "note",
        Finding::Bad => "BAD ",
    };
    println!("  {mark}  {text}");
}

/// What the system says about itself.
fn machine() {
    fact("kernel", "/proc/sys/kernel/osrelease");
    fact("io_uring disabled (0: no, 1: for the unprivileged, 2: yes)", "/proc/sys/kernel/io_uring_disabled");
    fact("mappings a process may have", "/proc/sys/vm/max_map_count");
    fact("huge pages", "/sys/kernel/mm/transparent_hugepage/enabled");
    fact("page merging (KSM) runs", "/sys/kernel/mm/ksm/run");
    fact("core dumps go to", "/proc/sys/kernel/core_pattern");
    fact("ptrace restricted (Yama)", "/proc/sys/kernel/yama/ptrace_scope");
    let swaps = read("/proc/swaps").map_or(0, |text| text.lines().skip(1).count());
    println!("  {:<60} {swaps}", "swap areas");
    let command_line = read("/proc/cmdline").unwrap_or_default();
    let zeroes = command_line.split_whitespace().any(|word| word == "init_on_free=1");
    println!("  {:<60} {}", "kernel zeroes freed pages (init_on_free=1)", if zeroes { "yes" } else { "no" });
}

fn fact(name: &str, path: &str) {
    println!("  {name:<60} {}", read(path).as_deref().map_or("unknown", str::trim));
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn secrets(heap: Option<&HeapReport>) {
    let Some(heap) = heap else { return };
    let steps = heap.steps_down;
    say(Finding::Good, "secrets are locked: they cannot be swapped out");
    if heap.pinned_bytes > 0 {
        say(Finding::Good, "secrets are pinned: the kernel cannot move them and leave a copy behind");
    } else {
        let errno = steps.not_pinned_errno;
        say(
            Finding::Note,
            &format!("secrets are not pinned (errno {errno}): the kernel may move a page and leave a copy"),
        );
        say(
            Finding::Note,
            "  to change that: allow io_uring_setup in the sandbox, kernel.io_uring_disabled=0",
        );
    }
    if steps.guards_by_mprotect == 0 {
        say(Finding::Good, "guard pages cost no mapping (MADV_GUARD_INSTALL)");
    } else {
        say(Finding::Note, "guard pages cost two mappings for each slab: Linux before 6.13, or a sandbox");
    }
}

fn limit(report: &oubliette::Report) {
    /// What a secret of 32 bytes takes of the limit: a slot of 48 bytes, and its share of a guard page.
    const BYTES_EACH: usize = 52;
    let limit = report.lock_limit();
    match limit.left_bytes {
        None => say(Finding::Good, "no limit of locked memory applies"),
        Some(left) => {
            let room = left.checked_div(BYTES_EACH).unwrap_or(0);
            say(Finding::Note, &format!("RLIMIT_MEMLOCK leaves room for about {room} secrets of 32 bytes"));
            say(Finding::Note, "  to raise it: `ulimit -l`, `LimitMEMLOCK=` in a systemd unit,");
            say(
                Finding::Note,
                "  `--ulimit memlock=` for a container, /etc/security/limits.conf for a login",
            );
        }
    }
    for heap in report.heaps().filter(|heap| heap.steps_down.not_locked_bytes > 0) {
        say(
            Finding::Note,
            &format!(
                "{} bytes of {:?} are wiped but not locked",
                heap.steps_down.not_locked_bytes, heap.policy
            ),
        );
    }
}
