//! The thread that wakes futures.

use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::thread;

use super::shared::{Shared, Trouble};
use crate::os::queue::block_signals;

/// How long it waits for more work before it ends.
const LINGER: Duration = Duration::from_secs(1);
/// Wakers are code of others, which may need some.
const STACK_BYTES: usize = 256 << 10;

/// Starts it. The caller has noted that it is there.
pub(super) fn start(shared: &Arc<Shared>) -> io::Result<()> {
    let shared = Arc::clone(shared);
    let thread = thread::Builder::new().name("oubliette-ring".to_owned()).stack_size(STACK_BYTES);
    thread.spawn(move || run(&shared)).map(drop)
}

fn run(shared: &Shared) {
    block_signals();
    let mut had_work = true;
    let mut trouble = Trouble::default();
    while let Some(mut locked) = shared.queue.lock() {
        let has_work = locked.has_wakers();
        if !has_work && !had_work {
            // Under the lock: a future that is polled next starts another one.
            locked.has_reaper = false;
            return;
        }
        had_work = has_work;
        // What could not be submitted before; if it cannot be now, once more soon.
        let soon = Duration::from_millis(10);
        let submitted = locked.submit();
        let waited = shared.step(locked, Some(if submitted.is_ok() { LINGER } else { soon }));
        let entered = submitted.and(waited);
        if entered.is_err() {
            thread::sleep(soon);
        }
        if let Err(lost) = trouble.note(entered) {
            shared.give_up(lost);
        }
    }
}
