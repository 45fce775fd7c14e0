//! Secrets that nobody uses stay cold: the processor marks no page of theirs as referenced, whatever is done beside them.

use std::collections::HashSet;
use std::fs;
use std::ops::Range;

use oubliette::{SecretBox, report, trim};

use super::support::child::{self, Role};
use super::support::limits::is_root;
use super::support::pages::{PAGE_BYTES, advise, map, touch};
use super::support::skip;
use super::{Key, address_of, key_of};

pub(super) const ROLES: &[Role] = &[("cold_isolated", |_| isolated()), ("cold_dense", |_| dense())];

/// Cold ones beside the hot ones.
const COLD: usize = 10_000;
const HOT: usize = 16;
/// Each of several operations on hot ones: more than 100,000 in all.
const ROUNDS: usize = 50_000;

#[test]
fn isolated_ones() {
    child::run("cold_isolated", "").assert_success();
}

#[test]
fn dense_ones() {
    child::run("cold_dense", "").assert_success();
}

/// Forgets which pages were referenced (proc_pid_clear_refs(5)). The kernel leaves what the TLB holds (`clear_refs_write`),
/// and a page that is there is not marked when it is touched. Unmapping so many pages empties it for the process.
fn forget_references() {
    const BYTES: usize = 4 << 20;
    fs::write("/proc/self/clear_refs", "1").unwrap();
    let mapping = map(BYTES);
    touch(mapping, BYTES);
    // SAFETY: mapped above, and not used any more.
    assert_eq!(unsafe { libc::munmap(mapping.cast(), BYTES) }, 0);
}

/// KiB of the pages between these addresses that were referenced since, in mappings that `counts`, by their access and
/// their flags.
fn referenced_kib(range: Range<usize>, counts: impl Fn(&str, &str) -> bool) -> usize {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut access, mut kib, mut sum) = (None, 0, 0);
    for line in smaps.lines() {
        if let Some((addresses, rest)) = line.split_once(' ')
            && let Some((start, end)) = addresses.split_once('-')
            && let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16))
        {
            access = (range.start < end && start < range.end).then(|| rest[..4].to_owned());
        } else if let Some(text) = line.strip_prefix("Referenced:") {
            kib = text.trim().trim_end_matches(" kB").parse::<usize>().unwrap();
        } else if let (Some(access), Some(flags)) = (&access, line.strip_prefix("VmFlags:"))
            && counts(access, flags)
        {
            sum += kib;
        }
    }
    sum
}

fn isolated() {
    if !is_root() {
        return skip::not_set_up("an ordinary user may not lock as much");
    }
    let cold: Vec<_> = (0..COLD).map(|_| key_of(1)).collect();
    let address = address_of(&cold[COLD / 2]);
    let mut hot: Vec<_> = (0..HOT).map(|_| key_of(2)).collect();
    // What is open is not sealed: all that is, is cold.
    let referenced =
        || referenced_kib(address - (1 << 30)..address + (1 << 30), |access, _| access == "---p");
    assert!(referenced() > 30_000, "the control: they were touched when they were made");
    forget_references();
    for round in 0..ROUNDS {
        hot[round % HOT].open_mut().unwrap()[0] = 3;
        assert_eq!(hot[(round + 8) % HOT].open().unwrap()[1], 2);
        if round % 4 == 0 {
            hot[round % HOT] = key_of(2);
            drop(key_of(4));
        }
        if round % 5000 == 0 {
            assert_eq!(report().isolated().live, COLD + HOT);
            trim();
        }
    }
    let open: Vec<_> = hot.iter().map(|secret| secret.open().unwrap()).collect();
    assert_eq!(referenced(), 0, "KiB of cold secrets were touched");
    drop(open);
    // The control: hot ones, sealed, count as well; and one cold one that is looked at.
    let sealed = referenced();
    assert!(sealed > 0);
    assert_eq!(cold[77].open().unwrap()[1], 1);
    assert_eq!(referenced(), sealed + PAGE_BYTES / 1024);
}

/// Many share a page there, so a page is cold that no hot one ever lay on.
fn dense() {
    if !is_root() {
        return skip::not_set_up("an ordinary user may not lock as much");
    }
    let new = || SecretBox::<Key>::new_with(|key| key.fill(1)).unwrap();
    let page = |key: &SecretBox<Key>| key.expose().as_ptr().addr() & !(PAGE_BYTES - 1);
    let cold: Vec<_> = (0..COLD).map(|_| new()).collect();
    let cold_pages: HashSet<_> = cold.iter().map(page).collect();
    let all = *cold_pages.iter().min().unwrap()..cold_pages.iter().max().unwrap() + PAGE_BYTES;
    assert!(referenced_kib(all.clone(), |_, _| true) >= cold_pages.len() * PAGE_BYTES / 1024, "the control");
    let mut hot: Vec<_> = (0..HOT).map(|_| new()).collect();
    let mut hot_pages: HashSet<_> = hot.iter().map(page).collect();
    forget_references();
    for round in 0..ROUNDS {
        hot[round % HOT].expose_mut()[0] = 3;
        assert_eq!(hot[(round + 8) % HOT].expose()[1], 1);
        hot[round % HOT] = new();
        hot_pages.insert(page(&hot[round % HOT]));
        if round % 5000 == 0 {
            assert_eq!(report().secrets().unwrap().live_blocks, COLD + HOT);
            std::thread::spawn(move || drop(new())).join().unwrap();
            trim();
        }
    }
    let only_cold: Vec<_> = cold_pages.difference(&hot_pages).copied().collect();
    assert!(only_cold.len() > cold_pages.len() / 2, "{} of {}", only_cold.len(), cold_pages.len());
    // A mark that makes mappings of them; it touches no page. Guards lie between.
    for &page in &only_cold {
        advise(page, PAGE_BYTES, libc::MADV_SEQUENTIAL).unwrap();
    }
    let referenced =
        || referenced_kib(all.clone(), |_, flags| flags.split_ascii_whitespace().any(|flag| flag == "sr"));
    assert_eq!(referenced(), 0, "KiB of {} cold pages were touched", only_cold.len());
    assert!(referenced_kib(all.clone(), |_, _| true) > 0, "the control: hot ones were");
    let touched = cold.iter().find(|key| only_cold.contains(&page(key))).unwrap();
    assert_eq!(touched.expose()[1], 1);
    assert_eq!(referenced(), PAGE_BYTES / 1024, "the control: one cold one was looked at");
}
