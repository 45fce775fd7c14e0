//! Fault injection: every call of the contract passes [`gate`], where a test can make it fail as if the
//! system had refused. Calls that are let through reach the real backend.
//!
//! Two twins of the same names: enabled in this crate's own tests and under the test-only feature
//! `fault-injection`, disabled, empty and inlined away in every program.

#[cfg(any(test, feature = "fault-injection"))]
mod enabled;
#[cfg(any(test, feature = "fault-injection"))]
mod simulated;
#[cfg(feature = "fault-injection")]
pub(crate) use enabled::Fault;
#[cfg(any(test, feature = "fault-injection"))]
pub(super) use enabled::{adjust, gate};
#[cfg(any(test, feature = "fault-injection"))]
pub(crate) use enabled::{count, every_call_in_turn, fail, fail_always};
#[cfg(feature = "fault-injection")]
pub(crate) use simulated::simulate_keys;
#[cfg(any(test, feature = "fault-injection"))]
pub(super) use simulated::simulated_key;
#[cfg(any(test, feature = "fault-injection"))]
pub(crate) use simulated::{rights, set_rights, simulates_keys};

#[cfg(not(any(test, feature = "fault-injection")))]
mod disabled;
#[cfg(not(any(test, feature = "fault-injection")))]
pub(crate) use disabled::simulates_keys;
#[cfg(not(any(test, feature = "fault-injection")))]
pub(super) use disabled::{adjust, gate, simulated_key};
