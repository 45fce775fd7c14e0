//! Test only: what the fuzzers in `fuzz/` run. Each function reads its input as a sequence of requests, carries
//! them out against a model, and panics where the two part.
//!
//! Exists under the feature `fault-injection`, which no program should enable. The same functions run on random
//! bytes in this crate's tests.

// UNSAFETY: owns blocks of a heap by address, as an allocator's user does.
#![expect(unsafe_code, reason = "drives the raw interface of a heap; see `Block`")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "test support: a panic is its answer"
)]

use core::alloc::Layout;
use core::ptr::NonNull;
use core::slice;

use crate::heap::PrivateHeap;
use crate::heap::class::{self, CANARY_BYTES, CLASSES};
use crate::heap::geometry::{self, Constraints, Geometry, PAYLOAD_BYTES};
use crate::os::{Call, Errno, fake};
use crate::pages::layout::{RunConstraints, assert_run_invariants, guarded_run};
use crate::{Backing, Flush, Fork, Lock, Policy};

/// Most blocks that live at once.
const MOST_BLOCKS: usize = 64;
/// Small enough that it can be used up.
const MEMORY: Constraints = Constraints { memory_bytes: 32 << 20, max_threads: 2 };

thread_local! {
    /// A heap that pins keeps a ring open for as long as the process lives, so there is one only.
    static PINNED: Option<PrivateHeap> =
        PrivateHeap::new(Policy::SECRET.with_lock(Lock::BestEffort), MEMORY).ok();
}

/// Allocates, frees and resizes blocks, with system calls that fail in between, and has every record of the heap
/// checked after each step.
pub fn heap_ops(bytes: &[u8]) {
    let mut input = Input(bytes);
    let policy = match input.byte() % 4 {
        0 => Policy::SECRET.with_backing(Backing::Locked).with_lock(Lock::Off),
        1 => Policy::PROGRAM,
        2 => Policy::SECRET.with_backing(Backing::Locked).with_fork(Fork::Exclude),
        _ => return PINNED.with(|heap| heap.iter().for_each(|heap| run(heap, &mut input))),
    };
    if let Ok(heap) = PrivateHeap::new(policy, MEMORY) {
        run(&heap, &mut input);
    }
}

/// Lays out guarded runs and heaps and picks size classes for any numbers at all.
pub fn page_layout(bytes: &[u8]) {
    let mut input = Input(bytes);
    let constraints = RunConstraints {
        block_bytes: input.any_size(),
        block_align: 1 << (input.byte() % 63),
        page_bytes: 1 << (12 + input.byte() % 5),
    };
    match guarded_run(constraints) {
        Some(layout) => assert_run_invariants(constraints, layout),
        None => assert!(
            constraints.block_bytes.saturating_add(constraints.block_align.saturating_mul(2))
                > isize::MAX.unsigned_abs() - 4 * constraints.page_bytes,
            "a run that would do was refused"
        ),
    }

    let constraints = Constraints { memory_bytes: input.any_size(), max_threads: input.any_size() };
    if let Some(geometry) = Geometry::new(constraints) {
        geometry::assert_invariants(constraints, &geometry);
    }
    let constraints = Constraints {
        memory_bytes: (input.any_size() % (1 << 18) + 1) << 20,
        max_threads: input.any_size() % ((1 << 24) - 1) + 1,
    };
    let geometry = Geometry::new(constraints).expect("constraints within every limit");
    geometry::assert_invariants(constraints, &geometry);

    let (size, align) = (input.any_size(), 1_usize << (input.byte() % 63));
    match class::of(size, align) {
        Some(class) => {
            let shape = CLASSES[class];
            let first = shape.first_bytes_in(u32::from(input.byte())) as usize;
            let slot = shape.slot_bytes as usize;
            assert!(slot >= size + CANARY_BYTES, "room for the canary");
            assert!(slot.is_multiple_of(align.min(16)) && first.is_multiple_of(align.min(16)));
            assert!(align <= 16 || slot.is_multiple_of(align) && first.is_multiple_of(align));
            assert!(first + shape.nr_slots as usize * slot <= PAYLOAD_BYTES);
        }
        None => assert!(size.saturating_add(CANARY_BYTES).max(align) > 8192, "too large for a slab"),
    }
}

/// The bytes of an input, then zeros.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    /// Of any magnitude, with values next to a power of two among them.
    fn any_size(&mut self) -> usize {
        let shift = u32::from(self.byte() % 64);
        let base = if self.byte() & 1 == 0 { 1_usize << shift } else { usize::MAX >> shift };
        base.wrapping_add(self.number()).wrapping_sub(self.number())
    }

    /// As programs ask for: mostly small.
    fn size(&mut self) -> usize {
        match self.byte() % 8 {
            0..=2 => usize::from(self.byte()),
            3..=4 => self.number() % 4200,
            5 => self.number() % 31_000,
            6 => self.number(),
            _ => self.number() << 4,
        }
    }

    fn align(&mut self) -> usize {
        match self.byte() {
            low @ 0..=199 => 1 << (low % 5),
            high => 1 << (high % 18),
        }
    }

    fn flush(&mut self) -> Flush {
        match self.byte() % 3 {
            0 => Flush::Off,
            1 => Flush::Bounded,
            _ => Flush::Immediate,
        }
    }
}

/// A block in use and what it must hold.
///
/// # Invariant
/// 1. `ptr` came from the heap at hand with `layout`, and nobody else has it.
struct Block {
    ptr: NonNull<u8>,
    layout: Layout,
    seed: u8,
}

impl Block {
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: by the invariant, so many bytes are this block's, which is borrowed; the heap zeroed them.
        unsafe { slice::from_raw_parts_mut(self.ptr.as_ptr(), self.layout.size()) }
    }

    /// What byte `i` holds: differs from its neighbours, so that contents that moved are noticed.
    const fn expected(seed: u8, i: usize) -> u8 {
        seed.wrapping_add((i as u8).wrapping_mul(31))
    }

    fn fill(&mut self, seed: u8) {
        self.seed = seed;
        self.bytes().iter_mut().enumerate().for_each(|(i, byte)| *byte = Self::expected(seed, i));
    }

    fn check(&mut self, len: usize) {
        let seed = self.seed;
        let is_whole =
            self.bytes()[..len].iter().enumerate().all(|(i, byte)| *byte == Self::expected(seed, i));
        assert!(is_whole, "a block of {:?} changed", self.layout);
    }

    fn check_zero_from(&mut self, start: usize) {
        assert!(self.bytes()[start..].iter().all(|byte| *byte == 0), "what is new is zero");
    }

    fn end(&self) -> usize {
        self.ptr.addr().get() + self.layout.size()
    }
}

fn run(heap: &PrivateHeap, input: &mut Input<'_>) {
    let mut live: Vec<Block> = Vec::new();
    let mut had_fault = false;
    while !input.0.is_empty() {
        let step = input.byte();
        // One step in 16 runs with one of its next system calls failing.
        let fault = (step >> 4 == 0xf).then(|| {
            let call = Call::ALL[usize::from(input.byte()) % Call::ALL.len()];
            let nth = fake::count(call) + usize::from(input.byte() % 4);
            fake::fail(call, nth, Errno::NOMEM)
        });
        had_fault |= fault.is_some();
        match step % 16 {
            0..=6 if live.len() < MOST_BLOCKS => live.extend(allocate(heap, input)),
            7..=9 if !live.is_empty() => {
                let index = input.number() % live.len();
                reallocate(heap, &mut live[index], input);
            }
            10 => heap.give_up(),
            _ if !live.is_empty() => {
                let block = live.swap_remove(input.number() % live.len());
                free(heap, block, input.flush());
            }
            _ => {}
        }
        drop(fault);
        heap.walk();
        assert_apart(&live);
    }
    let stats = heap.stats();
    assert_eq!(stats.live_blocks, live.len());
    assert_eq!(stats.live_bytes, live.iter().map(|block| block.layout.size()).sum::<usize>());
    live.into_iter().for_each(|block| free(heap, block, Flush::Bounded));
    assert_eq!(heap.walk().live_blocks, 0);
    heap.give_up();
    let stats = heap.stats();
    assert_eq!((stats.live_blocks, stats.live_bytes, stats.leaked_blocks), (0, 0, 0));
    assert!(had_fault || stats.in_use_bytes == 0, "everything goes back to the pool: {stats:?}");
}

fn allocate(heap: &PrivateHeap, input: &mut Input<'_>) -> Option<Block> {
    let layout = Layout::from_size_align(input.size(), input.align()).expect("far below isize::MAX");
    let seed = input.byte();
    let ptr = heap.allocate(layout).ok()?;
    assert!(ptr.addr().get().is_multiple_of(layout.align()), "{layout:?}");
    let mut block = Block { ptr, layout, seed };
    block.check_zero_from(0);
    block.fill(seed);
    Some(block)
}

fn reallocate(heap: &PrivateHeap, block: &mut Block, input: &mut Input<'_>) {
    let (old, new_size) = (block.layout, input.size());
    block.check(old.size());
    // SAFETY: by `Block` 1; the block takes on what came out.
    let Ok(ptr) = (unsafe { heap.reallocate(block.ptr, old, new_size, input.flush()) }) else {
        // As it was.
        return block.check(old.size());
    };
    block.ptr = ptr;
    block.layout = Layout::from_size_align(new_size, old.align()).expect("far below isize::MAX");
    let kept = old.size().min(new_size);
    block.check(kept);
    block.check_zero_from(kept);
    block.fill(input.byte());
}

fn free(heap: &PrivateHeap, mut block: Block, flush: Flush) {
    block.check(block.layout.size());
    // SAFETY: by `Block` 1, and the block ends here. The walker sees that it was wiped.
    unsafe { heap.deallocate(block.ptr, block.layout, flush) };
}

/// No two blocks share a byte.
fn assert_apart(live: &[Block]) {
    let mut ranges: Vec<_> = live.iter().map(|block| (block.ptr.addr().get(), block.end())).collect();
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "two blocks share a byte");
        assert_ne!(pair[0].0, pair[1].0, "two blocks at one address");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn heap_ops_on_random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
            heap_ops(&bytes);
        }
    }

    proptest! {
        #[test]
        fn page_layout_on_random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            page_layout(&bytes);
        }
    }
}
