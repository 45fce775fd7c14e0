//! The switch alone, on memory of the test.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "tests"
)]

use core::ptr;

use super::{Body, call_inside, call_outside};
use crate::scope::registers;

struct Seen {
    inside: usize,
    outside: usize,
    outer_sp: *mut u8,
}

fn here() -> usize {
    let local = 0_u8;
    core::hint::black_box(&raw const local).addr()
}

unsafe extern "C" fn outside(data: *mut u8) {
    let seen = unsafe { &mut *data.cast::<Seen>() };
    seen.outside = here();
}

unsafe extern "C" fn inside(data: *mut u8) {
    let seen = data.cast::<Seen>();
    unsafe { (*seen).inside = here() };
    let body: Body = outside;
    unsafe { call_outside((*seen).outer_sp, data, body, registers::clear()) };
}

#[test]
fn the_body_runs_on_the_other_stack_and_comes_back() {
    let mut memory = vec![0_u128; 4096];
    let range = memory.as_mut_ptr_range();
    let mut seen = Seen { inside: 0, outside: 0, outer_sp: ptr::null_mut() };
    let data = &raw mut seen;
    let [before, local] = [1.5_f64, 2.5].map(core::hint::black_box);
    unsafe {
        call_inside(range.end.cast(), data.cast(), inside, registers::clear(), &raw mut (*data).outer_sp)
    };
    assert!((range.start.addr()..range.end.addr()).contains(&seen.inside), "inside the memory");
    assert!(seen.outside < seen.outer_sp.addr(), "below the outer stack pointer");
    assert!(seen.outer_sp.addr() - seen.outside < 64 << 10, "on the outer stack");
    assert!(
        before.to_bits() == 1.5_f64.to_bits() && local.to_bits() == 2.5_f64.to_bits(),
        "floats of the caller survive"
    );
}

#[cfg(target_arch = "x86_64")]
mod preserved {
    use core::arch::{asm, naked_asm};

    use super::{Body, call_inside, call_outside, ptr, registers};

    struct Seen {
        inside: [u64; 2],
        kept: [u64; 2],
        outer_sp: *mut u8,
    }

    /// Stores the preserved registers that carry nothing of the switch's own.
    #[unsafe(naked)]
    unsafe extern "C" fn record(data: *mut u8) {
        naked_asm!("mov [rdi], r14", "mov [rdi + 8], r15", "ret")
    }

    unsafe extern "C" fn step_out(data: *mut u8) {
        let seen = unsafe { &mut *data.cast::<Seen>() };
        let body: Body = record;
        let [mut first, mut second] = [0x5ec1_u64, 0x5ec2];
        unsafe {
            asm!(
                "call {call_outside}",
                call_outside = sym call_outside,
                in("rdi") seen.outer_sp,
                in("rsi") &raw mut seen.inside,
                in("rdx") body,
                in("rcx") registers::clear(),
                inout("r14") first,
                inout("r15") second,
                clobber_abi("C"),
            );
        }
        seen.kept = [first, second];
    }

    #[test]
    fn a_suspension_shows_no_preserved_register_and_keeps_them_all() {
        let mut memory = vec![0_u128; 4096];
        let top = memory.as_mut_ptr_range().end;
        let mut seen = Seen { inside: [1; 2], kept: [1; 2], outer_sp: ptr::null_mut() };
        let data = &raw mut seen;
        unsafe {
            call_inside(top.cast(), data.cast(), step_out, registers::clear(), &raw mut (*data).outer_sp);
        }
        assert_eq!(seen.inside, [0; 2]);
        assert_eq!(seen.kept, [0x5ec1, 0x5ec2]);
    }
}
