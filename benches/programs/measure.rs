//! Runs a program and tells what it took.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::allocators::Allocator;
use crate::ratios::Row;
use crate::suite::{Kind, Program};

/// What one run took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// Of processor time, or what a program that runs for a fixed time makes of what it did.
    pub(crate) seconds: f64,
    pub(crate) resident_kib: f64,
    pub(crate) faults: f64,
}

/// Runs a program `rounds` times on each allocator.
pub(crate) fn compare(
    program: &Program,
    folder: &Path,
    allocators: &[Allocator],
    rounds: usize,
) -> Result<Row, String> {
    if !Path::new(&program.command[0]).exists() {
        return Err(format!("{} is not installed", program.command[0]));
    }
    let mut costs = vec![Vec::new(); allocators.len()];
    let mut expected = None;
    let mut order: Vec<usize> = (0..allocators.len()).collect();
    // A round before the first, which warms the machine up and compares the outputs.
    for round in 0..=rounds {
        for &i in &order {
            let allocator = &allocators[i];
            let ran = run(program, folder, allocator);
            let (cost, output) = ran.map_err(|why| format!("{why}, with {}", allocator.name))?;
            if round > 0 {
                costs[i].push(cost);
                continue;
            }
            let same = match program.kind {
                Kind::Varying | Kind::FixedTime(_) => true,
                Kind::Batch | Kind::OnRepository | Kind::Redis => {
                    *expected.get_or_insert_with(|| output.clone()) == output
                }
            };
            if !same {
                return Err(format!("another output with {}", allocator.name));
            }
        }
        // Forwards and backwards in turn: none is always the first.
        order.reverse();
    }
    Ok(Row { name: program.name, costs })
}

/// Runs a program once, and tells what it took and what it wrote.
fn run(program: &Program, folder: &Path, allocator: &Allocator) -> Result<(Cost, Vec<u8>), String> {
    let mut command = Command::new(&program.command[0]);
    command.args(&program.command[1..]).envs(program.environment.iter().copied()).current_dir(folder);
    allocator.set(&mut command);
    let output = folder.join("output");
    command.stdin(Stdio::null()).stdout(File::create(&output).unwrap()).stderr(Stdio::null());
    if let Some(input) = &program.input {
        command.stdin(File::open(folder.join(input)).map_err(|error| format!("{input}: {error}"))?);
    }
    match program.kind {
        Kind::Batch | Kind::Varying | Kind::FixedTime(_) => {}
        Kind::OnRepository => {
            let copy = folder.join("copy");
            let _ = fs::remove_dir_all(&copy);
            let copied = Command::new("cp").arg("-r").arg(folder.join("repository")).arg(&copy).status();
            assert!(copied.is_ok_and(|status| status.success()));
            command.current_dir(copy);
        }
        Kind::Redis => {
            let socket = folder.join("socket");
            let _ = fs::remove_file(&socket);
            command.arg(&socket).stdout(Stdio::null());
            let server = command.spawn().map_err(|error| error.to_string())?;
            bother(&socket)?;
            return Ok((wait(server)?, Vec::new()));
        }
    }
    let child = command.spawn().map_err(|error| error.to_string())?;
    let mut cost = wait(child)?;
    let output = fs::read(&output).unwrap();
    if let Kind::FixedTime(seconds_of) = program.kind {
        let text = String::from_utf8_lossy(&output);
        cost.seconds = seconds_of(&text).ok_or("prints no throughput")?;
    }
    Ok((cost, output))
}

/// What a client asks a redis server for.
fn bother(socket: &Path) -> Result<(), String> {
    let client = |program: &str, arguments: &[&OsStr]| {
        let status = Command::new(program)
            .arg("-s")
            .arg(socket)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.map_err(|error| format!("{program}: {error}"))
    };
    for _ in 0..200 {
        if client("redis-cli", &["ping".as_ref()])?.success() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for (tests, bytes, requests) in
        [("set,get,lpush,hset,sadd,zadd", "100", "60000"), ("set", "2000", "30000")]
    {
        let arguments = ["-q", "-t", tests, "-d", bytes, "-n", requests, "-r", "20000", "-P", "8"];
        client("redis-benchmark", &arguments.map(OsStr::new))?;
    }
    let _ = client("redis-cli", &["shutdown".as_ref(), "nosave".as_ref()])?;
    Ok(())
}

/// Waits for a child and tells what it and its children took.
fn wait(child: Child) -> Result<Cost, String> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let id = libc::pid_t::try_from(child.id()).unwrap();
    // SAFETY: two places of the right types (wait4(2)). The child is waited for here and nowhere else: dropping
    // its handle does not wait.
    let waited = unsafe { libc::wait4(id, &raw mut status, 0, usage.as_mut_ptr()) };
    assert_eq!(waited, id);
    // SAFETY: zeros are valid, and wait4 has filled it in.
    let usage = unsafe { usage.assume_init() };
    if status != 0 {
        return Err(format!("ended with status {status:#x}"));
    }
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ok(Cost {
        seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        resident_kib: usage.ru_maxrss as f64,
        faults: usage.ru_minflt as f64,
    })
}
