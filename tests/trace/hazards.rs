//! What leaks around a scope, and what closes it.

use std::arch::asm;
use std::future::Future;
use std::hint::black_box;
use std::panic::{catch_unwind, panic_any, resume_unwind};
use std::pin::Pin;
use std::ptr;
use std::task::{Context, Waker};
use std::thread_local;

use oubliette::{Scope, ScopedFuture, scope, spawn_scoped, suspended};

use crate::child::{Mode, fill, needle, stop};
use crate::programs::staged;

/// Runs the program of this name.
pub(crate) fn run(program: &str, mode: Mode) {
    match program {
        "outer_vec" => outer_vec(),
        "future" => future(),
        "panic_payload" => panic_payload(),
        "panic_message" => panic_message(),
        "signal_on_stack" => signal(mode, libc::SA_ONSTACK),
        "signal" => signal(mode, 0),
        "registers" => staged(mode, registers),
        "nested" => staged(mode, nested),
        "early_return" => staged(mode, early_return),
        "suspension" => staged(mode, suspension),
        "thread" => thread(mode),
        _ => panic!("no such program"),
    }
}

fn secret(label: &'static str) -> [u8; 48] {
    let mut bytes = [0; 48];
    fill(&mut bytes);
    needle(label, &bytes);
    bytes
}

/// A vector of outside that grows inside: the small block that it leaves has secrets, too.
fn outer_vec() {
    let mut vec: Vec<u8> = Vec::with_capacity(100);
    scope(|| {
        for _ in 0..20 {
            vec.extend_from_slice(&secret("element"));
        }
        stop();
    });
    stop();
    drop(black_box(vec));
    stop();
}

/// A future that holds a secret while it waits, and is dropped then.
fn future() {
    let mut future = ScopedFuture::new(|| async {
        let secret = secret("kept over a wait");
        let heap = secret.to_vec();
        stop();
        std::future::pending::<()>().await;
        black_box((&secret, &heap));
    })
    .unwrap();
    let poll = Pin::new(&mut future).poll(&mut Context::from_waker(Waker::noop()));
    stop();
    assert!(poll.is_pending());
    drop(future);
    stop();
}

fn panic_payload() {
    let caught = catch_unwind(|| {
        scope(|| -> () {
            let secret = secret("payload");
            stop();
            panic_any(secret);
        })
    });
    let payload = caught.unwrap_err();
    stop();
    assert!(payload.is::<[u8; 48]>());
    drop(payload);
    stop();
}

/// The message is formatted by std, and printed by its hook.
fn panic_message() {
    let caught = catch_unwind(|| {
        scope(|| -> () {
            let bytes = secret("raw");
            let text: String = bytes.iter().map(|byte| char::from(b'!' + byte % 90)).collect();
            needle("text", text.as_bytes());
            stop();
            panic!("the secret is {text}");
        })
    });
    let payload = caught.unwrap_err();
    stop();
    assert!(payload.is::<String>());
    drop(payload);
    stop();
}

extern "C" fn handler(_: i32) {
    // Uses vector registers and some stack, like any handler.
    let mut bytes = black_box([1_u8; 256]);
    bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(3));
    black_box(bytes);
}

fn signal(mode: Mode, flags: i32) {
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as extern "C" fn(i32) as usize;
        action.sa_flags = flags;
        libc::sigaction(libc::SIGUSR1, &raw const action, ptr::null_mut());
    }
    if is_x86_feature_detected!("avx512f") {
        staged(mode, || unsafe { signalled_512() });
    } else {
        staged(mode, signalled_128);
    }
}

/// A signal arrives while a secret is in zmm20 and r12.
#[target_feature(enable = "avx512f")]
fn signalled_512() -> u32 {
    let mut wide = [0_u8; 64];
    fill(&mut wide);
    needle("zmm20", &wide);
    let narrow = secret("r12");
    let [process, thread] = unsafe { [libc::getpid(), libc::gettid()] };
    unsafe {
        asm!(
            "vmovdqu64 zmm20, [{wide}]",
            "mov r12, [{narrow}]",
            "syscall",
            wide = in(reg) &raw const wide,
            narrow = in(reg) &raw const narrow,
            inout("rax") libc::SYS_tgkill => _,
            in("rdi") process,
            in("rsi") thread,
            in("rdx") libc::SIGUSR1,
            out("rcx") _,
            out("r11") _,
            out("r12") _,
            out("zmm20") _,
        );
    }
    stop();
    1
}

/// The same with xmm5.
fn signalled_128() -> u32 {
    let wide = secret("xmm5");
    let narrow = secret("r12");
    let [process, thread] = unsafe { [libc::getpid(), libc::gettid()] };
    unsafe {
        asm!(
            "movups xmm5, [{wide}]",
            "mov r12, [{narrow}]",
            "syscall",
            wide = in(reg) &raw const wide,
            narrow = in(reg) &raw const narrow,
            inout("rax") libc::SYS_tgkill => _,
            in("rdi") process,
            in("rsi") thread,
            in("rdx") libc::SIGUSR1,
            out("rcx") _,
            out("r11") _,
            out("r12") _,
            out("xmm5") _,
        );
    }
    stop();
    1
}

/// A secret in every kind of register at the very end.
fn registers() -> u32 {
    let secret = secret("register");
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
        unsafe { fill_registers_512(&secret) };
    } else {
        fill_registers_128(&secret);
    }
    1
}

#[target_feature(enable = "avx512f,avx512bw")]
fn fill_registers_512(secret: &[u8; 48]) {
    unsafe {
        asm!(
            "vmovdqu ymm0, [{secret}]",
            "vmovdqu ymm7, [{secret}]",
            "vmovdqu ymm15, [{secret}]",
            "vbroadcasti64x4 zmm16, [{secret}]",
            "vbroadcasti64x4 zmm23, [{secret}]",
            "vbroadcasti64x4 zmm31, [{secret}]",
            "kmovq k1, [{secret}]",
            "kmovq k7, [{secret} + 8]",
            "movq mm0, [{secret}]",
            "movq mm7, [{secret} + 8]",
            "mov r8, [{secret}]",
            "mov r11, [{secret} + 16]",
            "int3",
            "emms",
            secret = in(reg) secret,
            out("r8") _, out("r11") _, out("zmm0") _, out("zmm7") _, out("zmm15") _,
            out("zmm16") _, out("zmm23") _, out("zmm31") _, out("k1") _, out("k7") _, out("mm0") _, out("mm7") _,
        );
    }
}

fn fill_registers_128(secret: &[u8; 48]) {
    unsafe {
        asm!(
            "movups xmm0, [{secret}]",
            "movups xmm15, [{secret} + 8]",
            "movq mm0, [{secret}]",
            "movq mm7, [{secret} + 8]",
            "int3",
            "emms",
            secret = in(reg) secret,
            out("xmm0") _, out("xmm15") _, out("mm0") _, out("mm7") _,
        );
    }
}

fn nested() -> u32 {
    let outer = secret("outer");
    let sum = scope(|| {
        let inner = secret("inner").to_vec();
        inner.iter().zip(&outer).map(|(a, b)| u32::from(a ^ b)).sum::<u32>()
    });
    stop();
    u32::from(black_box(outer)[0]) ^ sum
}

fn early_return() -> u32 {
    let secret = secret("secret");
    for byte in black_box(&secret) {
        if *byte < 200 {
            let copy = black_box(secret.to_vec());
            stop();
            return copy.len() as u32;
        }
    }
    stop();
    0
}

/// A secret in preserved registers at the time of the suspension, and a suspended closure that spills them, so
/// deep on the outer stack that nothing overwrites it soon.
fn suspension() -> u32 {
    let secret = secret("secret");
    let word = |at: usize| u64::from_ne_bytes(secret[at..at + 8].try_into().unwrap());
    unsafe {
        asm!(
            "call {step_out}",
            step_out = sym step_out,
            inout("r12") word(0) => _,
            inout("r13") word(8) => _,
            inout("r14") word(16) => _,
            inout("r15") word(24) => _,
            clobber_abi("C"),
        );
    }
    stop();
    u32::from(black_box(secret)[0])
}

extern "C" fn step_out() {
    #[inline(never)]
    fn deep() {
        let bytes = black_box([0_u8; 16 << 10]);
        spill();
        black_box(&bytes);
    }
    #[inline(never)]
    fn spill() {
        unsafe { asm!("", out("r12") _, out("r13") _, out("r14") _, out("r15") _, options(nomem, nostack)) };
    }
    suspended(deep);
}

thread_local! {
    static KEPT: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// A thread whose whole life is a scope, that keeps a secret in a thread-local to its end.
fn thread(mode: Mode) {
    fn body() -> u32 {
        let secret = secret("secret");
        KEPT.set(secret.to_vec());
        stop();
        black_box(secret);
        1
    }
    stop();
    match mode {
        Mode::Scope => spawn_scoped(|| Scope::DEFAULT.run(body).unwrap()).unwrap().join().unwrap(),
        Mode::Control => std::thread::spawn(body).join().unwrap_or_else(|payload| resume_unwind(payload)),
    };
    stop();
}
