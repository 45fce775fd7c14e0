//! Rings and frames from inside, with a test in the place of the kernel. The rest is in `tests/xdp`.

use super::frames::{Frames, State};
use super::ring::Descriptor;
use super::ring::fake::Shared;
use crate::testing::dies;

const MESSAGE: &str = "oubliette: AF_XDP ring corrupted";

#[test]
fn what_is_put_in_comes_out_also_where_the_numbers_wrap() {
    let shared = Shared::new(4);
    let (producer, consumer) = (shared.producer::<Descriptor>(), shared.consumer::<Descriptor>());
    let entry = |start| Descriptor { start, len: 7, options: 0 };
    assert_eq!(consumer.take(), None);
    for round in 0..1000 {
        for ahead in 0..4 {
            producer.put(entry(round + ahead));
        }
        assert!(producer.is_pending());
        assert_eq!(consumer.waiting(), 4);
        for ahead in 0..4 {
            assert_eq!(consumer.take(), Some(entry(round + ahead)));
        }
        assert_eq!((consumer.take(), producer.is_pending()), (None, false));
    }
    for start in [u32::MAX - 1, u32::MAX] {
        let shared = Shared::new(4);
        shared.set_producer(start);
        shared.set_consumer(start);
        let (producer, consumer) = (shared.producer_at::<u64>(start), shared.consumer_at::<u64>(start));
        (0..4).for_each(|value| producer.put(value));
        assert_eq!([(); 4].map(|()| consumer.take()), [Some(0), Some(1), Some(2), Some(3)]);
        assert_eq!(consumer.take(), None);
    }
}

#[test]
fn numbers_that_cannot_be_end_the_process() {
    const TEST: &str = concat!(module_path!(), "::numbers_that_cannot_be_end_the_process");
    for (case, number) in [("more", 5), ("before", u32::MAX), ("far", 1 << 31)] {
        dies(TEST, &format!("consumer {case}"), libc::SIGABRT, MESSAGE, || {
            let shared = Shared::new(4);
            shared.set_producer(number);
            shared.consumer::<u64>().take();
        });
    }
    for (case, number) in [("full", 0_u32.wrapping_sub(4)), ("beyond", 1), ("far", 1 << 31)] {
        dies(TEST, &format!("producer {case}"), libc::SIGABRT, MESSAGE, || {
            let shared = Shared::new(4);
            shared.set_consumer(number);
            shared.producer::<u64>().put(0);
        });
    }
}

#[test]
fn bytes_lie_in_one_frame_or_nowhere() {
    let frames = Frames::nowhere(3, 11);
    assert_eq!(frames.locate(0, 2048), Some((0, 0)));
    assert_eq!(frames.locate(2048 + 256, 1792), Some((1, 256)));
    assert_eq!(frames.locate(3 * 2048 - 1, 1), Some((2, 2047)));
    assert_eq!(frames.locate(3 * 2048 - 1, 0), Some((2, 2047)));
    for (offset, len) in [
        (0, 2049),
        (2047, 2),
        (2048 + 256, 1793),
        (3 * 2048, 0),
        (3 * 2048, 1),
        (u64::MAX, 1),
        (1 << 32, 1),
        (1 << 43, 1),
        (0, u32::MAX),
        (2047, u32::MAX),
    ] {
        assert_eq!(frames.locate(offset, len), None, "{offset} {len}");
    }
}

#[test]
fn a_frame_is_taken_once_until_it_is_given_back() {
    let frames = Frames::nowhere(4, 11);
    let mut taken: Vec<u32> = (0..4).map(|_| frames.take(State::Held).unwrap()).collect();
    taken.sort_unstable();
    assert_eq!(taken, [0, 1, 2, 3]);
    assert_eq!(frames.take(State::Held), None);
    assert!(taken.iter().all(|frame| frames.state(*frame) == State::Held));
    frames.give(2);
    assert_eq!(frames.state(2), State::Free);
    assert_eq!(frames.take(State::Sending(9)), Some(2));
    assert_eq!((frames.state(2), frames.sending()), (State::Sending(9), 1));
    assert_eq!(frames.state(4), State::Free);
}
