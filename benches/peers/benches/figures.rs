//! What criterion does not measure: latencies, bandwidth, memory held, and how cost grows.
//!
//! `cargo bench --manifest-path benches/peers/Cargo.toml --bench figures [-- NAME..]`

mod figures {
    pub mod bandwidth;
    pub mod clock;
    pub mod footprint;
    pub mod growth;
    pub mod latency;
}

use figures::{bandwidth, footprint, growth, latency};

const ALL: [(&str, fn()); 4] = [
    ("latency", latency::measure),
    ("bandwidth", bandwidth::measure),
    ("footprint", footprint::measure),
    ("growth", growth::measure),
];

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [child, rest @ ..] = arguments.as_slice()
        && child == footprint::CHILD
    {
        footprint::child(rest);
        return;
    }
    for (name, measure) in ALL {
        if arguments.is_empty() || arguments.iter().any(|argument| argument == name) {
            measure();
        }
    }
}
