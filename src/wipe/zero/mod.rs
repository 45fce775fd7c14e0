//! Zeroing that is fast at every size and that no optimiser can remove.

#[cfg(all(target_arch = "x86_64", not(any(miri, oubliette_portable))))]
mod x86_64;
#[cfg(all(target_arch = "x86_64", not(any(miri, oubliette_portable))))]
pub(super) use x86_64::{stream, zeros};
#[cfg(all(target_arch = "x86_64", not(any(miri, oubliette_portable))))]
pub(crate) use x86_64::{zero, zero_slot, zero_small_slot};

#[cfg(not(all(target_arch = "x86_64", not(any(miri, oubliette_portable)))))]
mod generic;
#[cfg(not(all(target_arch = "x86_64", not(any(miri, oubliette_portable)))))]
pub(crate) use generic::{zero, zero_slot, zero_small_slot};
