//! What the owners promise, seen from outside their blocks.

// UNSAFETY: `impl_inline!` vouches for types of the tests.
#![allow(unsafe_code, reason = "`impl_inline!` writes it; in another crate the lint does not look into it")]
#![allow(
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests"
)]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use zeroize::{Zeroize as _, ZeroizeOnDrop};

use crate::{NewWithError, SecretBox, SecretString, SecretVec};

/// What lies at an address, also when nobody owns it any more: read as another process would.
fn peek(address: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    File::open("/proc/self/mem").unwrap().read_exact_at(&mut bytes, address as u64).unwrap();
    bytes
}

/// A value whose drop is counted.
struct Counted {
    key: [u8; 24],
    id: u64,
}

crate::impl_inline!(Counted { key, id });

static DROPS: [AtomicUsize; 8] = [const { AtomicUsize::new(0) }; 8];

impl Drop for Counted {
    fn drop(&mut self) {
        DROPS[self.id as usize].fetch_add(1, Ordering::Relaxed);
    }
}

fn drops(id: u64) -> usize {
    DROPS[id as usize].load(Ordering::Relaxed)
}

mod model;

mod boxed {
    use super::*;

    #[test]
    fn is_made_in_place_from_zeros() {
        let key = SecretBox::<[u8; 32]>::new_with(|bytes| {
            assert_eq!(*bytes, [0; 32]);
            bytes.fill(7);
        })
        .unwrap();
        assert_eq!(*key.expose(), [7; 32]);
    }

    #[test]
    fn leaves_zeros_when_dropped() {
        let key = SecretBox::<[u8; 64]>::new_with(|bytes| bytes.fill(0xA5)).unwrap();
        let address = key.expose().as_ptr() as usize;
        assert_eq!(peek(address, 64), [0xA5; 64]);
        drop(key);
        assert_eq!(peek(address, 64), [0; 64]);
    }

    #[test]
    fn leaves_zeros_when_the_closure_panics() {
        let mut address = 0;
        let panic = catch_unwind(AssertUnwindSafe(|| {
            SecretBox::<[u8; 64]>::new_with(|bytes| {
                bytes.fill(0xA5);
                address = bytes.as_ptr() as usize;
                std::panic::resume_unwind(Box::new("stop"));
            })
        }));
        assert!(panic.is_err());
        assert_eq!(peek(address, 64), [0; 64]);
    }

    #[test]
    fn leaves_zeros_when_the_closure_refuses_and_tells_whose_error_it_is() {
        let mut address = 0;
        let refused = SecretBox::<[u8; 64]>::try_new_with(|bytes| {
            bytes.fill(0xA5);
            address = bytes.as_ptr() as usize;
            Err("too short")
        });
        assert_eq!(refused.unwrap_err(), NewWithError::Refused("too short"));
        assert_eq!(peek(address, 64), [0; 64]);
    }

    #[test]
    fn takes_a_value_and_wipes_the_source() {
        let mut source = [9_u8; 48];
        let key = SecretBox::take(&mut source).unwrap();
        assert_eq!(source, [0; 48]);
        assert_eq!(*key.expose(), [9; 48]);
        assert_eq!(*SecretBox::new([3_u32; 4]).unwrap().expose(), [3; 4]);
    }

    #[test]
    fn drops_its_value_once() {
        let mut counted = Counted { key: [1; 24], id: 1 };
        let owner = SecretBox::take(&mut counted).unwrap();
        assert_eq!((counted.id, counted.key), (0, [0; 24]));
        assert_eq!(drops(1), 0);
        drop(owner);
        assert_eq!(drops(1), 1);
    }

    #[test]
    fn randoms_differ() {
        let one = SecretBox::<[u64; 4]>::random().unwrap();
        let other = SecretBox::<[u64; 4]>::random().unwrap();
        assert_ne!(one, other);
        assert_ne!(*one.expose(), [0; 4]);
    }

    #[test]
    fn zeroizes_in_place_and_stays_usable() {
        let mut key = SecretBox::new([1_u8; 16]).unwrap();
        key.zeroize();
        assert_eq!(*key.expose(), [0; 16]);
        key.expose_mut().fill(2);
        assert_eq!(*key.expose(), [2; 16]);
    }

    #[test]
    fn takes_values_without_size_and_with_large_alignment() {
        #[repr(align(4096))]
        struct Page([u8; 100]);
        crate::impl_inline!(Page { 0 });

        SecretBox::<()>::new_with(|()| {}).unwrap();
        SecretBox::<[u64; 0]>::random().unwrap();
        let page = SecretBox::<Page>::new_with(|page| page.0.fill(5)).unwrap();
        assert_eq!(std::ptr::from_ref(page.expose()) as usize % 4096, 0);
        assert_eq!(page.expose().0, [5; 100]);
    }

    #[test]
    fn clones_and_leaks_on_purpose() {
        let key = SecretBox::new([1_u8; 16]).unwrap();
        let copy = key.try_clone().unwrap();
        drop(key);
        assert_eq!(*copy.leak(), [1; 16]);
    }

    #[test]
    fn compares_bytes() {
        let key = SecretBox::new([1_u8; 32]).unwrap();
        for differing in 0..32 {
            let mut other = [1; 32];
            assert!(key == other);
            other[differing] = 0;
            assert!(key != other);
            assert!(key != SecretBox::new(other).unwrap());
        }
        assert!(key != [1; 31][..]);
        assert!(key == [1; 32][..]);
        let nan = f64::NAN;
        assert!(SecretBox::new(nan).unwrap() == nan);
    }

    #[test]
    fn prints_nothing_of_the_secret() {
        let key = SecretBox::new([0x41_u8; 32]).unwrap();
        assert_eq!(format!("{key:?} {key:#?}"), "SecretBox(..) SecretBox(..)");
    }
}

mod vec {
    use super::*;

    #[test]
    fn wipes_the_blocks_that_it_leaves_while_it_grows() {
        let mut secret = SecretVec::new();
        let mut left = Vec::new();
        for round in 0..4096_u32 {
            let before = secret.expose().as_ptr() as usize;
            let capacity = secret.capacity();
            secret.push(0xA5A5_0000 | round).unwrap();
            if secret.expose().as_ptr() as usize != before && capacity > 0 {
                left.push((before, capacity * 4));
            }
        }
        assert!(left.len() > 3, "{left:?}");
        for (address, len) in left {
            let bytes = peek(address, len);
            assert!(!bytes.windows(2).any(|pair| pair == [0xA5; 2]), "{len} bytes at {address:x}");
        }
        assert!(secret.expose().iter().enumerate().all(|(i, n)| *n == 0xA5A5_0000 | i as u32));
    }

    #[test]
    fn wipes_what_is_truncated() {
        let mut secret = SecretVec::new_with(100, |bytes| bytes.fill(0xA5_u8)).unwrap();
        let address = secret.expose().as_ptr() as usize;
        secret.truncate(40);
        assert_eq!(secret.expose(), [0xA5; 40]);
        assert_eq!(peek(address + 40, 60), [0; 60]);
        secret.resize(50).unwrap();
        assert_eq!(secret.expose()[40..], [0; 10]);
        secret.truncate(1000);
        assert_eq!(secret.len(), 50);
        secret.clear();
        assert!(secret.is_empty());
        assert_eq!(peek(address, 100), [0; 100]);
        assert!(secret.capacity() >= 100);
    }

    #[test]
    fn wipes_all_of_a_vector_that_it_takes() {
        let mut source = Vec::with_capacity(200);
        source.extend([0xA5_u8; 200]);
        source.truncate(50);
        let secret = SecretVec::take(&mut source).unwrap();
        assert_eq!(secret.expose(), [0xA5; 50]);
        assert!(source.is_empty());
        assert_eq!(peek(source.as_ptr() as usize, 200), [0; 200]);
        assert!(SecretVec::try_from(vec![1_u16, 2]).unwrap() == [1, 2]);
    }

    #[test]
    fn drops_every_value_once() {
        let mut secret = SecretVec::new();
        for _ in 0..10 {
            secret.push(Counted { key: [1; 24], id: 2 }).unwrap();
        }
        assert_eq!(drops(2), 0);
        secret.truncate(7);
        assert_eq!(drops(2), 3);
        drop(secret);
        assert_eq!(drops(2), 10);
    }

    #[test]
    fn a_panicking_drop_leaves_no_byte() {
        struct Bad([u8; 32]);
        crate::impl_inline!(Bad { 0 });
        impl Drop for Bad {
            fn drop(&mut self) {
                if self.0[0] == 0xA5 {
                    std::panic::resume_unwind(Box::new("stop"));
                }
            }
        }
        let mut secret = SecretVec::<Bad>::new_with(3, |all| all[1].0.fill(0xA5)).unwrap();
        let address = secret.expose().as_ptr() as usize;
        assert!(catch_unwind(AssertUnwindSafe(|| secret.truncate(0))).is_err());
        assert_eq!(peek(address, 96), [0; 96]);
        secret.resize(2).unwrap();
        secret.expose_mut()[1].0.fill(0xA5);
        assert!(catch_unwind(AssertUnwindSafe(|| drop(secret))).is_err());
        assert_eq!(peek(address, 96), [0; 96]);
    }

    #[test]
    fn values_without_size_need_no_block() {
        let mut secret = SecretVec::new();
        for _ in 0..1000 {
            secret.push(()).unwrap();
        }
        assert_eq!((secret.len(), secret.capacity()), (1000, usize::MAX));
        secret.clear();
        assert!(secret.is_empty());
    }

    #[test]
    fn says_no_to_what_cannot_be() {
        assert_eq!(SecretVec::<u64>::with_capacity(usize::MAX).unwrap_err(), crate::Error::TooLarge);
        let mut secret = SecretVec::try_from(vec![1_u64]).unwrap();
        assert_eq!(secret.try_reserve(usize::MAX), Err(crate::Error::TooLarge));
        assert_eq!(secret.resize(usize::MAX / 4), Err(crate::Error::TooLarge));
        assert_eq!(secret.expose(), [1]);
    }

    #[test]
    fn zeroize_empties_it() {
        let mut secret = SecretVec::<u8>::random(64).unwrap();
        let address = secret.expose().as_ptr() as usize;
        secret.zeroize();
        assert!(secret.is_empty());
        assert_eq!(peek(address, 64), [0; 64]);
    }

    #[test]
    fn is_a_writer() {
        use std::io::Write as _;
        let mut secret = SecretVec::new();
        write!(secret, "{}-{}", 1, 2).unwrap();
        assert!(secret == *b"1-2");
        assert!(secret.try_clone().unwrap() == secret);
        assert_eq!(secret.leak(), b"1-2");
    }
}

mod string {
    use super::*;

    #[test]
    fn keeps_text_whole() {
        let mut secret = SecretString::new();
        secret.push_str("schl").unwrap();
        secret.push('ü').unwrap();
        secret.push_str("ssel").unwrap();
        assert_eq!(secret.expose(), "schlüssel");
        secret.truncate(5); // within the ü
        assert_eq!(secret.expose(), "schl");
        secret.clear();
        assert_eq!(secret.expose(), "");
    }

    #[test]
    fn refuses_what_is_not_text() {
        let refused = SecretString::new_with(2, |bytes| bytes.fill(0xFF));
        assert!(matches!(refused, Err(NewWithError::Refused(_))));
        let text = SecretString::new_with(2, |bytes| bytes.fill(b'a')).unwrap();
        assert!(text == *"aa");
        assert!(text.into_bytes() == *b"aa");
    }

    #[test]
    fn wipes_a_string_that_it_takes() {
        let mut source = String::from("correct horse battery staple");
        let (address, len) = (source.as_ptr() as usize, source.capacity());
        let secret = SecretString::take(&mut source).unwrap();
        assert_eq!(secret.expose(), "correct horse battery staple");
        assert_eq!(source, "");
        assert_eq!(peek(address, len), vec![0; len]);
    }

    #[test]
    fn composes_in_place() {
        use std::fmt::Write as _;
        let mut secret = SecretString::with_capacity(64).unwrap();
        let address = secret.expose().as_ptr();
        write!(secret, "user:{}", 1234).unwrap();
        assert_eq!((secret.expose(), secret.expose().as_ptr()), ("user:1234", address));
        assert!(secret.try_clone().unwrap() == secret);
    }
}

#[cfg(feature = "serde")]
mod serde {
    use super::*;

    #[test]
    fn reads_and_does_not_quote_what_it_cannot_read() {
        let key: SecretBox<[u8; 4]> = serde_json::from_str("[1,2,3,4]").unwrap();
        assert!(key == [1, 2, 3, 4]);
        let values: SecretVec<u16> = serde_json::from_str("[1,2,3]").unwrap();
        assert!(values == [1, 2, 3]);
        let text: SecretString = serde_json::from_str(r#""a\u00fcb""#).unwrap();
        assert!(text == *"aüb");
        let error = serde_json::from_str::<SecretVec<u8>>(r#""hunter2""#).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
        let error = serde_json::from_str::<SecretString>("271828").unwrap_err().to_string();
        assert!(!error.contains("271828"), "{error}");
    }
}

#[test]
fn owners_are_as_send_and_sync_as_their_values() {
    const fn both<T: Send + Sync + ZeroizeOnDrop>() {}
    both::<SecretBox<[u8; 32]>>();
    both::<SecretVec<u64>>();
    both::<SecretString>();
}

#[test]
fn the_setting_of_the_flush_is_kept() {
    use crate::{Flush, secret_flush, set_secret_flush};
    for flush in [Flush::Off, Flush::Bounded, Flush::Immediate] {
        set_secret_flush(flush);
        assert_eq!(secret_flush(), flush);
        let key = SecretBox::new([1_u8; 32]).unwrap();
        let address = key.expose().as_ptr() as usize;
        drop(key);
        assert_eq!(peek(address, 32), [0; 32]);
    }
}
