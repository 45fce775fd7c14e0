//! Stacks: `memfd_create(2)`, `mmap(2)`, `sigaltstack(2)`, `sigaction(2)`.

use core::cell::UnsafeCell;
use core::ffi::c_int;
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU8, Ordering};

use super::check;
use crate::os::stacks::Area;
use crate::os::{Errno, Result};

/// Sees the address of a fault. Runs in a signal handler.
pub(crate) type FaultHandler = fn(usize);

/// `memfd_create` (its descriptor is closed again before this returns), then `mmap(MAP_PRIVATE |
/// MAP_FIXED)` over the range and `mmap(MAP_SHARED)` elsewhere.
///
/// mmap(2): with `MAP_PRIVATE` "it is unspecified whether changes made to the file after the mmap() call
/// are visible in the mapped region". On Linux a page that was not written is the page of the file
/// (mm/memory.c, `do_read_fault`), so they are; `scope::tracked` checks that at each start.
///
/// # Safety
///
/// As for `os::stacks::map_tracked`.
pub(in crate::os) unsafe fn map_tracked(ptr: NonNull<u8>, len: usize) -> Result<NonNull<u8>> {
    // SAFETY: the name is a C string; the call makes a descriptor and touches no memory of ours.
    let fd = unsafe { libc::memfd_create(c"oubliette-stack".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(Errno::last());
    }
    // SAFETY: forwarded: the caller promises the range.
    let result = unsafe { map_file(fd, ptr, len) };
    // SAFETY: `fd` is ours, and mappings outlive their descriptor (mmap(2)).
    unsafe { libc::close(fd) };
    result
}

/// `mmap(PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED)` over the range, `munmap` of the other.
///
/// # Safety
///
/// As for `os::stacks::unmap_tracked`.
pub(in crate::os) unsafe fn unmap_tracked(ptr: NonNull<u8>, len: usize, control: NonNull<u8>) -> Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: MAP_FIXED replaces a range that the caller owns and promises not to use.
    let address = unsafe { libc::mmap(ptr.as_ptr().cast(), len, libc::PROT_NONE, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    // SAFETY: the caller owns this one too.
    let code = unsafe { libc::munmap(control.as_ptr().cast(), len) };
    check(code.into())
}

/// The two mappings of [`map_tracked`].
///
/// # Safety
///
/// As for [`map_tracked`]; `fd` is an empty file.
unsafe fn map_file(fd: c_int, ptr: NonNull<u8>, len: usize) -> Result<NonNull<u8>> {
    let size = libc::off_t::try_from(len).map_err(|_| Errno::INVAL)?;
    // SAFETY: `fd` is a file of ours; this changes its size.
    let code = unsafe { libc::ftruncate(fd, size) };
    check(code.into())?;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: without MAP_FIXED the kernel picks addresses that nothing uses (mmap(2)).
    let shared = unsafe { libc::mmap(ptr::null_mut(), len, access, libc::MAP_SHARED, fd, 0) };
    if shared == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: MAP_FIXED replaces a range that the caller owns and promises not to use.
    let private = unsafe { libc::mmap(ptr.as_ptr().cast(), len, access, flags, fd, 0) };
    if private == libc::MAP_FAILED {
        let errno = Errno::last();
        // SAFETY: mapped above, and nothing knows its address.
        unsafe { libc::munmap(shared, len) };
        return Err(errno);
    }
    NonNull::new(shared.cast()).ok_or(Errno::NOMEM)
}

/// `sigaltstack(NULL, &old)`, sigaltstack(2).
pub(in crate::os) fn signal_stack() -> Option<Area> {
    let mut old = MaybeUninit::<libc::stack_t>::uninit();
    // SAFETY: the kernel writes one `stack_t` to `old`.
    let code = unsafe { libc::sigaltstack(ptr::null(), old.as_mut_ptr()) };
    if code != 0 {
        return None;
    }
    // SAFETY: the call succeeded, so it was written.
    let old = unsafe { old.assume_init() };
    let start = NonNull::new(old.ss_sp.cast())?;
    (old.ss_flags & libc::SS_DISABLE == 0).then_some(Area { start, len: old.ss_size })
}

/// Twice `AT_MINSIGSTKSZ`, getauxval(3): what the kernel stores depends on the processor (3 KiB with
/// AVX-512, 11 KiB with AMX tiles). Kernels before 5.14 do not tell.
pub(in crate::os) fn signal_stack_least() -> usize {
    // SAFETY: reads the auxiliary vector; zero when there is no such entry.
    let kernel = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) };
    usize::try_from(kernel).unwrap_or(0).max(libc::MINSIGSTKSZ).saturating_mul(2)
}

/// `sigaltstack(&new, NULL)`, sigaltstack(2).
///
/// # Safety
///
/// As for `os::stacks::set_signal_stack`.
pub(in crate::os) unsafe fn set_signal_stack(area: Option<Area>) -> Result<()> {
    let new = match area {
        Some(area) => libc::stack_t { ss_sp: area.start.as_ptr().cast(), ss_flags: 0, ss_size: area.len },
        None => libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 },
    };
    // SAFETY: the caller promises that the area is there for signals alone.
    let code = unsafe { libc::sigaltstack(&raw const new, ptr::null_mut()) };
    check(code.into())
}

/// The handler, and who handled faults before.
///
/// # Invariants
///
/// 1. `state` goes from `UNSET` to `SETTING` to `SET`, each step once.
/// 2. The cells are written only by the thread that went from `UNSET` to `SETTING`, before `SET`.
/// 3. They are read only after `SET` was seen (Acquire, pairs with the Release in `watch_faults`).
struct Watch {
    state: AtomicU8,
    handler: UnsafeCell<Option<FaultHandler>>,
    before: [UnsafeCell<MaybeUninit<libc::sigaction>>; 2],
}

// SAFETY: by invariants 2 and 3 no cell is read while it is written.
unsafe impl Sync for Watch {}

const UNSET: u8 = 0;
const SETTING: u8 = 1;
const SET: u8 = 2;

const SIGNALS: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

static WATCH: Watch = Watch {
    state: AtomicU8::new(UNSET),
    handler: UnsafeCell::new(None),
    before: [const { UnsafeCell::new(MaybeUninit::uninit()) }; 2],
};

/// `sigaction` for both signals: on the alternate stack, with the old action kept.
pub(in crate::os) fn watch_faults(handler: FaultHandler) -> Result<()> {
    let claim = WATCH.state.compare_exchange(UNSET, SETTING, Ordering::Relaxed, Ordering::Relaxed);
    if claim.is_err() {
        return Ok(());
    }
    // SAFETY: by `Watch` 2 this thread alone writes the cells, and nobody reads them yet.
    unsafe { WATCH.handler.get().write(Some(handler)) };
    for (signal, before) in SIGNALS.iter().zip(&WATCH.before) {
        // SAFETY: with no new action the call only writes the present one to `before`, which by `Watch` 2
        // is this thread's.
        let code = unsafe { libc::sigaction(*signal, ptr::null(), before.get().cast()) };
        check(code.into())?;
    }
    // Release pairs with the Acquire in `on_fault`: the cells are written.
    WATCH.state.store(SET, Ordering::Release);
    for signal in SIGNALS {
        let mut mask = MaybeUninit::uninit();
        // SAFETY: writes an empty set.
        unsafe { libc::sigemptyset(mask.as_mut_ptr()) };
        let action = libc::sigaction {
            sa_sigaction: on_fault_address(),
            // SAFETY: written above.
            sa_mask: unsafe { mask.assume_init() },
            sa_flags: libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER,
            sa_restorer: None,
        };
        // SAFETY: `on_fault` has the signature that SA_SIGINFO asks for and is safe in a signal handler:
        // it reads atomics and cells, and makes system calls.
        let code = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
        check(code.into())?;
    }
    Ok(())
}

type Action = extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void);

/// The address of [`on_fault`], as `sigaction` wants it.
fn on_fault_address() -> libc::sighandler_t {
    let action: Action = on_fault;
    // The integer is what the C declaration asks for: a union of two function pointers.
    #[expect(clippy::as_conversions, reason = "a function pointer has no other way to become an address")]
    let address = action as libc::sighandler_t;
    address
}

/// Shows the address to the handler, then hands the signal on.
extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    if WATCH.state.load(Ordering::Acquire) != SET {
        return;
    }
    // SAFETY: `SET` was seen (`Watch` 3).
    let handler = unsafe { WATCH.handler.get().read() };
    // SAFETY: the kernel passes a valid siginfo to a handler with SA_SIGINFO (sigaction(2)).
    let sent_by_kernel = unsafe { (*info).si_code } > 0;
    if let (Some(handler), true) = (handler, sent_by_kernel) {
        // SAFETY: as above.
        let info = unsafe { &*info };
        // SAFETY: for a SIGSEGV or SIGBUS of the kernel's, the address field is the one that is set.
        let address = unsafe { info.si_addr() };
        handler(address.addr());
    }
    hand_on(signal, info, context);
}

/// Does what would have been done without us.
fn hand_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(cell) =
        SIGNALS.iter().zip(&WATCH.before).find_map(|(known, cell)| (*known == signal).then_some(cell))
    else {
        return;
    };
    // SAFETY: written before `SET` (`Watch` 2), which `on_fault` saw, and never again.
    let before = unsafe { &*cell.get().cast::<libc::sigaction>() };
    match before.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // Back to the default action; the faulting instruction runs again when the handler returns,
            // and the process dies of the same fault. A signal that was sent is raised once more.
            // SAFETY: sets the default action.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
            // SAFETY: as in `on_fault`.
            if unsafe { (*info).si_code } <= 0 {
                // SAFETY: sends a signal to this thread.
                unsafe { libc::raise(signal) };
            }
        }
        address if before.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: with SA_SIGINFO the address is that of a function of this signature (sigaction(2)).
            let action = unsafe { core::mem::transmute::<libc::sighandler_t, Action>(address) };
            action(signal, info, context);
        }
        address => {
            // SAFETY: without SA_SIGINFO it is a function of the signal number alone (sigaction(2)).
            let action = unsafe { core::mem::transmute::<libc::sighandler_t, extern "C" fn(c_int)>(address) };
            action(signal);
        }
    }
}
