//! The table, and what it means.

use super::Observed;
use super::scan::{Findings, Hit, Needles, Place};
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

/// Whether the scan saw every key in use; nothing of it outside the stack once Oubliette had freed it; and
/// nothing anywhere where the work was done in scopes.
pub(crate) fn verdict(observed: &[Observed]) -> bool {
    observed.iter().all(|one| !one.in_use.hits.is_empty() && unexpected(one).next().is_none())
}

/// The fragments that must not be there.
fn unexpected(one: &Observed) -> impl Iterator<Item = &Hit> {
    one.dropped.hits.iter().filter(|hit| match one.arrangement {
        Arrangement::Std | Arrangement::Zeroize => false,
        Arrangement::Oubliette => hit.place != Place::Stack,
        Arrangement::Scope => true,
    })
}

fn explain(observed: &[Observed]) {
    if !verdict(observed) {
        println!("FAILED: a scan did not find a key in use, or found a part of one where none must be left.");
        for one in observed {
            for hit in unexpected(one) {
                println!(
                    "  {}: {:#x} {:?}, needle {}",
                    one.arrangement.name(),
                    hit.address,
                    hit.place,
                    hit.needle
                );
            }
        }
        return;
    }
    println!(
        "oubliette: every block of the heap is covered. Nothing that was freed holds a byte of the key, in"
    );
    println!(
        "whichever library it was allocated, and what was in use sat in locked, guarded pages that no core"
    );
    println!(
        "dump and no forked child gets. The stack is not covered by an allocator, nor by a wrapper: what the"
    );
    println!("crypto library computes there stays until something overwrites it.");
    println!(
        "with scope: the stack and the registers of that work are covered too. (The registers are not looked"
    );
    println!("at here; tests/trace does that.)");
}

/// Heap, mappings, and static data.
fn off_the_stack(findings: &Findings) -> usize {
    findings.hits.len() - findings.in_place(Place::Stack)
}

fn row(name: &str, observed: &[Observed], cell: impl Fn(&Observed) -> String) {
    print!("{name:<32}");
    for one in observed {
        print!("{:>15}", cell(one));
    }
    println!();
}

fn rule(observed: &[Observed]) {
    println!("{}", "-".repeat(32 + 15 * observed.len()));
}
