//! The parent's side: ptrace(2), /proc/PID/mem, and the registers of every thread.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::{env, ptr};

use crate::child::VARIABLES;
use crate::scan::{Found, Needles};

/// Runs a program in a child and tells what was found at each of its stops.
pub(crate) fn trace(program: &str, mode: &str) -> Vec<Found> {
    let mut tracer = Tracer::start(program, mode);
    let mut snapshots = Vec::new();
    while let Event::Stop(thread) = tracer.run() {
        tracer.interrupt_others(thread);
        snapshots.push(tracer.snapshot());
        tracer.resume();
    }
    // The needles are known only now: what was seen before they were told is looked through as well.
    tracer.read_needles();
    snapshots.iter().map(|snapshot| snapshot.search(&tracer.needles)).collect()
}

enum Event {
    Stop(i32),
    End,
}

struct Tracer {
    child: Child,
    threads: BTreeSet<i32>,
    needles: Needles,
    pipe: File,
}

impl Tracer {
    fn start(program: &str, mode: &str) -> Self {
        let mut ends = [0; 2];
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0, "pipe");
        let [pipe, far_end] = ends.map(|end| unsafe { File::from_raw_fd(end) });
        unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
        // Needles are read when the child has ended.
        unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, 1 << 20) };
        let child = Command::new(env::current_exe().unwrap())
            .args(["child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(VARIABLES[0], program)
            .env(VARIABLES[1], mode)
            .env(VARIABLES[2], far_end.as_raw_fd().to_string())
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(if env::var_os("TRACE_STDERR").is_some() { Stdio::inherit() } else { Stdio::null() })
            .spawn()
            .unwrap();
        let mut tracer = Self { child, threads: BTreeSet::new(), needles: Needles::default(), pipe };
        // The test of the child waits in its own thread.
        while fs::read_dir(tracer.proc("task")).unwrap().count() < 2 {
            std::thread::yield_now();
        }
        for task in fs::read_dir(tracer.proc("task")).unwrap() {
            let thread: i32 = task.unwrap().file_name().to_str().unwrap().parse().unwrap();
            let options = libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
            let code = unsafe { libc::ptrace(libc::PTRACE_SEIZE, thread, 0, options) };
            assert_eq!(code, 0, "PTRACE_SEIZE: {}", std::io::Error::last_os_error());
            tracer.threads.insert(thread);
        }
        tracer.child.stdin.as_mut().unwrap().write_all(b"!").unwrap();
        tracer
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.child.id())
    }

    /// Lets the child run until one of its threads stops itself, or all ended.
    fn run(&mut self) -> Event {
        loop {
            let (thread, status) = wait(-1);
            self.threads.insert(thread);
            if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
                self.threads.remove(&thread);
                if thread == self.child.id() as i32 {
                    assert!(
                        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
                        "the child ends well, not with status {status:#x}: see TRACE_STDERR=1"
                    );
                    return Event::End;
                }
                continue;
            }
            let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
            match (signal, event) {
                (libc::SIGTRAP, 0) => return Event::Stop(thread),
                (_, 0) => go_on(thread, signal),
                _ => go_on(thread, 0),
            }
        }
    }

    /// Stops all other threads.
    fn interrupt_others(&mut self, stopped: i32) {
        for thread in self.threads.clone() {
            if thread == stopped {
                continue;
            }
            unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, thread, 0, 0) };
            let (_, status) = wait(thread);
            if !libc::WIFSTOPPED(status) {
                self.threads.remove(&thread);
            }
        }
    }

    fn resume(&self) {
        self.threads.iter().for_each(|&thread| go_on(thread, 0));
    }

    /// A copy of all registers and of all memory that is there.
    fn snapshot(&self) -> Snapshot {
        let mut parts = Vec::new();
        for &thread in &self.threads {
            for (name, set) in [("general", 1), ("floating-point", 2), ("extended", 0x202)] {
                let mut bytes = vec![0_u8; 16 << 10];
                let mut range = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
                let code = unsafe { libc::ptrace(libc::PTRACE_GETREGSET, thread, set, &raw mut range) };
                assert_eq!(code, 0, "PTRACE_GETREGSET: {}", std::io::Error::last_os_error());
                bytes.truncate(range.iov_len);
                parts.push(Part { place: format!("{name} registers"), address: 0, bytes, is_locked: false });
            }
        }
        let memory = File::open(self.proc("mem")).unwrap();
        let pagemap = File::open(self.proc("pagemap")).unwrap();
        for mapping in mappings(&fs::read_to_string(self.proc("smaps")).unwrap()) {
            copy_present(&mapping, &memory, &pagemap, &mut parts);
        }
        Snapshot { parts }
    }

    /// Reads `[length of label, length of bytes] label bytes` until the pipe is empty.
    fn read_needles(&mut self) {
        let mut all = Vec::new();
        let _ = self.pipe.read_to_end(&mut all);
        let mut rest = all.as_slice();
        while let Some((header, tail)) = rest.split_at_checked(8) {
            let [label, bytes] =
                [0, 4].map(|at| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap()) as usize);
            let (label, tail) = tail.split_at(label);
            let (bytes, tail) = tail.split_at(bytes);
            self.needles.add(String::from_utf8(label.to_vec()).unwrap(), bytes);
            rest = tail;
        }
    }
}

struct Snapshot {
    parts: Vec<Part>,
}

struct Part {
    place: String,
    address: u64,
    bytes: Vec<u8>,
    is_locked: bool,
}

impl Snapshot {
    fn search(&self, needles: &Needles) -> Found {
        let mut found = Found::default();
        for part in &self.parts {
            needles.search(&part.bytes, part.address, &part.place, part.is_locked, &mut found);
        }
        found
    }
}

/// A mapping that has pages in memory.
struct Mapping {
    name: String,
    start: u64,
    end: u64,
    is_locked: bool,
}

fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut list: Vec<Mapping> = Vec::new();
    let mut resident = Vec::new();
    for line in smaps.lines() {
        let first = line.split(' ').next().unwrap();
        if let Some((start, end)) = first.split_once('-') {
            let address = |text| u64::from_str_radix(text, 16).unwrap();
            let (start, end) = (address(start), address(end));
            list.push(Mapping { name: line.to_owned(), start, end, is_locked: false });
            resident.push(false);
        } else if first == "VmFlags:" {
            list.last_mut().unwrap().is_locked = line.split(' ').any(|flag| flag == "lo");
        } else if first == "Rss:" || first == "Swap:" {
            *resident.last_mut().unwrap() |= !line.ends_with(" 0 kB");
        }
    }
    let mut resident = resident.into_iter();
    list.retain(|mapping| resident.next().unwrap() && !mapping.name.contains("[v"));
    list
}

/// Copies the pages of a mapping that are there; neighbours become one part.
fn copy_present(mapping: &Mapping, memory: &File, pagemap: &File, parts: &mut Vec<Part>) {
    const PAGE: u64 = 4096;
    let mut bits = vec![0_u8; ((mapping.end - mapping.start) / PAGE * 8) as usize];
    pagemap.read_exact_at(&mut bits, mapping.start / PAGE * 8).unwrap();
    let mut end = 0;
    for (index, bits) in bits.chunks_exact(8).enumerate() {
        let is_there = u64::from_ne_bytes(bits.try_into().unwrap()) >> 62 != 0;
        let address = mapping.start + index as u64 * PAGE;
        let mut page = vec![0; PAGE as usize];
        // A guard marker counts as swapped, and cannot be read.
        if !is_there || memory.read_exact_at(&mut page, address).is_err() {
            continue;
        }
        if end == address {
            parts.last_mut().unwrap().bytes.append(&mut page);
        } else {
            let place = mapping.name.clone();
            parts.push(Part { place, address, bytes: page, is_locked: mapping.is_locked });
        }
        end = address + PAGE;
    }
}

fn wait(thread: i32) -> (i32, i32) {
    let mut status = 0;
    let thread = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
    assert!(thread > 0, "waitpid: {}", std::io::Error::last_os_error());
    (thread, status)
}

fn go_on(thread: i32, signal: i32) {
    unsafe { libc::ptrace(libc::PTRACE_CONT, thread, ptr::null_mut::<u8>(), signal) };
}
