//! How many there can be.

use oubliette::{IsolatedBox, report};

use super::support::child::{self, Role};
use super::support::limits::{mapping_count, status_bytes};
use super::support::pages::{PAGE_BYTES, is_readable, mapping_at};
use super::support::{limits, skip};
use super::{Key, address_of, key_of};

pub(super) const ROLES: &[Role] = &[("many", many), ("regimes", |_| regimes())];

#[test]
fn a_hundred_thousand_in_a_few_mappings() {
    child::run("many", "100000").assert_success();
}

/// The figure that the project is held to. 4 GiB of memory; run it with `--release`.
#[test]
#[ignore = "locks 4 GiB"]
fn a_million_in_a_few_mappings() {
    let ended = child::run("many", "1000000");
    ended.assert_success();
    print!("{}", ended.stdout);
}

/// For a million, on a machine that is busy with other things.
const LONGEST_SECONDS: u32 = 600;

fn many(count: &str) {
    let count: u32 = count.parse().unwrap();
    if !limits::is_root() {
        return skip::not_set_up("an ordinary user may not lock as much");
    }
    child::take_up_to_seconds(LONGEST_SECONDS);
    let resident = status_bytes("VmRSS");
    let start = std::time::Instant::now();
    let secrets: Vec<_> = (0..count).map(numbered).collect();
    let made = start.elapsed() / count;
    let mappings = mapping_count();
    assert!(mappings < 200, "{mappings} mappings");
    println!("{count} live: {mappings} mappings, {made:?} each\n{}", report());
    assert_eq!(report().isolated().live, count as usize);
    assert!(
        secrets.iter().zip(0..).all(|(secret, number)| secret.open().unwrap()[..4] == number_bytes(number))
    );
    assert!(mapping_count() < 200, "sealed again");
    for secret in secrets.iter().step_by(count as usize / 1000) {
        let address = address_of(secret);
        let _open = secret.open().unwrap();
        let range = range_at(address);
        assert_eq!(range.len(), PAGE_BYTES, "only its own page is open");
        for neighbour in [range.start - 1, range.end] {
            assert!(!is_readable(neighbour), "the byte at {neighbour:#x}");
        }
    }
    assert!(mapping_at(address_of(&secrets[0])).has("lo"));
    assert!(status_bytes("VmRSS") > resident + count as usize * PAGE_BYTES / 2);
    let start = std::time::Instant::now();
    drop(secrets);
    println!("dropped: {:?} each", start.elapsed() / count);
    let left = status_bytes("VmRSS").saturating_sub(resident);
    // What is kept ready (4 MiB), the records, page tables do not count.
    assert!(left < (16 << 20) + count as usize * 40, "{left} bytes are still resident");
    assert!(mapping_count() < 2500);
}

/// The mapping that holds an address. Without smaps, for which the kernel looks at every page.
fn range_at(address: usize) -> std::ops::Range<usize> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut ranges = maps.lines().filter_map(|line| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
    });
    ranges.find(|range| range.contains(&address)).unwrap()
}

fn numbered(number: u32) -> IsolatedBox<Key> {
    IsolatedBox::new_with(|key: &mut Key| key[..4].copy_from_slice(&number_bytes(number))).unwrap()
}

fn number_bytes(number: u32) -> [u8; 4] {
    number.to_le_bytes()
}

#[test]
fn from_few_to_many_and_back() {
    child::run("regimes", "").assert_success();
}

/// Slots have mappings of their own while they are few, share one when they are many, and get their own back.
fn regimes() {
    if !limits::is_root() {
        return skip::not_set_up("an ordinary user may not lock as much");
    }
    let intact = |secrets: &[IsolatedBox<Key>]| {
        assert!(secrets.iter().zip(0..).all(|(secret, number)| {
            secret.open().unwrap()[..4] == number_bytes(number) && mapping_at_is_locked(secret, number)
        }));
    };
    for _ in 0..2 {
        let mut secrets: Vec<_> = (0..3000).map(numbered).collect();
        assert!(mapping_count() > 5900, "two mappings each: {}", mapping_count());
        intact(&secrets);
        secrets.extend((3000..12_000).map(numbered));
        let mappings = mapping_count();
        assert!(mappings < 200, "merged: {mappings}");
        intact(&secrets);
        secrets.truncate(3000);
        intact(&secrets);
        let mappings = mapping_count();
        assert!(mappings > 5900, "split again by the guards: {mappings}");
    }
    drop(key_of(1));
}

/// Looks at a sample: reading smaps takes a while.
fn mapping_at_is_locked(secret: &IsolatedBox<Key>, number: u32) -> bool {
    !number.is_multiple_of(500) || mapping_at(address_of(secret)).has("lo")
}
