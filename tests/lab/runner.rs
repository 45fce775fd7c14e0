//! The guest's side: runs the selected checks and tells how each ended.

use std::fs;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::check::{self, Check, Ended};

/// The status of a check that was skipped.
const SKIPPED: u8 = 77;
/// How often to look whether a check has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Runs what the kernel's command line selects.
pub(crate) fn run_selected() -> ExitCode {
    let Some(selection) = selection() else {
        eprintln!("skipped: the kernel's command line says not what to run");
        return ExitCode::FAILURE;
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!("lab: begin {}", kernel.trim());
    let checks = match check::selected(&selection) {
        Ok(checks) => checks,
        Err(error) => {
            println!("lab: {error}");
            return ExitCode::FAILURE;
        }
    };
    for check in &checks {
        let start = Instant::now();
        let told = match run_apart(check) {
            Ok(()) => format!("passed {:.1} s", start.elapsed().as_secs_f32()),
            Err(Ended::Failed(reason)) => format!("FAILED {reason}"),
            Err(Ended::Skipped(reason)) => format!("skipped {reason}"),
        };
        println!("lab: {} {told}", check.name);
    }
    println!("lab: done {}", checks.len());
    ExitCode::SUCCESS
}

/// Runs one check in this process. Its reason, if it does not pass, is all that goes to the standard error.
pub(crate) fn run_here(name: &str) -> ExitCode {
    let Some(check) = check::GROUPS.iter().flat_map(|(_, checks)| *checks).find(|check| check.name == name)
    else {
        eprintln!("there is no check {name:?}");
        return ExitCode::FAILURE;
    };
    match (check.run)() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Ended::Failed(reason)) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
        Err(Ended::Skipped(reason)) => {
            eprintln!("{reason}");
            ExitCode::from(SKIPPED)
        }
    }
}

/// The word after `lab=` on the command line of the kernel.
fn selection() -> Option<String> {
    let line = fs::read_to_string("/proc/cmdline").ok()?;
    line.split_whitespace().find_map(|word| word.strip_prefix("lab=")).map(str::to_owned)
}

/// Runs a check in a process of its own, which does not outlive its time.
fn run_apart(check: &Check) -> Result<(), Ended> {
    let mut child = Command::new("/proc/self/exe")
        .args(["check", check.name])
        .env("CI", "true")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let mut stderr = child.stderr.take().expect("it was asked for");
    // Read aside, so that a check that says much does not wait for us while we wait for it.
    let said = std::thread::spawn(move || {
        let mut said = Vec::new();
        let _ = stderr.read_to_end(&mut said);
        String::from_utf8_lossy(&said).into_owned()
    });
    let deadline = Instant::now() + check.longest;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            let group = -i32::try_from(child.id()).expect("a process id is an i32");
            // SAFETY: no memory is involved; the group is the one made for this child.
            unsafe { libc::kill(group, libc::SIGKILL) };
            child.wait()?;
            return Err(Ended::Failed(format!("not done after {} s", check.longest.as_secs())));
        }
        std::thread::sleep(LOOK_EVERY);
    };
    let said = said.join().unwrap_or_default();
    judge(status, &said)
}

fn judge(status: ExitStatus, said: &str) -> Result<(), Ended> {
    // The line after a panic's message tells how to get a backtrace.
    let is_reason = |line: &&str| !line.trim().is_empty() && !line.starts_with("note: run with");
    let reason = said.lines().rfind(is_reason).unwrap_or("without a word").to_owned();
    if status.success() {
        return Ok(());
    }
    for line in said.lines() {
        println!("| {line}");
    }
    match (status.code(), status.signal()) {
        (Some(code), _) if code == i32::from(SKIPPED) => Err(Ended::Skipped(reason)),
        (Some(code), _) => Err(Ended::Failed(format!("(status {code}) {reason}"))),
        (None, signal) => Err(Ended::Failed(format!("(signal {}) {reason}", signal.unwrap_or(0)))),
    }
}
