//! Time in nanoseconds, read as cheaply as the machine allows.

/// Runs `operation` and returns the nanoseconds it took, the cost of reading the clock not taken off.
#[cfg(target_arch = "x86_64")]
pub fn nanoseconds(operation: impl FnOnce()) -> f64 {
    use std::arch::x86_64::{__rdtscp, _rdtsc};
    use std::sync::OnceLock;
    use std::time::{Duration, Instant};

    static TICKS_PER_NANOSECOND: OnceLock<f64> = OnceLock::new();
    let rate = *TICKS_PER_NANOSECOND.get_or_init(|| {
        // SAFETY: every x86-64 processor has a time-stamp counter.
        let (begin, start) = (unsafe { _rdtsc() }, Instant::now());
        std::thread::sleep(Duration::from_millis(50));
        // SAFETY: as above.
        (unsafe { _rdtsc() } - begin) as f64 / start.elapsed().as_nanos() as f64
    });
    let mut processor = 0;
    // SAFETY: as above; `processor` is a live value.
    let begin = unsafe { __rdtscp(&raw mut processor) };
    operation();
    // SAFETY: as above.
    let end = unsafe { __rdtscp(&raw mut processor) };
    end.saturating_sub(begin) as f64 / rate
}

#[cfg(not(target_arch = "x86_64"))]
pub fn nanoseconds(operation: impl FnOnce()) -> f64 {
    let start = std::time::Instant::now();
    operation();
    start.elapsed().as_nanos() as f64
}
