//! A `String` keeps its text elsewhere.

use oubliette::SecretBox;

fn main() {
    let _ = SecretBox::new(String::from("hunter2"));
}
