//! Memory held for each byte in use. Every measurement is a process of its own.

use std::alloc::Layout;
use std::hint::black_box;
use std::process::Command;

use oubliette::{IsolatedBox, SecretBox};
use oubliette_peers::allocators;
use oubliette_peers::figures::record;
use oubliette_peers::sizes::Sizes;

/// The first argument of a child.
pub const CHILD: &str = "footprint-child";

const BLOCKS: usize = 300_000;
const SECRETS: usize = 10_000;
const SECRET_BYTES: usize = 32;

/// What a child found, in bytes.
struct Footprint {
    resident: f64,
    locked: f64,
    live: f64,
}

pub fn measure() {
    for (name, _) in allocators::all() {
        for (x, phase) in [(1.0, "full"), (2.0, "half freed")] {
            let Some(found) = in_child("blocks", name, phase) else { continue };
            record("resident bytes a live byte", name, x, found.resident / found.live);
        }
    }
    for name in ["SecretBox", "IsolatedBox", "memsec", "secrets (libsodium)"] {
        let Some(found) = in_child("secrets", name, "full") else { continue };
        record("resident bytes a secret of 32 bytes", name, 1.0, found.resident / SECRETS as f64);
        record("locked bytes a secret of 32 bytes", name, 1.0, found.locked / SECRETS as f64);
    }
}

fn in_child(kind: &str, name: &str, phase: &str) -> Option<Footprint> {
    let this = std::env::current_exe().unwrap();
    let output = Command::new(this).args([CHILD, kind, name, phase]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
    if let (Some(resident), Some(locked), Some(live)) = (numbers.next(), numbers.next(), numbers.next()) {
        return Some(Footprint { resident, locked, live });
    }
    println!("{kind} of {name}: the child ended with {}", output.status);
    None
}

/// What a child does: `KIND NAME PHASE`; prints the resident, locked and live bytes that it added.
pub fn child(arguments: &[String]) {
    let [kind, name, phase] = arguments else { panic!("{arguments:?}") };
    // Room for whoever is alive is made before the first reading.
    let mut blocks: Vec<(*mut u8, Layout)> = Vec::with_capacity(BLOCKS);
    blocks.extend((0..BLOCKS).map(|_| (std::ptr::null_mut(), Layout::new::<u8>())));
    blocks.clear();
    let before = status();
    let live = match kind.as_str() {
        "blocks" => fill(name, phase, &mut blocks),
        _ => keep_secrets(name),
    };
    let after = status();
    println!("{} {} {live}", after[0].saturating_sub(before[0]), after[1].saturating_sub(before[1]));
}

fn fill(name: &str, phase: &str, blocks: &mut Vec<(*mut u8, Layout)>) -> usize {
    let allocator = allocators::by_name(name).unwrap();
    let mut sizes = Sizes(3);
    for _ in 0..BLOCKS {
        let layout = Layout::from_size_align(sizes.next().unwrap(), 8).unwrap();
        // SAFETY: the size is not zero.
        let block = unsafe { allocator.alloc(layout) };
        // SAFETY: the whole block, which nobody else has.
        unsafe { block.write_bytes(1, layout.size()) };
        blocks.push((block, layout));
    }
    if phase == "half freed" {
        for _ in 0..BLOCKS / 2 {
            let (block, layout) = blocks.swap_remove(sizes.below(blocks.len()));
            // SAFETY: allocated with this layout, freed once.
            unsafe { allocator.dealloc(block, layout) };
        }
    }
    black_box(&*blocks).iter().map(|(_, layout)| layout.size()).sum()
}

fn keep_secrets(name: &str) -> usize {
    for _ in 0..SECRETS {
        match name {
            "SecretBox" => {
                std::mem::forget(SecretBox::<[u8; SECRET_BYTES]>::new_with(|key| key[0] = 1).unwrap());
            }
            "IsolatedBox" => {
                std::mem::forget(IsolatedBox::<[u8; SECRET_BYTES]>::new_with(|key| key[0] = 1).unwrap());
            }
            "memsec" => {
                // SAFETY: written to inside its bounds; never freed.
                unsafe { memsec::malloc::<[u8; SECRET_BYTES]>().unwrap().as_mut()[0] = 1 };
            }
            _ => std::mem::forget(secrets::SecretBox::<[u8; SECRET_BYTES]>::new(|key| key[0] = 1)),
        }
    }
    SECRETS * SECRET_BYTES
}

/// Resident and locked bytes of this process (`proc_pid_status(5)`).
fn status() -> [usize; 2] {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    ["VmRSS:", "VmLck:"].map(|name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    })
}
