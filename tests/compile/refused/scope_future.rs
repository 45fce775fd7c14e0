//! What a future resolves to leaves its scopes.

fn main() {
    let _ = oubliette::ScopedFuture::new(|| async { String::new() });
}
