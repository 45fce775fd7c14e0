//! Changing stacks: the only code of the crate that runs on none of them.
//!
//! ```text
//!   outer stack                          scope stack
//!   | compiled code      |               | (top)              |
//!   | call_inside frame  | -- switch --> | body(data)         |
//!   |  saved by callee   |               |  ... the closure   |
//!   | ------ outer_sp -- | <-- switch -- | call_outside frame |
//!   | body(data)         |               |  preserved regs    |
//! ```
//!
//! Both functions keep the frame pointer of the stack that they leave, and describe their frame by it
//! (`.cfi_def_cfa`), so an unwinder walks from one stack to the other. There is no `.cfi_signal_frame`: an
//! unwinder would then look up the return address itself instead of the call before it, and find the wrong
//! row. No panic unwinds through them: `body` catches, as its ABI demands.

// UNSAFETY: naked functions that replace the stack pointer.
#![expect(unsafe_code, reason = "naked functions that switch stacks, see UNSAFETY above")]

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::{call_inside, call_outside};

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{call_inside, call_outside};

#[cfg(test)]
mod tests;

/// What runs on the other stack. It must not unwind, which its ABI turns into an abort.
pub(crate) type Body = unsafe extern "C" fn(*mut u8);
