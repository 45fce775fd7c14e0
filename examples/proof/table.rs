//! The table, and what it means.

use super::Observed;
use super::scan::{Findings, Needles, Place};
use super::subject::Arrangement;

pub(crate) fn print(needles: &Needles, observed: &[Observed]) {
    println!(
        "Fragments of secrets in the memory of the process, found from outside. A fragment is any 8 bytes in"
    );
    println!(
        "a row of a secret: a whole copy of the 32-byte key counts 25. {} are looked for.\n",
        needles.len()
    );
    row("", observed, |one| one.arrangement.name().to_owned());
    rule(observed);
    row("key in use, anywhere (control)", observed, |one| one.in_use.hits.len().to_string());
    rule(observed);
    row("key dropped", observed, |_| "heap + stack".to_owned());
    for (index, name) in needles.names().iter().enumerate() {
        row(&format!("  {name}"), observed, |one| {
            let hits = one.dropped.hits.iter().filter(|hit| hit.needle == index);
            let stack = hits.filter(|hit| hit.place == Place::Stack).count();
            format!("{} + {stack}", one.dropped.of_needle(index) - stack)
        });
    }
    row("  all", observed, |one| {
        format!("{} + {}", off_the_stack(&one.dropped), one.dropped.in_place(Place::Stack))
    });
    rule(observed);
    row("memory read, KiB", observed, |one| (one.dropped.read_bytes / 1024).to_string());
    println!();
    explain(observed);
}

/// Whether the scan saw every key in use, and nothing of it outside the stack once Oubliette had freed it.
pub(crate) fn verdict(observed: &[Observed]) -> bool {
    observed.iter().all(|one| {
        let is_seen = !one.in_use.hits.is_empty();
        is_seen && (one.arrangement != Arrangement::Oubliette || off_the_stack(&one.dropped) == 0)
    })
}

fn explain(observed: &[Observed]) {
    let passed = verdict(observed);
    if passed {
        println!(
            "Covered now: every block of the heap. With Oubliette nothing that was freed holds a byte of the"
        );
        println!(
            "key, in whichever library it was allocated, and what was still in use sat in locked, guarded"
        );
        println!("pages that no core dump and no forked child gets.");
    } else {
        println!("FAILED: a control did not find its key, or the heap still holds a part of it.");
        for one in observed.iter().filter(|one| one.arrangement == Arrangement::Oubliette) {
            for hit in one.dropped.hits.iter().filter(|hit| hit.place != Place::Stack) {
                println!("  {:#x} {:?}, needle {}", hit.address, hit.place, hit.needle);
            }
        }
    }
    println!(
        "Not covered yet: the stack and the registers. What the crypto library computes there stays until it"
    );
    println!(
        "is overwritten, with every allocator and every wrapper; that is the scope's work, which comes next."
    );
}

/// Heap, mappings, and static data.
fn off_the_stack(findings: &Findings) -> usize {
    findings.hits.len() - findings.in_place(Place::Stack)
}

fn row(name: &str, observed: &[Observed], cell: impl Fn(&Observed) -> String) {
    print!("{name:<32}");
    for one in observed {
        print!("{:>16}", cell(one));
    }
    println!();
}

fn rule(observed: &[Observed]) {
    println!("{}", "-".repeat(32 + 16 * observed.len()));
}
