//! Zeroing that is fast at every size and that no optimiser can remove.

#[cfg(all(target_arch = "x86_64", not(any(miri, oubliette_portable))))]
mod x86_64;
#[cfg(all(target_arch = "x86_64", not(any(miri, oubliette_portable))))]
pub(crate) use x86_64::{store_marker, zero, zero_mid_slot, zero_short_slot, zero_slot, zero_small_slot};
#[cfg(all(target_arch = "x86_64", not(any(miri, oubliette_portable))))]
pub(super) use x86_64::{stream, zeros};

#[cfg(not(all(target_arch = "x86_64", not(any(miri, oubliette_portable)))))]
mod generic;
#[cfg(not(all(target_arch = "x86_64", not(any(miri, oubliette_portable)))))]
pub(crate) use generic::{store_marker, zero, zero_mid_slot, zero_short_slot, zero_slot, zero_small_slot};
