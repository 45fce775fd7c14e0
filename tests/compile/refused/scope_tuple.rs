//! The padding of a tuple may hold anything.

fn main() {
    let _ = oubliette::scope(|| (1_u8, 2_u64));
}
