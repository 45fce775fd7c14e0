//! Growth seen from outside: `/proc/self/mem`, `/proc/self/smaps`, the thread's count of faults.

// UNSAFETY: drives the raw interface of a private heap, and reads its memory by address.
#![allow(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "tests drive the raw interface; what they do is what they test"
)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests"
)]

use core::alloc::Layout;
use core::ptr::NonNull;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::heap::facade::private::PrivateHeap;
use crate::heap::large::testing::{ROOMY, UNLOCKED};
use crate::os::{Call, Errno, fake};
use crate::{Flush, Lock, Policy};

const FROM: usize = 64 << 10;
const TO: usize = 64 << 20;

/// One mapping, as `smaps` has it.
struct Mapping {
    start: usize,
    end: usize,
    access: String,
    flags: String,
}

fn mappings() -> Vec<Mapping> {
    let mut found: Vec<Mapping> = Vec::new();
    for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        if let Some(flags) = line.strip_prefix("VmFlags: ") {
            found.last_mut().unwrap().flags = flags.trim().to_owned();
        } else if let Some((range, rest)) = line.split_once(' ')
            && let Some((start, end)) = range.split_once('-')
            && let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16))
        {
            found.push(Mapping { start, end, access: rest[..4].to_owned(), flags: String::new() });
        }
    }
    found
}

fn mapping_at(address: usize) -> Mapping {
    mappings().into_iter().find(|mapping| (mapping.start..mapping.end).contains(&address)).unwrap()
}

fn faults() -> i64 {
    let mut usage: libc::rusage = unsafe { core::mem::zeroed() };
    assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) }, 0);
    usage.ru_minflt
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

/// The byte at a place: without a period that copying to a wrong place could hide.
fn byte_at(at: usize) -> u8 {
    (at.wrapping_mul(0x9e37_79b1) >> 13) as u8
}

fn fill(ptr: NonNull<u8>, from: usize, to: usize) {
    (from..to).for_each(|at| unsafe { ptr.add(at).write(byte_at(at)) });
}

fn check(ptr: NonNull<u8>, filled: usize, size: usize) {
    let bytes = unsafe { core::slice::from_raw_parts(ptr.as_ptr(), size) };
    assert!(bytes[..filled].iter().enumerate().all(|(at, &byte)| byte == byte_at(at)), "contents");
    assert!(bytes[filled..].iter().all(|&byte| byte == 0), "what is new is zero");
}

/// Doubles a block, filled, from `FROM` to `TO`. Returns it, and the faults that the growths took.
fn double(heap: &PrivateHeap) -> (NonNull<u8>, i64) {
    let mut size = FROM;
    let mut ptr = heap.allocate(layout(size)).unwrap();
    fill(ptr, 0, size);
    let mut taken = 0;
    while size < TO {
        let before = faults();
        ptr = unsafe { heap.reallocate(ptr, layout(size), 2 * size, Flush::Bounded) }.unwrap();
        taken += faults() - before;
        // All of it, of which half was never written to.
        check(ptr, size, size + 100);
        fill(ptr, size, 2 * size);
        size *= 2;
    }
    check(ptr, TO, TO);
    (ptr, taken)
}

/// How often the bytes of `needle`, of which each was inverted, are in the memory of this process.
fn copies(needle: &[u8; 64]) -> usize {
    let memory = File::open("/proc/self/mem").unwrap();
    let mut buffer = vec![0; 1 << 20];
    let own = buffer.as_ptr().addr();
    let mut count = 0;
    for mapping in mappings().into_iter().filter(|mapping| mapping.access.starts_with('r')) {
        let mut at = mapping.start;
        while at < mapping.end {
            let len = buffer.len().min(mapping.end - at);
            let Ok(read) = memory.read_at(&mut buffer[..len], at as u64) else { break };
            if read == 0 {
                break;
            }
            let is_needle = |bytes: &[u8]| bytes.iter().zip(needle).all(|(found, want)| *found == !*want);
            for start in (0..read.saturating_sub(63)).step_by(64) {
                let is_own = (at + start).wrapping_sub(own) < buffer.len();
                count += usize::from(!is_own && is_needle(&buffer[start..start + 64]));
            }
            at += read;
        }
    }
    buffer.fill(0);
    count
}

#[test]
fn a_block_grows_without_a_copy_or_a_new_page() {
    if let Err(errno) = on_scratch() {
        assert!(std::env::var_os("CI").is_none(), "this kernel does not move pages ({errno:?})");
        println!("skipped: this kernel does not move pages ({errno:?})");
        return;
    }
    let heap = PrivateHeap::new(UNLOCKED, ROOMY).unwrap();
    let (ptr, moved) = double(&heap);
    let block = ptr.addr().get();
    let mapping = mapping_at(block);
    assert_eq!((mapping.start, mapping.end), (block, block + TO), "one mapping");
    assert_eq!(mapping.access, "rw-p");
    assert!(["dd", "nh"].iter().all(|flag| mapping.flags.contains(flag)), "{}", mapping.flags);
    assert!(!mapping.flags.contains("mg"), "{}", mapping.flags);
    for beside in [block - 1, block + TO] {
        assert_eq!(mapping_at(beside).access, "---p");
    }
    let other = heap.allocate(layout(FROM)).unwrap();
    let plain = mapping_at(other.addr().get()).flags;
    assert_eq!(mapping.flags, plain, "the flags of a block that was never moved");
    unsafe { heap.deallocate(other, layout(FROM), Flush::Off) };
    // It may stay open for the next one.
    heap.give_up();
    // Nothing else in this heap can be read, or holds anything.
    let zone = heap.addresses();
    for mapping in mappings().iter().filter(|mapping| zone.contains(&mapping.start)) {
        assert!(mapping.start == block || mapping.access == "---p", "{:x} {}", mapping.start, mapping.access);
    }
    unsafe { heap.deallocate(ptr, layout(TO), Flush::Off) };
    let stats = heap.stats();
    assert_eq!((stats.live_blocks, stats.in_use_bytes), (0, 0));

    // The control: the same by copying.
    let heap = PrivateHeap::new(UNLOCKED, ROOMY).unwrap();
    let fault = fake::fail_always(Call::MovePages, Errno::NOSYS);
    let (ptr, copied) = double(&heap);
    drop(fault);
    unsafe { heap.deallocate(ptr, layout(TO), Flush::Off) };
    println!("{moved} faults where pages were moved, {copied} where bytes were copied");
    let pages = (TO / 4096) as i64;
    assert!(copied > pages / 2 && moved < pages / 50, "{moved} faults, {copied} by copying");
}

#[test]
fn nothing_is_left_elsewhere() {
    let heap = PrivateHeap::new(UNLOCKED, ROOMY).unwrap();
    let size = 1 << 20;
    let old = heap.allocate(layout(size)).unwrap();
    let needle: [u8; 64] = core::array::from_fn(|i| byte_at(i + 77_777));
    (0..64).for_each(|i| unsafe { old.add(8192 + i).write(!needle[i]) });
    assert_eq!(copies(&needle), 1);
    let new = unsafe { heap.reallocate(old, layout(size), 2 * size, Flush::Off) }.unwrap();
    assert_ne!(old, new);
    assert_eq!(copies(&needle), 1);
    let mut byte = [1];
    let at_old = File::open("/proc/self/mem").unwrap().read_at(&mut byte, old.addr().get() as u64 + 8192);
    assert!(at_old.is_err() || byte == [0], "the old place");
    // The control: a copy is found.
    (0..64).for_each(|i| unsafe { new.add(size + i).write(!needle[i]) });
    assert_eq!(copies(&needle), 2);
    unsafe { heap.deallocate(new, layout(2 * size), Flush::Off) };
    assert_eq!(copies(&needle), 0);
}

#[test]
fn whichever_step_is_refused_the_block_grows() {
    if let Err(errno) = on_scratch() {
        println!("skipped: this kernel does not move pages ({errno:?})");
        return;
    }
    // After the second step was refused, or the system said that it knows no first one, none is made any more.
    for (nth, errno, next) in [(0, Errno::NOMEM, 2), (1, Errno::NOMEM, 0), (0, Errno::NOSYS, 0)] {
        let heap = PrivateHeap::new(UNLOCKED, ROOMY).unwrap();
        let size = 1 << 20;
        let ptr = heap.allocate(layout(size)).unwrap();
        fill(ptr, 0, size);
        let fault = fake::fail(Call::MovePages, nth, errno);
        let before = fake::count(Call::MovePages);
        let grown = unsafe { heap.reallocate(ptr, layout(size), 2 * size, Flush::Off) }.unwrap();
        assert_eq!(fake::count(Call::MovePages) - before, nth + 1, "the refused step was the last");
        drop(fault);
        check(grown, size, 2 * size);
        fill(grown, 0, 2 * size);
        let before = fake::count(Call::MovePages);
        let again = unsafe { heap.reallocate(grown, layout(2 * size), 4 * size, Flush::Off) }.unwrap();
        assert_eq!(fake::count(Call::MovePages) - before, next);
        check(again, 2 * size, 4 * size);
        unsafe { heap.deallocate(again, layout(4 * size), Flush::Off) };
        let stats = heap.stats();
        assert_eq!((stats.live_blocks, stats.in_use_bytes), (0, 0));
    }
}

#[test]
fn blocks_that_lose_protection_by_it_are_copied() {
    let size = 1 << 20;
    let is_moved = |policy: Policy, to: usize| {
        let heap = PrivateHeap::new(policy, ROOMY).unwrap();
        let Ok(ptr) = heap.allocate(layout(size)) else { return None };
        fill(ptr, 0, size);
        let before = fake::count(Call::MovePages);
        let Ok(grown) = (unsafe { heap.reallocate(ptr, layout(size), to, Flush::Off) }) else {
            unsafe { heap.deallocate(ptr, layout(size), Flush::Off) };
            return None;
        };
        check(grown, size, to);
        unsafe { heap.deallocate(grown, layout(to), Flush::Off) };
        // Both steps, of which the second is made after the first succeeded.
        Some(fake::count(Call::MovePages) - before == 2)
    };
    assert_eq!(is_moved(UNLOCKED, 2 * size), Some(on_scratch().is_ok()), "the control");
    assert_eq!(is_moved(UNLOCKED, 2 * size + 8), Some(false), "at another place in its page");
    for policy in [Policy::SECRET, UNLOCKED.with_lock(Lock::Required)] {
        match is_moved(policy, 2 * size) {
            Some(is_moved) => assert!(!is_moved, "{policy:?}"),
            None => println!("skipped: {policy:?} cannot lock so much here"),
        }
    }
    // Locked by somebody else, behind the heap's back.
    let heap = PrivateHeap::new(UNLOCKED, ROOMY).unwrap();
    let ptr = heap.allocate(layout(size)).unwrap();
    if unsafe { libc::mlock(ptr.as_ptr().cast(), size) } == 0 {
        let before = fake::count(Call::MovePages);
        let grown = unsafe { heap.reallocate(ptr, layout(size), 2 * size, Flush::Off) }.unwrap();
        assert_eq!(fake::count(Call::MovePages), before);
        unsafe { heap.deallocate(grown, layout(2 * size), Flush::Off) };
    } else {
        unsafe { heap.deallocate(ptr, layout(size), Flush::Off) };
        println!("skipped: this process may not lock a megabyte");
    }
}

/// Whether the kernel moves pages at all.
fn on_scratch() -> Result<(), Errno> {
    let page = crate::os::reserve(crate::os::page_size())?;
    let moved = unsafe { crate::os::move_out(page, crate::os::page_size()) };
    if let Ok(moved) = moved {
        unsafe { crate::os::release(moved, crate::os::page_size()) }?;
    }
    unsafe { crate::os::release(page, crate::os::page_size()) }?;
    moved.map(drop)
}
