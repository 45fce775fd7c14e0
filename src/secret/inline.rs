//! What a type promises before it may live in a secret block.

// UNSAFETY: the two traits are promises that the compiler cannot check, so declaring and implementing them
// is `unsafe`. Nothing is executed here.
#![expect(unsafe_code, reason = "declares and implements unsafe marker traits")]

use core::num::Wrapping;
use core::sync::atomic::{
    AtomicBool, AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicIsize, AtomicU8, AtomicU16, AtomicU32,
    AtomicU64, AtomicUsize,
};

/// A type whose data lies wholly inside the value, and for which zeros are a value.
///
/// Integers, floats, `bool`, `char`, atomics, arrays and tuples have it. A `String`, a `Vec`, a `Box` or a
/// reference owns or names memory elsewhere, which a secret block would not protect, so they have it not:
///
/// ```compile_fail,E0277
/// let key = oubliette::SecretBox::<String>::new(String::from("hunter2"));
/// ```
///
/// Say it of a struct of your own with [`impl_inline!`](crate::impl_inline), which checks the fields and
/// needs no `unsafe`; or by `unsafe impl`, which is how to say it of an enum, of a struct that wraps a
/// foreign type, or in spite of a field that owns other memory.
///
/// # Safety
///
/// * All-zero bytes are a valid value of the type: it is sound to read, to use and to drop a value that
///   turned to zeros since it was last looked at. (A forked child, `purge()` and `zeroize` do that.)
/// * So is every part of it that a reference can lead to: `purge()` in another thread may come while a reference
///   into the value is in use. An enum whose payload is never zero does not qualify, even if zeros are another
///   variant of it: `enum E { Empty, Key(NonZeroU64) }` may turn to zeros under a `&NonZeroU64`.
///
/// A second promise is not needed for soundness, but secrecy rests on it: the value holds no secret in
/// memory outside itself.
#[diagnostic::on_unimplemented(
    message = "`{Self}` may keep its data outside the secret block, or has no all-zero value",
    label = "not known to be inline data",
    note = "a secret block protects the bytes of `{Self}` itself, not what it points to",
    note = "use `SecretVec<T>` for a `Vec<T>` and `SecretString` for a `String`",
    note = "for a struct whose fields are all inline, write `oubliette::impl_inline!(Name {{ field, .. }})`"
)]
pub unsafe trait Inline {
    /// Whether a shared reference to the value may write to it, as to an atomic.
    ///
    /// [`IsolatedBox::open`](crate::IsolatedBox::open) gives pages that can only be read where this is `false`.
    /// [`impl_inline!`](crate::impl_inline) finds it out from the fields; after `unsafe impl` it is `true`
    /// unless said otherwise. Wrongly `false`, such a write is a fault.
    const WRITES_BEHIND_SHARED: bool = true;
}

/// An [`Inline`] type of which any bytes are a value, and every byte is part of it.
///
/// So it can be filled with random bytes, and compared byte by byte in constant time. Integers, floats
/// and arrays of them have it.
///
/// # Safety
///
/// * Any bytes are a valid value of the type.
/// * The type has no padding: every byte of a value is initialised.
/// * The type has no interior mutability.
#[diagnostic::on_unimplemented(
    message = "not every pattern of bytes is a `{Self}`, or it has padding",
    label = "not plain bytes",
    note = "integers, floats and arrays of them are `Plain`"
)]
pub unsafe trait Plain: Inline {}

macro_rules! plain {
    ($($name:ty)*) => {$(
        // SAFETY: "Integer and float types are valid for any initialised bytes" and "u8 .. f64 have no
        // padding" (Reference, type layout and behaviour considered undefined: only uninitialised memory
        // is invalid for them), so zeros are valid too.
        unsafe impl Inline for $name {
            const WRITES_BEHIND_SHARED: bool = false;
        }
        // SAFETY: as above.
        unsafe impl Plain for $name {}
    )*};
}

macro_rules! zero_valid {
    ($writes:literal: $($name:ty)*) => {$(
        // SAFETY: zeros are `false`, `'\0'`, or the atomic of 0 or `false`: atomics have "the same size and
        // bit validity as the underlying type" (`core::sync::atomic`, Rust 1.93).
        unsafe impl Inline for $name {
            const WRITES_BEHIND_SHARED: bool = $writes;
        }
    )*};
}

plain! { u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64 }
zero_valid! { false: bool char }
zero_valid! {
    true: AtomicBool AtomicI8 AtomicI16 AtomicI32 AtomicI64 AtomicIsize AtomicU8 AtomicU16 AtomicU32 AtomicU64
    AtomicUsize
}

// SAFETY: `Wrapping<T>` "is guaranteed to have the same layout and ABI as T" (`core::num::Wrapping`).
unsafe impl<T: Inline> Inline for Wrapping<T> {
    const WRITES_BEHIND_SHARED: bool = T::WRITES_BEHIND_SHARED;
}
// SAFETY: as above.
unsafe impl<T: Plain> Plain for Wrapping<T> {}

// SAFETY: an array is its elements one after another (Reference, array layout); each is valid as zeros.
unsafe impl<T: Inline, const N: usize> Inline for [T; N] {
    const WRITES_BEHIND_SHARED: bool = T::WRITES_BEHIND_SHARED;
}
// SAFETY: as above, and an array has no padding beyond that of its elements, which have none.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

macro_rules! tuples {
    ($(($($name:ident)*))*) => {$(
        // SAFETY: a tuple is valid where its fields are (Reference, behaviour considered undefined); each
        // field is valid as zeros, and zeroed padding is of no concern.
        unsafe impl<$($name: Inline),*> Inline for ($($name,)*) {
            const WRITES_BEHIND_SHARED: bool = false $(|| $name::WRITES_BEHIND_SHARED)*;
        }
    )*};
}

tuples! { () (A) (A B) (A B C) (A B C D) (A B C D E) (A B C D E F) (A B C D E F G) (A B C D E F G H) }

/// Used by [`impl_inline!`](crate::impl_inline); of no use by itself.
#[doc(hidden)]
pub const fn writes_behind_shared<S, T: Inline>(_: fn(&S) -> &T) -> bool {
    T::WRITES_BEHIND_SHARED
}

/// Says that a struct is [`Inline`], and checks it: every field is named, and every field is [`Inline`].
///
/// No `unsafe` is needed, so a crate that forbids it can use this.
///
/// ```
/// struct Session {
///     key: [u8; 32],
///     counter: u64,
/// }
/// oubliette::impl_inline!(Session { key, counter });
///
/// struct Seed([u8; 64]);
/// oubliette::impl_inline!(Seed { 0 });
///
/// let session = oubliette::SecretBox::<Session>::new_with(|s| s.counter = 7)?;
/// assert_eq!(session.expose().counter, 7);
/// # Ok::<(), oubliette::Error>(())
/// ```
///
/// A field that owns other memory is refused:
///
/// ```compile_fail,E0277
/// struct Login {
///     name: String,
/// }
/// oubliette::impl_inline!(Login { name });
/// ```
///
/// and so is one that is left out:
///
/// ```compile_fail
/// struct Login {
///     id: u64,
///     name: String,
/// }
/// oubliette::impl_inline!(Login { id });
/// ```
#[macro_export]
macro_rules! impl_inline {
    ($name:ident { $($field:tt),* $(,)? }) => {
        // Compiles only if the fields are all there: a pattern without `..` must name each, and only a struct
        // has a pattern and fields of this form.
        const _: fn(&$name) = |value| {
            let $name { $($field: _),* } = value;
        };
        // SAFETY: a struct is valid where its fields are (Reference, behaviour considered undefined), the
        // pattern above names them all, and the constant compiles only if zeros are valid for each of them.
        unsafe impl $crate::Inline for $name {
            const WRITES_BEHIND_SHARED: bool =
                false $(|| $crate::writes_behind_shared::<$name, _>(|value| &value.$field))*;
        }
    };
}
