//! `SecretVec` and `SecretString` against `Vec` and `String`, call by call.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use oubliette::{SecretString, SecretVec};

#[derive(Arbitrary, Debug)]
enum Step {
    Push(u32),
    Extend(Vec<u32>),
    Resize(u16),
    Truncate(u16),
    Clear,
    Reserve(u16),
    Take(Vec<u32>),
    NewWith(u16, u32),
    Clone,
    Change(u16, u32),
    Random(u8),
    PushChar(char),
    PushStr(String),
    TruncateText(u16),
    ClearText,
    TakeText(String),
    CloneText,
    Bytes,
}

#[derive(Default)]
struct Pair {
    secrets: SecretVec<u32>,
    values: Vec<u32>,
    text: SecretString,
    string: String,
}

fuzz_target!(|steps: Vec<Step>| {
    let mut pair = Pair::default();
    for step in steps {
        pair.step(step);
        pair.check();
    }
});

impl Pair {
    /// What cannot be had for want of memory that may be locked is a bug here: inputs are small.
    fn step(&mut self, step: Step) {
        const ENOUGH: &str = "enough memory that may be locked";
        let Self { secrets, values, text, string } = self;
        match step {
            Step::Push(value) => {
                secrets.push(value).expect(ENOUGH);
                values.push(value);
            }
            Step::Extend(more) => {
                secrets.extend_from_slice(&more).expect(ENOUGH);
                values.extend_from_slice(&more);
            }
            Step::Resize(len) => {
                secrets.resize(len.into()).expect(ENOUGH);
                values.resize(len.into(), 0);
            }
            Step::Truncate(len) => {
                secrets.truncate(len.into());
                values.truncate(len.into());
            }
            Step::Clear => {
                secrets.clear();
                values.clear();
            }
            Step::Reserve(additional) => {
                secrets.try_reserve(additional.into()).expect(ENOUGH);
                assert!(secrets.capacity() >= values.len() + usize::from(additional));
            }
            Step::Take(mut source) => {
                values.clone_from(&source);
                *secrets = SecretVec::take(&mut source).expect(ENOUGH);
                assert!(source.is_empty(), "the source is wiped and empty");
            }
            Step::NewWith(len, value) => {
                *secrets = SecretVec::new_with(len.into(), |new| new.fill(value)).expect(ENOUGH);
                *values = vec![value; len.into()];
            }
            Step::Clone => {
                let clone = secrets.try_clone().expect(ENOUGH);
                assert!(clone == *secrets);
                *secrets = clone;
            }
            Step::Change(index, value) => {
                if let Some(old) = values.get_mut(usize::from(index)) {
                    let is_same = *old == value;
                    let before = secrets.try_clone().expect(ENOUGH);
                    *old = value;
                    secrets.expose_mut()[usize::from(index)] = value;
                    assert_eq!(before == *secrets, is_same);
                }
            }
            Step::Random(len) => {
                *secrets = SecretVec::random(len.into()).expect(ENOUGH);
                *values = secrets.expose().to_vec();
                assert_eq!(values.len(), usize::from(len));
            }
            Step::PushChar(character) => {
                text.push(character).expect(ENOUGH);
                string.push(character);
            }
            Step::PushStr(more) => {
                text.push_str(&more).expect(ENOUGH);
                string.push_str(&more);
            }
            Step::TruncateText(len) => {
                if string.is_char_boundary(len.into()) {
                    text.truncate(len.into());
                    string.truncate(len.into());
                }
            }
            Step::ClearText => {
                text.clear();
                string.clear();
            }
            Step::TakeText(mut source) => {
                string.clone_from(&source);
                *text = SecretString::take(&mut source).expect(ENOUGH);
                assert!(source.is_empty(), "the source is wiped and empty");
            }
            Step::CloneText => {
                let clone = text.try_clone().expect(ENOUGH);
                assert!(clone == *text);
                *text = clone;
            }
            Step::Bytes => {
                let bytes = std::mem::take(text).into_bytes();
                assert_eq!(bytes.expose(), string.as_bytes());
                *text = SecretString::from_utf8(bytes).expect("came from a string");
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.secrets.expose(), self.values);
        assert_eq!(self.secrets.len(), self.values.len());
        assert_eq!(self.text.expose(), self.string);
        assert!(self.text == *self.string.as_str());
        let shown = format!("{:?}{:?}", self.secrets, self.text);
        let empty = format!("{:?}{:?}", SecretVec::<u32>::new(), SecretString::new());
        assert_eq!(shown, empty, "Debug depends on no byte");
    }
}
