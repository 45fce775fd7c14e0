//! Scopes from inside the crate: what the public tests cannot see.

// UNSAFETY: reads stacks and registers that scopes left behind.
#![allow(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "tests"
)]

use core::hint::black_box;
use core::mem::MaybeUninit;

use super::stack::{Size, Stack};
use super::{Cover, Scope, ScopeReport, enter, is_in_scope, scope, suspended};
use crate::os::{Call, Errno, fake};
use crate::{Error, Flush, Operation};

const SIZE: Size = Size { stack_bytes: 64 << 10, window_bytes: 8 << 10 };

/// Runs `f` on the stack without cleaning it.
fn on_stack(stack: &Stack, f: impl FnOnce()) {
    enter::on_stack(stack, f);
}

/// Every byte below the mark, read through the kernel, so that a discarded page counts as it is.
fn dirty_bytes(stack: &Stack) -> usize {
    let (start, len) = stack.window_range();
    let bytes = unsafe { core::slice::from_raw_parts(start.as_ptr(), len) };
    bytes.iter().filter(|&&byte| byte != 0).count()
}

/// A frame that writes only its deep end: the pages between are jumped over.
#[inline(never)]
fn hole(depth: usize) {
    // Writes below the stack pointer, as a frame of C code without probes would. In assembly: to the compiler a
    // store so far from `here` is undefined, and it leaves it out when it optimises.
    let here = 0_u8;
    let deep = (&raw const here).wrapping_sub(depth);
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::asm!("mov byte ptr [{deep}], 0x5a", deep = in(reg) deep);
    }
    #[cfg(target_arch = "aarch64")]
    unsafe {
        core::arch::asm!("strb {value:w}, [{deep}]", value = in(reg) 0x5a, deep = in(reg) deep);
    }
}

#[inline(never)]
fn use_stack<const N: usize>() {
    let mut array = MaybeUninit::<[u8; N]>::uninit();
    unsafe { array.as_mut_ptr().cast::<u8>().write_bytes(0x5a, N) };
    black_box(&mut array);
}

#[test]
fn a_shallow_closure_leaves_the_window_as_it_is() {
    let stack = Stack::new(SIZE).unwrap();
    for _ in 0..10 {
        on_stack(&stack, use_stack::<1000>);
        unsafe { stack.clean(Flush::Off) };
        assert_eq!(dirty_bytes(&stack), 0);
        assert_eq!(stack.window_bytes(), if stack.is_tracked() { 8 << 10 } else { 64 << 10 });
    }
    stack.release();
}

#[test]
fn a_hole_of_untouched_pages_hides_nothing() {
    for depth in [0, 5, 100, 2000, 7000, 9000, 16 << 10, 33 << 10, 50_001, 60 << 10] {
        for flush in [Flush::Off, Flush::Immediate] {
            let stack = Stack::new(SIZE).unwrap();
            on_stack(&stack, || hole(depth));
            unsafe { stack.clean(flush) };
            assert!(depth < 8 << 10 || stack.window_bytes() >= depth, "depth {depth} is in the window");
            assert_eq!(dirty_bytes(&stack), 0, "depth {depth}");
            stack.release();
        }
    }
}

#[test]
fn a_write_by_the_kernel_counts() {
    let stack = Stack::new(SIZE).unwrap();
    on_stack(&stack, || {
        let here = 0_u8;
        let deep = (&raw const here).cast_mut().wrapping_sub(40 << 10);
        let count = unsafe { libc::getrandom(deep.cast(), 64, 0) };
        assert_eq!(count, 64);
    });
    unsafe { stack.clean(Flush::Off) };
    assert!(stack.window_bytes() >= 40 << 10);
    assert_eq!(dirty_bytes(&stack), 0);
    stack.release();
}

/// Where the first part could be pinned, a part that was used once is pinned from then on.
#[test]
fn a_deep_part_is_pinned_once_it_was_used() {
    let stack = Stack::new(SIZE).unwrap();
    assert!(!stack.is_deep_part_pinned());
    on_stack(&stack, || hole(30_000));
    unsafe { stack.clean(Flush::Off) };
    if stack.is_tracked() {
        assert_eq!(stack.is_deep_part_pinned(), stack.is_pinned());
    }
    stack.release();
}

#[test]
fn the_window_shrinks_when_the_depth_is_not_used_any_more() {
    let stack = Stack::new(SIZE).unwrap();
    if !stack.is_tracked() {
        return stack.release();
    }
    on_stack(&stack, use_stack::<30_000>);
    unsafe { stack.clean(Flush::Off) };
    assert!(stack.window_bytes() > 30_000);
    for _ in 0..200 {
        on_stack(&stack, use_stack::<100>);
        unsafe { stack.clean(Flush::Off) };
    }
    assert_eq!(stack.window_bytes(), if cfg!(target_arch = "x86_64") { 8 << 10 } else { 32 << 10 });
    on_stack(&stack, || hole(50_000));
    unsafe { stack.clean(Flush::Off) };
    assert_eq!(dirty_bytes(&stack), 0);
    assert!(stack.window_bytes() > 50_000);
    stack.release();
}

/// Whatever call fails while a stack is made, it works or the promised error comes, and none is lost.
#[test]
fn any_call_may_fail_while_a_stack_is_made() {
    let mut made = 0;
    let mut refused = 0;
    let calls = fake::every_call_in_turn(Errno::NOMEM, |_| match Stack::new(SIZE) {
        Ok(stack) => {
            made += 1;
            on_stack(&stack, || hole(40_000));
            unsafe { stack.clean(Flush::Immediate) };
            assert_eq!(dirty_bytes(&stack), 0);
            stack.release();
        }
        Err(_) => refused += 1,
    });
    assert!(calls > 5, "{calls} calls");
    assert!(made > 1 && refused > 1, "{made} made, {refused} refused");
}

#[test]
fn a_stack_that_cannot_be_locked_is_refused() {
    let _fault = fake::fail_always(Call::Lock, Errno::NOMEM);
    assert!(matches!(
        Stack::new(SIZE),
        Err(Error::LockLimit { needed_bytes: 65_536, .. } | Error::Os { operation: Operation::Lock, .. })
    ));
}

#[test]
fn a_stack_without_pins_is_locked_and_says_so() {
    let before = ScopeReport::now().not_pinned;
    let _fault = fake::fail_always(Call::RingRegister, Errno::NOMEM);
    let stack = Stack::new(SIZE).unwrap();
    assert!(ScopeReport::now().not_pinned > before);
    stack.release();
}

#[test]
fn the_result_comes_out_and_the_place_changes() {
    assert!(!is_in_scope());
    let inside = scope(|| {
        let first = is_in_scope();
        let out = suspended(is_in_scope);
        let nested = scope(is_in_scope);
        [first, !out, nested, is_in_scope()]
    });
    assert_eq!(inside, [true; 4]);
    assert!(!is_in_scope());
}

#[test]
fn a_scope_of_the_heap_alone_stays_on_the_stack() {
    let local = 0_u8;
    let outer = (&raw const local).addr();
    let heap = Scope::builder().cover(Cover::Heap).build();
    let [distance, covered] = heap
        .run(|| {
            let local = 0_u8;
            let distance = outer.abs_diff((&raw const local).addr());
            let covered = scope(|| {
                let local = 0_u8;
                outer.abs_diff((&raw const local).addr())
            });
            [distance, covered]
        })
        .unwrap();
    assert!(distance < 64 << 10);
    assert!(covered > 64 << 10);
}

#[test]
fn a_panic_comes_out() {
    let caught = std::panic::catch_unwind(|| scope(|| -> u32 { std::panic::panic_any(17_u8) }));
    assert_eq!(caught.unwrap_err().downcast_ref::<u8>(), Some(&17));
    assert!(!is_in_scope());
    let caught = std::panic::catch_unwind(|| scope(|| suspended(|| -> u32 { std::panic::panic_any(18_u8) })));
    assert_eq!(caught.unwrap_err().downcast_ref::<u8>(), Some(&18));
    assert!(!is_in_scope());
}

#[test]
fn a_scope_in_a_suspension_has_a_stack_of_its_own() {
    let value = scope(|| suspended(|| scope(|| suspended(|| scope(|| 5_u8)))));
    assert_eq!(value, 5);
}

#[test]
fn an_unwinder_walks_out_of_a_scope() {
    let inside = scope(|| suspended(|| 0_u8) + u8::from(walk().contains("an_unwinder_walks_out_of_a_scope")));
    assert_eq!(inside, 1);
    let outside = scope(|| suspended(|| u8::from(walk().contains("an_unwinder_walks_out_of_a_scope"))));
    assert_eq!(outside, 1);
}

fn walk() -> String {
    // Decoding debug information needs more stack than a scope has.
    let trace = std::backtrace::Backtrace::force_capture();
    suspended(|| trace.to_string())
}
