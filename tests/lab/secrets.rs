//! The secret heap on another kernel than this machine's.

use oubliette::{SecretBox, report};

use crate::check::{Check, Outcome, require};
use crate::support::{pages, pattern};

pub(crate) const CHECKS: &[Check] = &[Check::new("secrets_are_locked_and_pinned", locked_and_pinned)];

/// A secret is locked by the kernel's own account, pinned by ours, and its page stays where it is when the kernel
/// is asked to make huge pages of everything.
fn locked_and_pinned() -> Outcome {
    let locked_before = crate::support::limits::status_bytes("VmLck");
    let secret = SecretBox::<[u8; 32]>::new_with(|bytes| pattern::fill(bytes, 7))?;
    let address = secret.expose().as_ptr().addr();
    let mapping = pages::mapping_at(address);
    require(mapping.has("lo") && mapping.has("dd"), || format!("flags {mapping:?}"))?;
    let locked = crate::support::limits::status_bytes("VmLck") - locked_before;
    let report = report();
    let heap = report.secrets().expect("it was used");
    println!("VmLck +{locked}\n{report}");
    require(heap.locked_bytes > 0 && locked >= heap.locked_bytes, || format!("VmLck grew by {locked}"))?;
    require(heap.pinned_bytes > 0 && !heap.steps_down.is_pin_lost, || format!("{:?}", heap.steps_down))?;
    let before = pages::frame_of(address);
    let _ = std::fs::write("/proc/sys/vm/compact_memory", "1");
    require(before.is_some() && pages::frame_of(address) == before, || "the frame changed".to_owned())?;
    require(pattern::matches(secret.expose(), 7), || "the content changed".to_owned())
}
