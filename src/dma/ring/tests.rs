//! The ring from inside: transfers of each kind, every way in which one can end, and calls that fail.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::dma::{Pinning, Provider, stats};
use crate::os::{Call, Errno, fake};
use crate::testing::{forked, passes};
use crate::{DmaBuffer, Error, Operation};

/// Whether rings can be made here; says so where they cannot.
fn may_use_rings() -> bool {
    let may = DmaBuffer::new(1).is_ok() && Ring::new(1).is_ok();
    if !may {
        println!("skipped: this process may not use io_uring");
    }
    may
}

macro_rules! skip_without_rings {
    () => {
        if !may_use_rings() {
            return;
        }
    };
}

fn filled(bytes: usize, with: u8) -> DmaBuffer {
    let mut buffer = DmaBuffer::new(bytes).unwrap();
    buffer.fill(with);
    buffer
}

/// A file without a name, with these bytes.
fn file_of(bytes: &[u8]) -> File {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("oubliette-ring-{}-{number}", std::process::id()));
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn errno_of<B: TransferBuffer>(failed: &TransferError<B>) -> i32 {
    match failed.error() {
        Error::Os { operation: Operation::Transfer, errno } => errno,
        error => panic!("{error}"),
    }
}

#[test]
fn what_threads_may_share() {
    const fn shared<T: Send + Sync>() {}
    const fn sent<T: Send>() {}
    shared::<Ring>();
    shared::<BufferPool>();
    shared::<DmaBuffer>();
    shared::<Descriptor>();
    sent::<InFlight>();
    sent::<InFlight<PooledBuffer>>();
    sent::<TransferError>();
}

#[test]
fn files_pipes_and_sockets_both_ways() {
    skip_without_rings!();
    let ring = Ring::new(4).unwrap();
    let file = file_of(b"0123456789");
    let (buffer, n) = ring.read(filled(4, 0), &file, 3).unwrap().wait().unwrap();
    assert_eq!((n, &buffer[..]), (4, &b"3456"[..]));
    let (buffer, n) = ring.write(buffer, &file, 0).unwrap().wait().unwrap();
    assert_eq!(n, 4);
    // The end of the file: fewer bytes, and the rest as it was.
    let (buffer, n) = ring.read(buffer, &file, 8).unwrap().wait().unwrap();
    assert_eq!((n, &buffer[..]), (2, &b"8956"[..]));
    let (buffer, n) = ring.read(buffer, &file, 100).unwrap().wait().unwrap();
    assert_eq!(n, 0);

    let (mut near, far) = UnixStream::pair().unwrap();
    let (buffer, n) = ring.write(buffer, &far, Offset::Current).unwrap().wait().unwrap();
    let mut got = [0; 4];
    near.read_exact(&mut got).unwrap();
    assert_eq!((n, &got), (4, b"8956"));
    let in_flight = ring.read(buffer, &far, 0).unwrap();
    near.write_all(b"xy").unwrap();
    let (buffer, n) = in_flight.wait().unwrap();
    assert_eq!((n, &buffer[..]), (2, &b"xy56"[..]));

    let (mut from, to) = io::pipe().unwrap();
    let (buffer, n) = ring.write(buffer, &to, 77).unwrap().wait().unwrap();
    from.read_exact(&mut got).unwrap();
    assert_eq!((n, &got), (4, b"xy56"));
    drop(to);
    let (_, n) = ring.read(buffer, &from, 0).unwrap().wait().unwrap();
    assert_eq!(n, 0, "nobody writes any more");
}

#[test]
fn offsets() {
    skip_without_rings!();
    let ring = Ring::new(1).unwrap();
    let mut file = file_of(b"0123456789");
    file.rewind().unwrap();
    let (buffer, _) = ring.read(filled(4, 0), &file, Offset::Current).unwrap().wait().unwrap();
    assert_eq!(&buffer[..], b"0123");
    let (buffer, _) = ring.read(buffer, &file, Offset::Current).unwrap().wait().unwrap();
    assert_eq!(&buffer[..], b"4567");
    let (buffer, _) = ring.read(buffer, &file, 0).unwrap().wait().unwrap();
    assert_eq!((&buffer[..], file.stream_position().unwrap()), (&b"0123"[..], 8));
    for no_place in [u64::MAX, 1 << 63] {
        let failed = ring.read(filled(4, 0), &file, no_place).unwrap_err();
        assert_eq!(failed.error(), Error::TooLarge);
        assert!(failed.into_buffer().is_some());
    }
    drop(buffer);
}

#[test]
fn parts_of_a_buffer() {
    skip_without_rings!();
    let ring = Ring::new(1).unwrap();
    let file = file_of(b"0123456789");
    let (buffer, n) = ring.read_part(filled(6, b'.'), 2..5, &file, 7).unwrap().wait().unwrap();
    assert_eq!((n, &buffer[..]), (3, &b"..789."[..]));
    let (buffer, n) = ring.write_part(buffer, ..=1, &file, 0).unwrap().wait().unwrap();
    assert_eq!(n, 2);
    let (buffer, n) = ring.read_part(buffer, 6.., &file, 0).unwrap().wait().unwrap();
    assert_eq!((n, &buffer[..]), (0, &b"..789."[..]));
    let failed = ring.read_part(buffer, 0..7, &file, 0).unwrap_err();
    assert_eq!(failed.error(), Error::TooLarge);
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
    let failed = ring.read_part(failed.into_buffer().unwrap(), 4..3, &file, 0).unwrap_err();
    assert_eq!(failed.error(), Error::TooLarge);
}

#[test]
fn the_pin_moves_to_the_ring_and_on() {
    skip_without_rings!();
    let (first, second) = (Ring::new(1).unwrap(), Ring::with_buffers(1, 1).unwrap());
    let mut buffer = DmaBuffer::new(1).unwrap();
    assert_eq!(buffer.pinning(), Pinning::Pinned(Provider::PinTable));
    for ring in [&first, &second, &first, &first] {
        ring.attach(&mut buffer).unwrap();
        assert_eq!(buffer.pinning(), Pinning::Pinned(Provider::Ring));
    }
    second.attach(&mut buffer).unwrap();
    let mut other = DmaBuffer::new(1).unwrap();
    assert_eq!(second.attach(&mut other), Err(Error::TooManyBuffers { limit: 1 }));
    assert_eq!(other.pinning(), Pinning::Pinned(Provider::PinTable), "it keeps the pin that it had");
    drop(buffer);
    second.attach(&mut other).unwrap();
    drop((first, second));
    assert_eq!(other.pinning(), Pinning::Pinned(Provider::Ring), "a buffer keeps its ring");
}

#[test]
fn an_error_brings_the_buffer_back() {
    skip_without_rings!();
    let ring = Ring::new(1).unwrap();
    let (from, to) = io::pipe().unwrap();
    let failed = ring.read(filled(4, 7), &to, 0).unwrap().wait().unwrap_err();
    assert_eq!(errno_of(&failed), libc::EBADF);
    let buffer = failed.into_buffer().unwrap();
    assert_eq!(&buffer[..], [7; 4]);
    let in_flight = ring.read(buffer, &from, 0).unwrap();
    let failed = ring.read(filled(4, 8), &from, 0).unwrap_err();
    assert_eq!(failed.error(), Error::TooManyTransfers { limit: 1 });
    assert_eq!(&failed.into_buffer().unwrap()[..], [8; 4]);
    let cancelled = in_flight.cancel().unwrap_err();
    assert_eq!(errno_of(&cancelled), libc::ECANCELED);
    assert_eq!(&cancelled.into_buffer().unwrap()[..], [7; 4]);
    let text = format!("{:?}", ring.read(filled(4, 9), &from, 0).unwrap());
    assert!(text.starts_with("InFlight") && !text.contains("9, 9"), "{text}");
}

#[test]
fn asked_without_waiting() {
    skip_without_rings!();
    let ring = Ring::new(1).unwrap();
    let (from, mut to) = io::pipe().unwrap();
    let Attempt::Pending(mut in_flight) = ring.read(filled(4, 0), &from, 0).unwrap().try_wait() else {
        panic!("nothing was written yet");
    };
    to.write_all(b"abcd").unwrap();
    let (buffer, n) = loop {
        match in_flight.try_wait() {
            Attempt::Done(done) => break done.unwrap(),
            Attempt::Pending(again) => in_flight = again,
        }
    };
    assert_eq!((n, &buffer[..]), (4, &b"abcd"[..]));
}

#[test]
fn dropped_it_is_over() {
    skip_without_rings!();
    let before = stats().quarantined;
    let ring = Ring::new(2).unwrap();
    let (from, mut to) = io::pipe().unwrap();
    for _ in 0..100 {
        drop(ring.read(filled(4, 0), &from, 0).unwrap());
    }
    // None of them is there to take these.
    to.write_all(b"abcd").unwrap();
    let (buffer, n) = ring.read(filled(4, 0), &from, 0).unwrap().wait().unwrap();
    assert_eq!((n, &buffer[..]), (4, &b"abcd"[..]));
    assert_eq!(stats().quarantined, before);
}

#[test]
fn ended_by_a_panic() {
    skip_without_rings!();
    let ring = Ring::new(2).unwrap();
    let (from, mut to) = io::pipe().unwrap();
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let _in_flight = ring.read(filled(4, 0), &from, 0).unwrap();
        std::panic::resume_unwind(Box::new("on purpose"));
    }));
    assert!(unwound.is_err());
    to.write_all(b"abcd").unwrap();
    assert_eq!(ring.read(filled(4, 0), &from, 0).unwrap().wait().unwrap().1, 4);
}

#[test]
fn the_ring_and_the_file_may_go_first() {
    skip_without_rings!();
    let (from, mut to) = io::pipe().unwrap();
    let ring = Ring::new(2).unwrap();
    let in_flight = ring.read(filled(4, 0), &from, 0).unwrap();
    let dropped = ring.read(filled(4, 0), Descriptor::new(from), 0).unwrap();
    drop(ring);
    drop(dropped);
    to.write_all(b"abcd").unwrap();
    assert_eq!(in_flight.wait().unwrap().1, 4);
}

#[test]
fn a_thread_that_ends_takes_no_transfer_with_it() {
    skip_without_rings!();
    let ring = Ring::new(2).unwrap();
    let (from, mut to) = io::pipe().unwrap();
    let in_flight =
        thread::scope(|scope| scope.spawn(|| ring.read(filled(4, 0), &from, 0).unwrap()).join().unwrap());
    // The thread is joined a moment before it is gone.
    thread::sleep(Duration::from_millis(20));
    to.write_all(b"abcd").unwrap();
    let (buffer, n) = in_flight.wait().unwrap();
    assert_eq!((n, &buffer[..]), (4, &b"abcd"[..]));
}

#[test]
fn many_threads_wait_on_one_ring() {
    const THREADS: usize = 8;
    const ROUNDS: usize = 200;
    skip_without_rings!();
    let ring = Ring::new(16).unwrap();
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        for id in 0..u8::try_from(THREADS).unwrap() {
            let (ring, done) = (&ring, &done);
            scope.spawn(move || {
                let (from, mut to) = io::pipe().unwrap();
                let mut buffer = filled(4, 0);
                for round in 0..ROUNDS {
                    let in_flight = ring.read(buffer, &from, 0).unwrap();
                    to.write_all(&[id; 4]).unwrap();
                    let (back, n) =
                        if round % 2 == 0 { in_flight.wait().unwrap() } else { block_on(in_flight).unwrap() };
                    assert_eq!((n, &back[..]), (4, &[id; 4][..]));
                    buffer = back;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(done.into_inner(), THREADS * ROUNDS);
}

/// An executor of one future: no runtime.
fn block_on<F: Future + Unpin>(mut future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    loop {
        if let std::task::Poll::Ready(done) = std::pin::Pin::new(&mut future).poll(&mut context) {
            return done;
        }
        thread::park();
    }
}

#[test]
fn a_future_without_a_thread_to_wake_it_comes_to_its_end() {
    skip_without_rings!();
    let ring = Ring::new(1).unwrap();
    let (from, mut to) = io::pipe().unwrap();
    let writer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(5));
        to.write_all(b"abcd").unwrap();
    });
    let (_, n) = block_on(ring.read(filled(4, 0), &from, 0).unwrap()).unwrap();
    assert_eq!(n, 4);
    writer.join().unwrap();
}

#[test]
fn a_waker_that_panics_harms_nobody_else() {
    struct Panics;
    impl std::task::Wake for Panics {
        fn wake(self: std::sync::Arc<Self>) {
            std::panic::resume_unwind(Box::new("on purpose"));
        }
    }
    skip_without_rings!();
    let ring = Ring::new(2).unwrap();
    let (from, mut to) = io::pipe().unwrap();
    let mut panics = ring.read(filled(4, 0), &from, 0).unwrap();
    let waker = std::sync::Arc::new(Panics).into();
    let polled = std::pin::Pin::new(&mut panics).poll(&mut std::task::Context::from_waker(&waker));
    assert!(polled.is_pending());
    to.write_all(b"abcd").unwrap();
    // Woken by the same thread, after the one that panics.
    let (other, mut to) = io::pipe().unwrap();
    let writer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        to.write_all(b"efgh").unwrap();
    });
    assert_eq!(block_on(ring.read(filled(4, 0), &other, 0).unwrap()).unwrap().1, 4);
    writer.join().unwrap();
    assert_eq!(panics.wait().unwrap().1, 4);
}

#[test]
fn an_entry_that_could_not_be_submitted_is_a_transfer_all_the_same() {
    skip_without_rings!();
    let before = stats().quarantined;
    let ring = Ring::new(4).unwrap();
    let file = file_of(b"0123456789");
    for errno in [Errno::AGAIN, Errno::BUSY, Errno::NOMEM, Errno::INTR] {
        let fault = fake::fail(Call::RingEnter, 0, errno);
        let in_flight = ring.read(filled(4, 0), &file, 0).unwrap();
        drop(fault);
        let (buffer, n) = in_flight.wait().unwrap();
        assert_eq!((n, &buffer[..]), (4, &b"0123"[..]));

        let fault = fake::fail(Call::RingEnter, 0, errno);
        let in_flight = ring.read(filled(4, 0), &file, 0).unwrap();
        drop(in_flight);
        drop(fault);
    }
    assert_eq!(stats().quarantined, before, "each came to its end");
}

#[test]
fn an_end_is_seen_without_entering_the_kernel() {
    skip_without_rings!();
    let before = stats().quarantined;
    let ring = Ring::new(4).unwrap();
    let (from, mut to) = io::pipe().unwrap();
    let in_flight = ring.read(filled(4, 0), &from, 0).unwrap();
    let fault = fake::fail_always(Call::RingEnter, Errno::PERM);
    to.write_all(b"abcd").unwrap();
    assert_eq!(in_flight.wait().unwrap().1, 4);
    drop(fault);
    assert_eq!(stats().quarantined, before);
}

#[test]
fn a_kernel_that_cannot_be_entered_is_an_error_in_the_end() {
    const TEST: &str = concat!(module_path!(), "::a_kernel_that_cannot_be_entered_is_an_error_in_the_end");
    skip_without_rings!();
    passes(TEST, "waiting", || {
        let ring = Ring::new(4).unwrap();
        let (from, _to) = io::pipe().unwrap();
        let in_flight = ring.read(filled(4, 0), &from, 0).unwrap();
        let _fault = fake::fail_always(Call::RingEnter, Errno::PERM);
        let failed = in_flight.wait().unwrap_err();
        assert_eq!((errno_of(&failed), failed.into_buffer().is_some()), (libc::EPERM, false));
        assert_eq!(stats().quarantined, 1);
    });
    passes(TEST, "awaiting", || {
        let ring = Ring::new(4).unwrap();
        let (from, _to) = io::pipe().unwrap();
        let in_flight = ring.read(filled(4, 0), &from, 0).unwrap();
        // As programs do that close all of their descriptors.
        ring.shared().queue.close_descriptor();
        let failed = block_on(in_flight).unwrap_err();
        assert_eq!(errno_of(&failed), libc::EBADF);
        assert_eq!(stats().quarantined, usize::from(failed.into_buffer().is_none()));
        // Its drop would close a descriptor that is not its own any more.
        let _ring = std::mem::ManuallyDrop::new(ring);
    });
}

#[test]
fn more_completions_than_their_queue_holds() {
    skip_without_rings!();
    let ring = Ring::new(1).unwrap();
    let (from, mut to) = io::pipe().unwrap();
    let mut in_flight = ring.read(filled(4, 0), &from, 0).unwrap();
    // The queue has two places. Answers to these are not taken out of it.
    for tag in 0..10 {
        let mut locked = ring.shared().queue.lock().unwrap();
        locked.push_cancel(u64::MAX >> 2, (1 << 63) | tag).unwrap();
        locked.submit().unwrap();
    }
    to.write_all(b"abcd").unwrap();
    let end = Instant::now() + Duration::from_secs(5);
    let (_, n) = loop {
        match in_flight.try_wait() {
            Attempt::Done(done) => break done.unwrap(),
            Attempt::Pending(again) => in_flight = again,
        }
        assert!(Instant::now() < end, "it is behind those that were kept back");
    };
    assert_eq!(n, 4);
}

#[test]
fn threads_whose_calls_fail_now_and_then() {
    const THREADS: u8 = 4;
    const ROUNDS: usize = 500;
    skip_without_rings!();
    let before = stats().quarantined;
    let ring = Ring::new(8).unwrap();
    thread::scope(|scope| {
        for id in 1..=THREADS {
            let ring = &ring;
            scope.spawn(move || {
                let (from, mut to) = io::pipe().unwrap();
                let errnos = [Errno::AGAIN, Errno::BUSY, Errno::INTR, Errno::NOMEM];
                for round in 0..ROUNDS {
                    let chaos = round * 7 + usize::from(id);
                    let fault = fake::fail(Call::RingEnter, chaos % 4, errnos[chaos % errnos.len()]);
                    let in_flight = ring.read(filled(4, 0), &from, 0).unwrap();
                    match chaos % 3 {
                        0 => drop(in_flight),
                        1 => {
                            to.write_all(&[id; 4]).unwrap();
                            let (buffer, n) = in_flight.wait().unwrap();
                            assert_eq!((n, &buffer[..]), (4, &[id; 4][..]));
                        }
                        _ => {
                            to.write_all(&[id; 4]).unwrap();
                            let (buffer, n) = block_on(in_flight).unwrap();
                            assert_eq!((n, &buffer[..]), (4, &[id; 4][..]));
                        }
                    }
                    drop(fault);
                }
            });
        }
    });
    assert_eq!(stats().quarantined, before);
}

#[test]
fn what_cannot_be_proved_to_have_ended_is_quarantined() {
    const TEST: &str = concat!(module_path!(), "::what_cannot_be_proved_to_have_ended_is_quarantined");
    skip_without_rings!();
    passes(TEST, "quarantine", || {
        let ring = Ring::new(4).unwrap();
        let (from, mut to) = io::pipe().unwrap();
        let buffer = filled(4096, 7);
        let kept = buffer.as_ptr();
        let fault = fake::fail_always(Call::RingEnter, Errno::BADF);
        // The entry is in the queue, and nobody can submit, cancel or wait.
        let in_flight = ring.read(buffer, &from, 0).unwrap();
        let failed = in_flight.wait().unwrap_err();
        assert_eq!(errno_of(&failed), libc::EBADF);
        assert!(failed.into_buffer().is_none());
        drop(ring.read(filled(4096, 7), &from, 0).unwrap());
        drop(fault);
        assert_eq!((stats().quarantined, stats().quarantined_bytes), (2, 8192));
        // They are submitted with the next transfer. What they write goes where nobody looks.
        let file = file_of(b"0123456789");
        assert_eq!(ring.read(filled(4, 0), &file, 0).unwrap().wait().unwrap().1, 4);
        to.write_all(b"late").unwrap();
        drop((ring, from));
        let end = Instant::now() + Duration::from_secs(5);
        let arrived = || crate::testing::peek(kept.addr(), 4).unwrap() == b"late";
        while !arrived() && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(arrived(), "control: it would have been written to");
        assert_eq!(stats().buffers, 2);
    });
}

#[test]
fn each_call_that_fails_leaves_no_buffer_behind() {
    const TEST: &str = concat!(module_path!(), "::each_call_that_fails_leaves_no_buffer_behind");
    skip_without_rings!();
    passes(TEST, "calls", || {
        let file = file_of(b"0123456789");
        let runs = fake::every_call_in_turn(Errno::NOMEM, |_| {
            let attempt = || -> Result<(), Error> {
                let ring = Ring::new(2)?;
                let pool = BufferPool::new(&ring, 2, 100)?;
                let Some(buffer) = pool.take() else { return Ok(()) };
                let (buffer, n) = ring.read(buffer, &file, 0)?.wait()?;
                assert_eq!(&buffer[..n], b"0123456789");
                drop(ring.read(DmaBuffer::new(1)?, &file, 0)?);
                Ok(())
            };
            let _ = attempt();
        });
        assert!(runs > 30, "{runs}");
        assert_eq!((stats().buffers, stats().quarantined), (0, 0));
    });
}

#[test]
fn a_child_cannot_use_it_and_may_drop_it() {
    const TEST: &str = concat!(module_path!(), "::a_child_cannot_use_it_and_may_drop_it");
    skip_without_rings!();
    passes(TEST, "fork", || {
        let ring = Ring::new(4).unwrap();
        let (from, mut to) = io::pipe().unwrap();
        let (silent, _silent) = io::pipe().unwrap();
        let mut of_child = Some((
            ring.clone(),
            ring.read(filled(4, 7), &silent, 0).unwrap(),
            ring.read(filled(4, 7), &from, 0).unwrap(),
            filled(4, 7),
        ));
        let status = forked(|| {
            let (ring, dropped, waited, buffer) = of_child.take().unwrap();
            let failed = waited.wait().unwrap_err();
            assert_eq!(failed.error(), Error::LeftBehind);
            assert_eq!(&failed.into_buffer().unwrap()[..], [0; 4]);
            drop(dropped);
            let failed = ring.read(buffer, &from, 0).unwrap_err();
            assert_eq!(failed.error(), Error::LeftBehind);
            drop((failed, ring));
        });
        assert_eq!(status, 0);
        // The parent's transfers are untouched by all that.
        let (_, dropped, waited, _) = of_child.take().unwrap();
        to.write_all(b"abcd").unwrap();
        let (buffer, n) = waited.wait().unwrap();
        assert_eq!((n, &buffer[..]), (4, &b"abcd"[..]));
        drop(dropped);
        assert_eq!(stats().quarantined, 0);
    });
}

#[test]
fn a_pool_gives_wiped_buffers_and_no_more_than_it_has() {
    skip_without_rings!();
    let ring = Ring::new(4).unwrap();
    let pool = BufferPool::new(&ring, 3, 100).unwrap();
    let mut taken: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
    assert_eq!(taken.len(), 3);
    for buffer in &mut taken {
        assert_eq!((buffer.len(), buffer.pinning()), (100, Pinning::Pinned(Provider::Ring)));
        buffer.fill(7);
    }
    let (from, mut to) = io::pipe().unwrap();
    let in_flight = ring.read(taken.pop().unwrap(), &from, 0).unwrap();
    taken.clear();
    assert_eq!(
        std::iter::from_fn(|| pool.take())
            .map(|buffer| assert!(buffer.iter().all(|&b| b == 0)))
            .take(5)
            .count(),
        5
    );
    to.write_all(b"abcd").unwrap();
    let (buffer, n) = in_flight.wait().unwrap();
    drop(pool);
    assert_eq!(&buffer[..n], b"abcd");
}

#[test]
fn what_names_a_file() {
    fn names(file: impl Source) -> Descriptor {
        descriptor::private::Sealed::into_descriptor(file).unwrap()
    }
    let (from, to) = io::pipe().unwrap();
    let number = |fd: &dyn AsFd| std::os::fd::AsRawFd::as_raw_fd(&fd.as_fd());
    assert_ne!(names(&from).number(), number(&from), "duplicated");
    let shared = Descriptor::new(to);
    assert_eq!(names(&shared).number(), shared.number());
    assert_eq!(names(shared.clone()).number(), shared.number());
}
