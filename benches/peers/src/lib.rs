//! What the benchmarks share: the allocators, the sizes that programs ask for, and where figures go.

pub mod allocators;
pub mod c_heaps;
pub mod figures;
pub mod programs;
pub mod sizes;
