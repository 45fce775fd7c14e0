//! The secret heap as an allocator: of the whole program ([`Oubliette`]), of what runs in scopes
//! ([`ScopedAlloc`]), or of single collections ([`SecretAlloc`]).

mod by_address;
mod oubliette;
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(miri, loom, oubliette_portable))
))]
mod scoped;
#[cfg(feature = "allocator-api2")]
mod secret_alloc;

#[cfg(test)]
mod tests;

pub use oubliette::Oubliette;
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(miri, loom, oubliette_portable))
))]
pub use scoped::ScopedAlloc;
#[cfg(feature = "allocator-api2")]
pub use secret_alloc::SecretAlloc;
