//! Runs a program and tells what it took.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::suite::{Kind, Program};

/// What a program runs on.
pub(crate) const ALLOCATORS: [&str; 3] = ["C library", "default policy", "flush off"];

/// What one run took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_kib: f64,
    pub(crate) faults: f64,
}

/// The medians of one program, by allocator.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) costs: [Cost; ALLOCATORS.len()],
}

/// Builds the library and tells where it is.
pub(crate) fn build_library() -> PathBuf {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--example", "preload"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(built.is_ok_and(|status| status.success()), "the example `preload` does not build");
    // This program is in target/release/deps.
    let me = std::env::current_exe().unwrap();
    let library = me.parent().unwrap().parent().unwrap().join("examples/libpreload.so");
    assert!(library.exists(), "{} is missing", library.display());
    library
}

/// Runs a program `rounds` times on each allocator.
pub(crate) fn compare(
    program: &Program,
    folder: &Path,
    library: &Path,
    rounds: usize,
) -> Result<Row, String> {
    if !Path::new(program.command[0]).exists() {
        return Err(format!("{} is not installed", program.command[0]));
    }
    let mut costs = [const { Vec::new() }; ALLOCATORS.len()];
    let mut expected = None;
    // A round before the first, which warms the machine up and compares the outputs.
    for round in 0..=rounds {
        for (allocator, costs) in costs.iter_mut().enumerate() {
            let (cost, output) = run(program, folder, library, allocator)?;
            if round == 0 {
                let expected = expected.get_or_insert_with(|| output.clone());
                if *expected != output {
                    return Err(format!("another output with {}", ALLOCATORS[allocator]));
                }
            } else {
                costs.push(cost);
            }
        }
    }
    Ok(Row { name: program.name, costs: costs.map(|costs| median(&costs)) })
}

fn median(costs: &[Cost]) -> Cost {
    let of = |field: fn(&Cost) -> f64| {
        let mut values: Vec<f64> = costs.iter().map(field).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Cost {
        cpu_seconds: of(|cost| cost.cpu_seconds),
        resident_kib: of(|cost| cost.resident_kib),
        faults: of(|cost| cost.faults),
    }
}

fn run(
    program: &Program,
    folder: &Path,
    library: &Path,
    allocator: usize,
) -> Result<(Cost, Vec<u8>), String> {
    let mut command = Command::new(program.command[0]);
    command.args(&program.command[1..]).envs(program.environment.iter().copied()).current_dir(folder);
    if allocator > 0 {
        command.env("LD_PRELOAD", library);
    }
    command.env("OUBLIETTE_FLUSH", if allocator == 2 { "off" } else { "bounded" });
    let output = folder.join("output");
    command.stdin(Stdio::null()).stdout(File::create(&output).unwrap()).stderr(Stdio::null());
    if let Some(input) = program.input {
        command.stdin(File::open(folder.join(input)).unwrap());
    }
    match program.kind {
        Kind::Batch => {}
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
    let cost = wait(child)?;
    Ok((cost, fs::read(&output).unwrap()))
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
        cpu_seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        resident_kib: usage.ru_maxrss as f64,
        faults: usage.ru_minflt as f64,
    })
}
