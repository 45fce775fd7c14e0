//! The secret heap as an allocator: of what runs in scopes ([`ScopedAlloc`]).

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(miri, oubliette_portable))
))]
mod scoped;

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(miri, oubliette_portable))
))]
pub use scoped::ScopedAlloc;
