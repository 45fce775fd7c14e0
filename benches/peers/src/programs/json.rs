//! Parses a document into a tree, changes it, and prints it.

use std::fmt::Write;
use std::hint::black_box;

use serde_json::Value;

pub fn run() {
    let document = document(2000);
    for round in 0..40 {
        let mut tree: Value = serde_json::from_str(&document).unwrap();
        for (i, person) in tree["people"].as_array_mut().unwrap().iter_mut().enumerate() {
            if i % 3 == 0 {
                person["note"] = Value::String(format!("seen in round {round}"));
            } else {
                person.as_object_mut().unwrap().remove("tags");
            }
        }
        black_box(serde_json::to_string(&tree).unwrap());
    }
}

fn document(people: usize) -> String {
    let mut text = String::from("{\"people\":[");
    for i in 0..people {
        let comma = if i == 0 { "" } else { "," };
        write!(
            text,
            "{comma}{{\"id\":{i},\"name\":\"person number {i}\",\"balance\":{}.25,\"tags\":[\"a{}\",\"b{}\",\
             \"{}\"],\"address\":{{\"street\":\"{} Long Street\",\"city\":\"Town {}\",\"zip\":\"{:05}\"}}}}",
            i * 37 % 10_000,
            i % 7,
            i % 11,
            "long tag ".repeat(i % 9),
            i,
            i % 100,
            i * 7
        )
        .unwrap();
    }
    text.push_str("]}");
    text
}
