//! Controls: the scanner finds what is there, wherever it is, and nothing that is not.

use crate::support::child::{self, Role};
use crate::support::scan::{Needles, Place, WINDOW_BYTES, scan};
use crate::support::trace::{Stopped, stop_here};
use crate::support::{pages, pattern, probe, seccomp};

pub(crate) const ROLES: &[Role] = &[("plant", |place| plant(place))];

const SEED: u64 = 4711;
const SECRET_BYTES: usize = 32;
/// A whole copy, and one that lies across the edge of the scanner's chunks.
const WINDOWS_OF_A_COPY: usize = SECRET_BYTES - WINDOW_BYTES + 1;

#[test]
fn a_planted_secret_is_found_on_the_heap() {
    assert_eq!(planted("heap", Place::Heap), WINDOWS_OF_A_COPY);
}

#[test]
fn a_planted_secret_is_found_on_the_stack() {
    // The harness runs the child's part in a thread: its stack is an anonymous mapping.
    assert_eq!(planted("stack", Place::Heap), WINDOWS_OF_A_COPY);
}

#[test]
fn a_planted_secret_is_found_in_inaccessible_memory() {
    assert_eq!(planted("inaccessible", Place::Heap), WINDOWS_OF_A_COPY);
}

#[test]
fn a_planted_secret_is_found_in_memory_left_out_of_dumps() {
    assert_eq!(planted("undumped", Place::SecretHeap), WINDOWS_OF_A_COPY);
}

#[test]
fn a_planted_secret_is_found_across_chunks() {
    assert_eq!(planted("across", Place::Heap), WINDOWS_OF_A_COPY);
}

#[test]
fn a_fragment_of_eight_bytes_is_found() {
    assert_eq!(planted("fragment", Place::Heap), 1);
}

#[test]
fn nothing_is_found_where_nothing_is() {
    assert_eq!(planted("nothing", Place::Heap), 0);
}

#[test]
fn a_denied_call_fails_and_its_other_uses_do_not() {
    child::run("plant", "denied").assert_success();
}

/// Fragments found in a child that planted its secret in one kind of place. All of them must be there.
#[track_caller]
fn planted(how: &str, place: Place) -> usize {
    let mut needles = Needles::default();
    needles.add("secret", &pattern::secret(SEED, SECRET_BYTES));
    let child = Stopped::spawn(child::command("plant", how));
    let findings = scan(&child.id().to_string(), &needles).unwrap();
    child.resume().assert_success();
    assert_eq!(findings.in_place(place), findings.hits.len(), "{:?}", findings.hits);
    findings.hits.len()
}

fn plant(how: &str) {
    let mut on_the_stack = [0; SECRET_BYTES];
    let mut on_the_heap = vec![0; 8 << 20];
    let mapping = pages::map(3 * 4096);
    // SAFETY: mapped above, writable, and nobody else's.
    let mapped = unsafe { std::slice::from_raw_parts_mut(mapping, 3 * 4096) };
    match how {
        "heap" => pattern::fill(&mut on_the_heap[1000..1000 + SECRET_BYTES], SEED),
        // Every multiple of any chunk size up to 4 MiB, counted from the start of the mapping, is crossed.
        "across" => {
            let base = on_the_heap.as_ptr().addr();
            let mapping = pages::mapping_at(base);
            let edge = mapping.range.start.max(base) + (4 << 20);
            let edge = edge - (edge - mapping.range.start) % (4 << 20) - base;
            pattern::fill(&mut on_the_heap[edge - 11..edge - 11 + SECRET_BYTES], SEED);
        }
        "fragment" => {
            for (i, byte) in on_the_heap[99..99 + WINDOW_BYTES].iter_mut().enumerate() {
                *byte = pattern::byte(SEED, i + 5);
            }
        }
        "stack" => pattern::fill(&mut on_the_stack, SEED),
        "inaccessible" => {
            pattern::fill(&mut mapped[5000..5000 + SECRET_BYTES], SEED);
            // SAFETY: nothing uses the mapping after this.
            assert_eq!(unsafe { libc::mprotect(mapping.cast(), 3 * 4096, libc::PROT_NONE) }, 0);
        }
        "undumped" => {
            pattern::fill(&mut mapped[5000..5000 + SECRET_BYTES], SEED);
            // SAFETY: this advice changes no content.
            assert_eq!(unsafe { libc::madvise(mapping.cast(), 3 * 4096, libc::MADV_DONTDUMP) }, 0);
        }
        "denied" => return denied(),
        _ => {}
    }
    stop_here();
    std::hint::black_box((&on_the_stack, &on_the_heap));
}

fn denied() {
    seccomp::deny(&[seccomp::Denied::GUARD_INSTALL, seccomp::Denied::IO_URING]).unwrap();
    let mapping = pages::map(4096);
    // SAFETY: nothing is in this mapping yet.
    assert_eq!(unsafe { libc::madvise(mapping.cast(), 4096, 102) }, -1);
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EINVAL));
    // SAFETY: as above.
    assert_eq!(unsafe { libc::madvise(mapping.cast(), 4096, libc::MADV_DONTDUMP) }, 0);
    assert!(!probe::has_io_uring());
}
