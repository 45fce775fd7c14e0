//! What the integration tests share: children that play a role, limits, filters, maps and scans.
//!
//! Each test binary uses a part of it.
#![allow(dead_code, reason = "each test binary uses its own part of the support code")]

pub(crate) mod block;
pub(crate) mod child;
pub(crate) mod foreign;
pub(crate) mod fork;
pub(crate) mod inherited;
pub(crate) mod limits;
pub(crate) mod machine;
#[path = "../../examples/proof/maps.rs"]
pub(crate) mod maps;
#[cfg(target_os = "linux")]
pub(crate) mod net;
pub(crate) mod pages;
pub(crate) mod pattern;
pub(crate) mod probe;
pub(crate) mod ring;
#[path = "../../examples/proof/scan.rs"]
pub(crate) mod scan;
pub(crate) mod seccomp;
pub(crate) mod skip;
#[path = "../../examples/proof/switch.rs"]
pub(crate) mod switch;
pub(crate) mod trace;
