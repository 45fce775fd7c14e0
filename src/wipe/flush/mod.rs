//! Past the caches. One file for each way there is, all with the same names.

#[cfg(all(target_arch = "x86_64", not(any(miri, oubliette_portable))))]
mod x86_64;
#[cfg(all(target_arch = "x86_64", not(any(miri, oubliette_portable))))]
use x86_64 as machine;

#[cfg(all(
    target_arch = "aarch64",
    any(target_os = "linux", target_os = "android"),
    not(any(miri, oubliette_portable))
))]
mod aarch64;
#[cfg(all(
    target_arch = "aarch64",
    any(target_os = "linux", target_os = "android"),
    not(any(miri, oubliette_portable))
))]
use aarch64 as machine;

#[cfg(any(
    miri,
    oubliette_portable,
    not(any(
        target_arch = "x86_64",
        all(target_arch = "aarch64", any(target_os = "linux", target_os = "android"))
    ))
))]
mod portable;
#[cfg(any(
    miri,
    oubliette_portable,
    not(any(
        target_arch = "x86_64",
        all(target_arch = "aarch64", any(target_os = "linux", target_os = "android"))
    ))
))]
use portable as machine;

pub(crate) use machine::{fence, reach, write_back, write_back_line, zero_and_flush};
