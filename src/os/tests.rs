//! The contract, whatever the backend. What concerns ranges of pages is tested in `pages/`.

#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "tests")]

use super::*;
use crate::testing::{dies, passes};

#[test]
fn the_page_size_is_the_systems() {
    // SAFETY: reads a constant of the process.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    assert_eq!(page_size(), usize::try_from(size).unwrap());
    assert!(page_size().is_power_of_two());
}

#[test]
fn random_bytes_fill_all_of_the_buffer_and_differ() {
    // More than the 256 bytes that the kernel gives without interruption.
    let [mut one, mut other] = [[0_u8; 5000]; 2];
    fill_random(&mut one).unwrap();
    fill_random(&mut other).unwrap();
    assert_ne!(one, other);
    for part in one.chunks(500) {
        assert!(part.iter().any(|&byte| byte != 0), "500 zeros in a row");
    }
    fill_random(&mut []).unwrap();
}

#[test]
fn limits_are_those_in_force() {
    const TEST: &str = concat!(module_path!(), "::limits_are_those_in_force");
    passes(TEST, "lowered", || {
        let limits: [(_, fn() -> Limit); 2] =
            [(libc::RLIMIT_MEMLOCK, memlock_limit), (libc::RLIMIT_AS, address_space_limit)];
        for (resource, read) in limits {
            let hard = read().hard;
            let hard_value = hard.map_or(libc::RLIM_INFINITY, |hard| hard.try_into().unwrap());
            let limits = libc::rlimit { rlim_cur: hard_value.min(1 << 40), rlim_max: hard_value };
            // SAFETY: reads one `rlimit`.
            assert_eq!(unsafe { libc::setrlimit(resource, &raw const limits) }, 0);
            let soft = hard.map_or(1 << 40, |hard| hard.min(1 << 40));
            assert_eq!(read(), Limit { soft: Some(soft), hard });
        }
    });
}

#[test]
fn errno_is_put_back() {
    let failing = || {
        // SAFETY: closes no descriptor: the number is none.
        unsafe { libc::close(-1) };
    };
    // SAFETY: opens nothing: there is no such file.
    unsafe { libc::open(c"/nowhere/at/all".as_ptr(), libc::O_RDONLY) };
    assert_eq!(Errno::last(), Errno(libc::ENOENT));
    preserve_errno(failing);
    assert_eq!(Errno::last(), Errno(libc::ENOENT));
    failing();
    assert_eq!(Errno::last(), Errno::BADF);
}

#[test]
fn the_way_out_prints_one_line_and_aborts() {
    const TEST: &str = concat!(module_path!(), "::the_way_out_prints_one_line_and_aborts");
    dies(TEST, "abort", libc::SIGABRT, "oubliette: the reason\n", || abort_with("the reason"));
}

#[test]
fn features_are_the_same_each_time() {
    let memory = |features: Features| Features { io_uring: Support::Untried, ..features };
    assert_eq!(memory(features()), memory(features()));
    assert_ne!(features().guard_install, Support::Untried);
}

#[test]
fn asking_for_a_ring_tells_whether_there_are_any() {
    let ring = Ring::new(1);
    match (ring, features().io_uring) {
        (Ok(ring), Support::Yes) => {
            assert!(ring.is_alive());
            ring.close();
            assert!(!ring.is_alive());
        }
        (Err(errno), Support::No(kept)) => assert_eq!(errno, kept),
        other => panic!("{other:?}"),
    }
}
