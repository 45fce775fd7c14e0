//! What opening and sealing cost, in instructions: those of the program by single steps, and those of the kernel
//! besides, where QEMU counts them (`-icount`).

use std::hint::black_box;
use std::io;

use oubliette::{IsolatedBox, Seal, SecretBox, set_secret_seal};

use super::{Key, begin, dense, isolated};
use crate::check::{Ended, Outcome, require};

/// By how much keys are to be cheaper.
const LEAST_RATIO: f64 = 50.0;

/// What ran between the two marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Steps {
    instructions: usize,
    /// WRPKRU.
    writes_of_rights: usize,
    /// SYSCALL.
    system_calls: usize,
}

pub(super) fn instructions() -> Outcome {
    let keys = count(Seal::ProtectionKey)?;
    let pages = count(Seal::Pages)?;
    println!("isolated, open and close by keys:  {:?}", keys.isolated);
    println!("dense, open and close by keys:     {:?}", keys.dense);
    println!("isolated, open and close by pages: {:?}, and what the kernel does", pages.isolated);
    println!("dense, open and close without:     {:?}", pages.dense);
    for steps in [keys.isolated, keys.dense] {
        require(steps.writes_of_rights == 2, || format!("{steps:?}"))?;
        require(steps.system_calls == 0, || format!("{steps:?}"))?;
    }
    // The controls: the counter counts, and sees system calls.
    require(pages.isolated.system_calls == 2 && pages.isolated.writes_of_rights == 0, || {
        format!("{:?}", pages.isolated)
    })?;
    require(keys.nothing.instructions < keys.isolated.instructions, || format!("{:?}", keys.nothing))?;

    let by_keys = ticks(Seal::ProtectionKey)?;
    let by_pages = ticks(Seal::Pages)?;
    let ratio = by_pages.each / by_keys.each;
    println!(
        "with the kernel's, {}: by keys {:.1}, by pages {:.1}: {ratio:.0} times fewer",
        if by_keys.are_instructions { "counted" } else { "estimated from time" },
        by_keys.each,
        by_pages.each
    );
    require(!by_keys.are_instructions || ratio >= LEAST_RATIO, || format!("only {ratio:.1} times fewer"))
}

/// What single steps counted.
struct Counted {
    nothing: Steps,
    isolated: Steps,
    dense: Steps,
}

/// Steps through a child that opens and closes.
fn count(seal: Seal) -> Result<Counted, Ended> {
    // SAFETY: this process has one thread.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let ended = opens_between_marks(seal);
        // SAFETY: ends this process.
        unsafe { libc::_exit(i32::from(ended.is_err())) };
    }
    let mut counted = [Steps::default(); 3];
    for (index, steps) in counted.iter_mut().enumerate() {
        if index != 0 {
            step(libc::PTRACE_CONT, pid)?;
        }
        *steps = count_to_next_mark(pid)?;
    }
    step(libc::PTRACE_CONT, pid)?;
    require(wait(pid)? == 0, || "the child".to_owned())?;
    let [nothing, isolated, dense] = counted;
    Ok(Counted { nothing, isolated: isolated.without(nothing), dense: dense.without(nothing) })
}

impl Steps {
    /// Less what the marks themselves take.
    const fn without(self, marks: Self) -> Self {
        Self { instructions: self.instructions - marks.instructions, ..self }
    }
}

/// A breakpoint: an instruction of one byte, at which the tracer gets control.
#[inline(always)]
fn mark() {
    // SAFETY: SIGTRAP, which the tracer takes away.
    unsafe { std::arch::asm!("int3") };
}

fn opens_between_marks(seal: Seal) -> Outcome {
    set_secret_seal(seal)?;
    let secret: IsolatedBox<Key> = isolated(1)?;
    let small: SecretBox<Key> = dense(2)?;
    // Once through the code, so that nothing is bound or faulted in late.
    drop((secret.open()?, small.open()));
    // SAFETY: the parent traces us; no memory is involved (ptrace(2)).
    unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
    mark();
    mark();
    mark();
    let open = secret.open()?;
    black_box(&*open);
    drop(open);
    mark();
    mark();
    let open = small.open();
    black_box(&*open);
    drop(open);
    mark();
    Ok(())
}

/// Lets the child run to its next mark, then counts its steps to the one after.
fn count_to_next_mark(pid: i32) -> Result<Steps, Ended> {
    require_trap(wait(pid)?)?;
    let mut steps = Steps::default();
    loop {
        let [byte, second, third] = next_bytes(pid)?;
        if byte == 0xcc {
            // The trap itself: over it, so that the next run starts behind.
            step(libc::PTRACE_SINGLESTEP, pid)?;
            require_trap(wait(pid)?)?;
            return Ok(steps);
        }
        steps.instructions += 1;
        steps.writes_of_rights += usize::from([byte, second, third] == [0x0f, 0x01, 0xef]);
        steps.system_calls += usize::from([byte, second] == [0x0f, 0x05]);
        step(libc::PTRACE_SINGLESTEP, pid)?;
        require_trap(wait(pid)?)?;
    }
}

/// The first bytes of the instruction that the child executes next.
fn next_bytes(pid: i32) -> Result<[u8; 3], Ended> {
    // SAFETY: a structure of integers, for which zeros are valid.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    let out = (&raw mut registers).cast::<libc::c_void>();
    // SAFETY: the child is stopped; the structure is what the kernel writes.
    if unsafe { libc::ptrace(libc::PTRACE_GETREGS, pid, 0, out) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: the child is stopped; nothing of ours is written to.
    let word = unsafe { libc::ptrace(libc::PTRACE_PEEKTEXT, pid, registers.rip, 0) };
    let [first, second, third, ..] = word.to_le_bytes();
    Ok([first, second, third])
}

fn step(request: libc::c_uint, pid: i32) -> Outcome {
    // SAFETY: no memory is involved; signal 0 is none.
    let result = unsafe { libc::ptrace(request, pid, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error().into()) }
}

fn wait(pid: i32) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: `status` is valid for a write; the process is our child and not yet reaped.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    if waited == pid { Ok(status) } else { Err(io::Error::last_os_error()) }
}

fn require_trap(status: i32) -> Outcome {
    let is_trap = libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTRAP;
    require(is_trap, || format!("stopped by {status:#x}"))
}

/// What one opening and closing takes.
struct Ticks {
    each: f64,
    /// Whether the CPU's clock counts instructions, the kernel's included.
    are_instructions: bool,
}

/// Measures in a child, since a process has one seal.
fn ticks(seal: Seal) -> Result<Ticks, Ended> {
    /// The fastest of so many batches, so that no interrupt of the timer is in it.
    const BATCHES: u32 = 200;
    const ROUNDS: u32 = 100;
    let (from, mut to) = super::kernel::pipe()?;
    // SAFETY: this process has one thread.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let measured = (|| {
            if seal == Seal::ProtectionKey {
                begin()?
            } else {
                set_secret_seal(seal)?
            }
            let secret = isolated(1)?;
            let measure = |work: &mut dyn FnMut() -> Outcome| {
                let mut least = u64::MAX;
                for _ in 0..BATCHES {
                    let start = clock();
                    for _ in 0..ROUNDS {
                        work()?;
                    }
                    least = least.min(clock() - start);
                }
                Ok::<u64, Ended>(least)
            };
            let opened = measure(&mut || {
                black_box(&*secret.open()?);
                Ok(())
            })?;
            let nothing = measure(&mut || {
                black_box(());
                Ok(())
            })?;
            let known = measure(&mut || {
                thousand_instructions();
                Ok(())
            })?;
            io::Write::write_all(&mut to, &[opened, nothing, known].map(u64::to_le_bytes).concat())?;
            Ok::<(), Ended>(())
        })();
        // SAFETY: ends this process.
        unsafe { libc::_exit(i32::from(measured.is_err())) };
    }
    drop(to);
    let mut bytes = [0; 24];
    io::Read::read_exact(&mut &from, &mut bytes)?;
    wait(pid)?;
    let [opened, nothing, known] = [0, 8, 16].map(|at| {
        u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")) as f64 / f64::from(ROUNDS)
    });
    let each = opened - nothing;
    let thousand = known - nothing;
    Ok(Ticks { each: each * 1000.0 / thousand, are_instructions: (950.0..1050.0).contains(&thousand) })
}

fn clock() -> u64 {
    // SAFETY: every x86-64 CPU has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// 1,000 instructions, more or less two.
#[inline(never)]
fn thousand_instructions() {
    // SAFETY: counts a register down.
    unsafe {
        std::arch::asm!("mov {n:e}, 500", "2:", "dec {n:e}", "jnz 2b", n = out(reg) _);
    }
}
