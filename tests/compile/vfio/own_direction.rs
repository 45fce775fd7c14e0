//! There are three directions, and no others can be made up.

#[derive(Debug)]
enum Everywhere {}

impl oubliette::dma::vfio::Direction for Everywhere {}

fn main() {}
