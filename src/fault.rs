//! Test only: makes any system call of this crate fail on the thread that asks for it.
//!
//! Exists under the feature `fault-injection`, which no program should enable.

use crate::keys::{self, Zone};
use crate::os::{Access, Errno, fake};

pub use crate::os::call::Call;

/// A planned failure of this thread's calls. Dropping it restores what was planned before.
#[must_use = "the failure is planned only as long as this lives"]
#[derive(Debug)]
pub struct Fault {
    _planned: fake::Fault,
}

/// Makes one call fail with this `errno`: of all calls of this kind that the thread makes from now on, the one
/// with this number, counted from 0.
pub fn fail(call: Call, nth: usize, errno: i32) -> Fault {
    Fault { _planned: fake::fail(call, nth, Errno(errno)) }
}

/// Makes every call of this kind fail with this `errno`.
pub fn fail_always(call: Call, errno: i32) -> Fault {
    Fault { _planned: fake::fail_always(call, Errno(errno)) }
}

/// How many calls of this kind the thread has made so far, failed ones included.
#[must_use]
pub fn count(call: Call) -> usize {
    fake::count(call)
}

/// Runs `body` once as it is and then once for each system call that it makes, with that call failing, until
/// none is left that has not had its turn. `body` gets the number of the call that fails, which may be of any
/// kind. Returns the number of runs with a failure.
pub fn every_call_in_turn(errno: i32, body: impl FnMut(Option<usize>)) -> usize {
    fake::every_call_in_turn(Errno(errno), body)
}

/// From now on this process has protection keys, simulated: they are handed out, and what each thread may do is
/// kept and told by [`key_rights`], but no access is ever a fault.
pub fn simulate_protection_keys() {
    fake::simulate_keys();
}

/// What a thread may do with sealed memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyRights {
    /// Neither read nor write it.
    None,
    /// Read it.
    Read,
    /// Read and write it.
    ReadWrite,
}

/// What this thread may do with isolated secrets, and with dense ones, by its register of rights: all, while the
/// process has no keys.
#[must_use]
pub fn key_rights() -> (KeyRights, KeyRights) {
    let of = |zone| match keys::granted(zone) {
        Access::None => KeyRights::None,
        Access::Read => KeyRights::Read,
        Access::ReadWrite => KeyRights::ReadWrite,
    };
    (of(Zone::Isolated), of(Zone::Dense))
}
