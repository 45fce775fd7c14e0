//! The main job, and the proof: sign a file with an ed25519 key, drop the key, and let a second process
//! look for what is left of it.
//!
//! ```text
//! cargo run --release --example proof [KEY.pem] [FILE]
//! ```
//!
//! `KEY.pem` is a PKCS#8 private key (as `openssl genpkey -algorithm ed25519` writes it); without one a new key
//! is made. `FILE` is what gets signed, `README.md` by default.
//!
//! The same job is done by four processes, each a program as people write it:
//!
//! | | global allocator | the program |
//! |---|---|---|
//! | `std` | `std::alloc::System` | `String`, `Vec` and arrays, nothing wiped by hand |
//! | `zeroize` | `std::alloc::System` | each buffer that holds key material in `Zeroizing` |
//! | `oubliette` | `Oubliette` | as in `std`, but the key lives in a `SecretBox` |
//! | `with scope` | `Oubliette` | that, with everything that touches the key in `scope` |
//!
//! In all four the crypto library wipes its own structs (`ed25519-dalek` with its `zeroize` feature), so the
//! comparison is between ways to write the program, not between libraries.
//!
//! This program has one binary and therefore one `#[global_allocator]`: a switch that asks the environment, at
//! the first allocation of the process, which of the two allocators it hands everything to. Not one block of
//! a process comes from the other one.
//!
//! The first process, which you start, knows the key, starts the other four one after another as its
//! children, reads all their memory through `/proc/PID/mem` twice (while the key is in use, which shows that
//! the scan finds it, and after it was dropped), and prints the table. See `proof/scan.rs` for what counts.

#![expect(unsafe_code, reason = "a switching global allocator, and waiting for a stopped child")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a demonstration: a panic with a message is the right end for a mistake of its own"
)]

#[path = "proof/maps.rs"]
mod maps;
#[path = "proof/needles.rs"]
mod needles;
#[path = "proof/scan.rs"]
mod scan;
#[path = "proof/subject.rs"]
mod subject;
#[path = "proof/switch.rs"]
mod switch;
#[path = "proof/table.rs"]
mod table;

use std::error::Error;
use std::fs;
use std::io::Write;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};

use scan::Findings;
use subject::Arrangement;

#[global_allocator]
static ALLOCATOR: switch::Switch = switch::Switch::new();

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What one process left, in the order of its life.
struct Observed {
    arrangement: Arrangement,
    in_use: Findings,
    dropped: Findings,
    /// What the process printed: its signature, in hexadecimal.
    signature: String,
}

/// Where the processes find the key, and what to sign with it.
struct Job {
    /// A file with the key, or nothing: then the key comes through a pipe, `/dev/stdin`.
    key_path: Option<String>,
    pem: String,
    file: String,
}

fn main() -> ExitCode {
    let outcome = match subject::role() {
        Some(arrangement) => subject::run(arrangement).map(|()| true),
        None => prove(),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("proof: {error}");
            ExitCode::FAILURE
        }
    }
}

fn prove() -> Outcome<bool> {
    let job = Job::from_arguments()?;
    let secrets = needles::Secrets::derive(&job.pem, &fs::read(&job.file)?)?;
    let needles = secrets.needles();
    let mut observed = Vec::new();
    for arrangement in Arrangement::ALL {
        let one = observe(arrangement, &job, &needles)?;
        if one.signature != secrets.signature_hex() {
            return Err(format!("{arrangement:?}: the signature is not that of this key").into());
        }
        observed.push(one);
    }
    println!("signed {} with {}", job.file, job.key_path.as_deref().unwrap_or("a new ed25519 key"));
    println!("signature {}: verified\n", secrets.signature_hex());
    table::print(&needles, &observed);
    Ok(table::verdict(&observed))
}

impl Job {
    /// An argument that is a PEM private key is the key; any other is the file to sign.
    fn from_arguments() -> Outcome<Self> {
        let mut key = None;
        let mut file = None;
        for path in std::env::args().skip(1) {
            let content = fs::read(&path).map_err(|error| format!("{path}: {error}"))?;
            if content.starts_with(b"-----BEGIN PRIVATE KEY-----") {
                key = Some((path, String::from_utf8(content)?));
            } else {
                file = Some(path);
            }
        }
        let file = file.unwrap_or_else(|| "README.md".to_owned());
        if fs::metadata(&file).is_err() {
            return Err(format!("{file}: not found; give a file to sign as an argument").into());
        }
        Ok(match key {
            Some((path, pem)) => Self { key_path: Some(path), pem, file },
            None => Self { key_path: None, pem: needles::new_key()?, file },
        })
    }
}

/// Starts one process, scans it at both of its stops, and lets it end.
fn observe(arrangement: Arrangement, job: &Job, needles: &scan::Needles) -> Outcome<Observed> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg(job.key_path.as_deref().unwrap_or("/dev/stdin"))
        .arg(&job.file)
        .env(subject::ROLE_VARIABLE, arrangement.name())
        .env(switch::ALLOCATOR_VARIABLE.to_str()?, arrangement.allocator().to_str()?)
        .stdin(if job.key_path.is_some() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped());
    let mut child = Killed(command.spawn()?);
    if let Some(stdin) = child.0.stdin.take() {
        feed(stdin, &job.pem)?;
    }
    let in_use = child.scan_when_stopped(needles)?;
    child.resume()?;
    let dropped = child.scan_when_stopped(needles)?;
    child.resume()?;
    let signature = std::io::read_to_string(child.0.stdout.take().expect("stdout is a pipe"))?;
    child.0.wait()?;
    Ok(Observed { arrangement, in_use, dropped, signature: signature.trim().to_owned() })
}

fn feed(mut stdin: ChildStdin, pem: &str) -> Outcome<()> {
    stdin.write_all(pem.as_bytes())?;
    Ok(())
}

/// A child that does not outlive an error of its parent.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Already reaped where all went well: then this does nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Killed {
    /// Waits until it stops itself, and looks.
    fn scan_when_stopped(&self, needles: &scan::Needles) -> Outcome<Findings> {
        let pid = i32::try_from(self.0.id())?;
        let mut status = 0;
        // SAFETY: `status` is valid for a write; `pid` is a child of ours that was not waited for yet
        // (waitpid(2)).
        let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::WUNTRACED) };
        if waited != pid {
            return Err(std::io::Error::last_os_error().into());
        }
        if !libc::WIFSTOPPED(status) {
            return Err(format!("the process ended early (wait status {status:#x})").into());
        }
        scan::scan(&pid.to_string(), needles).map_err(|error| {
            format!("cannot read the memory of process {pid}: {error} (is ptrace forbidden here?)").into()
        })
    }

    /// Lets it run on.
    fn resume(&self) -> Outcome<()> {
        // SAFETY: no memory is involved; the child was not waited for yet, so the id is its own (kill(2)).
        if unsafe { libc::kill(i32::try_from(self.0.id())?, libc::SIGCONT) } != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok(())
    }
}
