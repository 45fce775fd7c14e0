//! Roles: a test starts its own binary again, as a child that does one thing and may die of it.
//!
//! A test binary has one ignored test named `role` that calls [`play`] with its table of roles. Without the
//! environment variable that names a role it does nothing, so `cargo test -- --ignored` is harmless.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};

const ROLE_VARIABLE: &str = "OUBLIETTE_TEST_ROLE";
const ARGUMENT_VARIABLE: &str = "OUBLIETTE_TEST_ARGUMENT";
/// A child that hangs is ended by SIGALRM.
const LONGEST_SECONDS: u32 = 100;

/// A name, and what the child does under it. It gets the argument that the test gave.
pub(crate) type Role = (&'static str, fn(&str));

/// How a child ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// The child must have come to the end of its role.
    #[track_caller]
    pub(crate) fn assert_success(&self) {
        assert!(self.status.success(), "{:?}\n{}\n{}", self.status, self.stdout, self.stderr);
    }

    /// The signal that ended it, if one did.
    pub(crate) fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// The rest of the line that the child printed after `key` and a space.
    pub(crate) fn said(&self, key: &str) -> Option<&str> {
        self.stdout.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
    }

    /// The number that the child printed after `key`.
    #[track_caller]
    pub(crate) fn number(&self, key: &str) -> usize {
        let said = self.said(key).and_then(|text| text.parse().ok());
        said.unwrap_or_else(|| panic!("no number {key}\n{}\n{}", self.stdout, self.stderr))
    }
}

/// Plays the role that the environment names, if it names one.
pub(crate) fn play(roles: &[Role]) {
    let Ok(wanted) = std::env::var(ROLE_VARIABLE) else { return };
    let argument = std::env::var(ARGUMENT_VARIABLE).unwrap_or_default();
    let Some((_, role)) = roles.iter().find(|(name, _)| *name == wanted) else {
        panic!("no role {wanted}");
    };
    super::limits::no_core_file();
    // Before the first secret: the crate looks at the signals then.
    super::inherited::take_no_signal_as_ignored();
    // SAFETY: no memory is involved (alarm(2)).
    unsafe { libc::alarm(LONGEST_SECONDS) };
    // The harness has begun a line with the name of the test.
    println!();
    role(&argument);
}

/// Gives this child longer before it counts as hanging.
pub(crate) fn take_up_to_seconds(seconds: u32) {
    // SAFETY: no memory is involved (alarm(2)).
    unsafe { libc::alarm(seconds) };
}

/// A command that plays a role of this test binary.
pub(crate) fn command(role: &str, argument: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a running program has a path"));
    command
        .args(["--exact", "role", "--ignored", "--nocapture", "--test-threads=1"])
        .env(ROLE_VARIABLE, role)
        .env(ARGUMENT_VARIABLE, argument)
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Starts a role, for a test that talks with it.
pub(crate) fn start(role: &str, argument: &str) -> Child {
    command(role, argument).spawn().expect("a child can be started")
}

/// Plays a role to its end.
pub(crate) fn run(role: &str, argument: &str) -> Ended {
    run_command(command(role, argument))
}

/// Plays a role to its end with more of the environment set.
pub(crate) fn run_command(mut command: Command) -> Ended {
    end(command.spawn().expect("a child can be started"))
}

/// The fewest page faults that any of three children counted, each the whole work over again. The kernel may take a page
/// of the program's away and give it back (compaction, reclaim), whatever the work is; what the work does to itself, it
/// does every time.
#[track_caller]
pub(crate) fn fewest_faults(role: &str, argument: &str) -> Option<usize> {
    let mut fewest = None;
    for _ in 0..3 {
        let ended = run(role, argument);
        ended.assert_success();
        // A child that cannot count here has said why.
        ended.said("faults")?;
        let faults = ended.number("faults");
        fewest = fewest.min(Some(faults)).or(Some(faults));
        if faults == 0 {
            break;
        }
        println!("{role}: {faults} page faults");
    }
    fewest
}

/// Closes the input of a child, waits for its end, and collects what it said.
pub(crate) fn end(child: Child) -> Ended {
    let output = child.wait_with_output().expect("a child can be waited for");
    Ended {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
