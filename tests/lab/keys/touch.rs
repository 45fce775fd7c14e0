//! A touch that survives its fault and tells what stopped it.

use std::arch::asm;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};

/// What to do with a byte.
#[derive(Clone, Copy, Debug)]
pub(super) enum Touch {
    Read,
    /// Reads it and writes it back.
    Write,
}

/// What stopped a touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// `SEGV_PKUERR`: this key.
    Key { key: u32 },
    /// Anything else: no mapping, no access, a guard.
    Other,
}

const SEGV_PKUERR: c_int = 4;
/// `si_pkey` in `siginfo_t` on 64-bit Linux (sigaction(2)).
const PKEY_OFFSET: usize = 32;

/// One touch at a time: where to go on after a fault, and what the handler found.
static RESUME: AtomicUsize = AtomicUsize::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static KEY: AtomicU32 = AtomicU32::new(0);
static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

extern "C" fn on_fault(number: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let resume = RESUME.swap(0, Ordering::Relaxed);
    if resume == 0 {
        // Not ours: let it happen.
        // SAFETY: puts the default back.
        unsafe { libc::signal(number, libc::SIG_DFL) };
        return;
    }
    // SAFETY: the kernel's.
    CODE.store(unsafe { (*info).si_code }, Ordering::Relaxed);
    let key = info.wrapping_byte_add(PKEY_OFFSET).cast::<u32>();
    // SAFETY: within the kernel's structure of 128 bytes, aligned to 4.
    KEY.store(unsafe { key.read() }, Ordering::Relaxed);
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel's; the thread goes on behind the access, where the assembly below says so.
    unsafe { (*context).uc_mcontext.gregs[libc::REG_RIP as usize] = resume as i64 };
}

/// Sets the handler: to be called before a signal handler or a child calls [`touch`].
pub(super) fn catch_faults() {
    static SET: Once = Once::new();
    SET.call_once(|| {
        // SAFETY: a structure of integers, for which zeros are valid.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_fault as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        // SAFETY: the handler does only what is async-signal-safe.
        let result = unsafe { libc::sigaction(libc::SIGSEGV, &raw const action, ptr::null_mut()) };
        assert_eq!(result, 0);
    });
}

/// Touches a byte with the rights that this thread has.
pub(super) fn touch(address: usize, how: Touch) -> Result<u8, Fault> {
    catch_faults();
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    CODE.store(0, Ordering::Relaxed);
    let byte: u64;
    // SAFETY: reads one byte and perhaps writes it back: what is there stays. A fault is caught, and goes on behind
    // the access.
    unsafe {
        asm!(
            "lea {t}, [rip + 2f]",
            "mov [{resume}], {t}",
            "xor {byte:e}, {byte:e}",
            "mov {byte:l}, byte ptr [{address}]",
            "test {write:e}, {write:e}",
            "jz 2f",
            "mov byte ptr [{address}], {byte:l}",
            "2:",
            "mov qword ptr [{resume}], 0",
            t = out(reg) _,
            byte = out(reg) byte,
            resume = in(reg) RESUME.as_ptr(),
            address = in(reg) address,
            write = in(reg) u32::from(matches!(how, Touch::Write)),
        );
    }
    match CODE.swap(0, Ordering::Relaxed) {
        0 => Ok(byte as u8),
        SEGV_PKUERR => Err(Fault::Key { key: KEY.load(Ordering::Relaxed) }),
        _ => Err(Fault::Other),
    }
}
