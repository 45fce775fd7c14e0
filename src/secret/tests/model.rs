//! `SecretVec` and `SecretString` against `Vec` and `String`, over any sequence of calls.

use proptest::prelude::*;

use super::peek;
use crate::{SecretString, SecretVec};

#[derive(Clone, Debug)]
enum Step {
    Push(u32),
    Extend(Vec<u32>),
    Truncate(usize),
    Resize(usize),
    Reserve(usize),
    Overwrite(usize, u32),
    Clear,
    Clone,
    Take(Vec<u32>, usize),
}

fn step() -> impl Strategy<Value = Step> {
    // Never zero, so that what is left of it would be seen.
    let value = || 1..=u32::MAX;
    let values = || prop::collection::vec(1..=u32::MAX, 0..600);
    prop_oneof![
        8 => value().prop_map(Step::Push),
        4 => values().prop_map(Step::Extend),
        3 => (0_usize..2000).prop_map(Step::Truncate),
        2 => (0_usize..2000).prop_map(Step::Resize),
        2 => (0_usize..20_000).prop_map(Step::Reserve),
        2 => (0_usize..2000, value()).prop_map(|(place, value)| Step::Overwrite(place, value)),
        1 => Just(Step::Clear),
        1 => Just(Step::Clone),
        1 => (values(), 0_usize..100).prop_map(|(values, spare)| Step::Take(values, spare)),
    ]
}

fn bytes_of(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

proptest! {
    #[test]
    fn a_secret_vec_is_a_vec_whose_spare_room_is_zero(steps in prop::collection::vec(step(), 1..60)) {
        let mut secret = SecretVec::<u32>::new();
        let mut model = Vec::new();
        for step in steps {
            let before = (secret.expose().as_ptr().addr(), secret.capacity() * 4);
            match step {
                Step::Push(value) => {
                    secret.push(value).unwrap();
                    model.push(value);
                }
                Step::Extend(values) => {
                    secret.extend_from_slice(&values).unwrap();
                    model.extend(values);
                }
                Step::Truncate(len) => {
                    secret.truncate(len);
                    model.truncate(len);
                }
                Step::Resize(len) => {
                    secret.resize(len).unwrap();
                    model.resize(len, 0);
                }
                Step::Reserve(more) => {
                    secret.try_reserve(more).unwrap();
                    assert!(secret.capacity() >= model.len() + more);
                }
                Step::Overwrite(place, value) => {
                    if let Some(old) = secret.expose_mut().get_mut(place) {
                        *old = value;
                        model[place] = value;
                    }
                }
                Step::Clear => {
                    secret.clear();
                    model.clear();
                }
                Step::Clone => secret = secret.try_clone().unwrap(),
                Step::Take(values, spare) => {
                    let mut source = Vec::with_capacity(values.len() + spare);
                    source.extend(&values);
                    secret = SecretVec::take(&mut source).unwrap();
                    assert!(source.is_empty());
                    assert!(peek(source.as_ptr().addr(), source.capacity() * 4).iter().all(|byte| *byte == 0));
                    model = values;
                }
            }
            assert_eq!(secret.expose(), model);
            assert_eq!((secret.len(), secret.is_empty()), (model.len(), model.is_empty()));
            let (start, used) = (secret.expose().as_ptr().addr(), model.len() * 4);
            let whole = peek(start, if secret.capacity() == 0 { 0 } else { secret.capacity() * 4 });
            assert!(whole[..used] == bytes_of(&model));
            assert!(whole[used..].iter().all(|byte| *byte == 0), "spare room");
            // What it left is zero; a large block's pages are gone altogether.
            if before.0 != start && before.1 > 0 && before.1 < 30_000 {
                assert!(peek(before.0, before.1).iter().all(|byte| *byte == 0), "left block");
            }
        }
    }

    #[test]
    fn a_secret_string_is_a_string(pieces in prop::collection::vec((".{0,40}", 0_usize..200), 1..40)) {
        let mut secret = SecretString::new();
        let mut model = String::new();
        for (piece, len) in pieces {
            secret.push_str(&piece).unwrap();
            model.push_str(&piece);
            secret.truncate(len);
            model.truncate(model.floor_char_boundary(len));
            for character in piece.chars().take(2) {
                secret.push(character).unwrap();
                model.push(character);
            }
            assert_eq!(secret.expose(), model);
            assert!(secret == *model && secret == secret.try_clone().unwrap());
        }
        assert_eq!(secret.into_bytes().expose(), model.as_bytes());
    }
}
