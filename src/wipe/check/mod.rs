//! Is it all zero? The question asked of every block that is used again.

#[cfg(all(target_arch = "x86_64", not(any(miri, oubliette_portable))))]
mod x86_64;
#[cfg(all(target_arch = "x86_64", not(any(miri, oubliette_portable))))]
pub(crate) use x86_64::{is_zero, mid_slot_is_zero, short_slot_is_zero, slot_is_zero, small_slot_is_zero};

#[cfg(not(all(target_arch = "x86_64", not(any(miri, oubliette_portable)))))]
mod generic;
#[cfg(not(all(target_arch = "x86_64", not(any(miri, oubliette_portable)))))]
pub(crate) use generic::{is_zero, mid_slot_is_zero, short_slot_is_zero, slot_is_zero, small_slot_is_zero};
