//! Single secrets: made, written and dropped, beside memsec's guarded allocation in the same run.
//!
//! `cargo bench --manifest-path benches/peers/Cargo.toml --bench secrets`
//!
//! Every row of ours does all of it: a block that was found all zero, canary, checks, wipe, and the flush
//! named. memsec (a port of libsodium's `sodium_malloc`) maps, guards, locks and unmaps pages for each.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use oubliette::{Flush, SecretBox, SecretVec, set_secret_flush};

const FLUSHES: [(&str, Flush); 3] =
    [("off", Flush::Off), ("bounded", Flush::Bounded), ("immediate", Flush::Immediate)];

fn one_key(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("32 bytes: new + drop");
    for (name, flush) in FLUSHES {
        set_secret_flush(flush);
        group.bench_function(format!("SecretBox, flush {name}"), |bencher| {
            bencher.iter(|| {
                let key = SecretBox::<[u8; 32]>::new_with(|key| key[0] = 1).unwrap();
                black_box(key.expose());
            });
        });
    }
    set_secret_flush(Flush::Immediate);
    group.bench_function("memsec::malloc + free", |bencher| {
        bencher.iter(|| {
            // SAFETY: memsec's functions are unsafe since their blocks are raw; this one is written to inside
            // its bounds and freed once.
            unsafe {
                let mut key = memsec::malloc::<[u8; 32]>().unwrap();
                key.as_mut()[0] = 1;
                memsec::free(black_box(key));
            }
        });
    });
    group.finish();
}

/// The same while many others are alive: cost must not grow with their number.
fn among_many(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("32 bytes: new + drop, among others alive");
    set_secret_flush(Flush::Off);
    for others in [100, 10_000, 50_000] {
        let alive: Vec<_> = (0..others).map_while(|_| SecretBox::<[u8; 32]>::random().ok()).collect();
        group.bench_function(format!("{} others", alive.len()), |bencher| {
            bencher.iter(|| {
                let key = SecretBox::<[u8; 32]>::new_with(|key| key[0] = 1).unwrap();
                black_box(key.expose());
            });
        });
    }
    set_secret_flush(Flush::Immediate);
    group.finish();
}

fn by_size(criterion: &mut Criterion) {
    for bytes in [16, 256, 4096, 65_536] {
        let mut group = criterion.benchmark_group(format!("{bytes} bytes: new + drop"));
        group.bench_function("SecretVec, flush immediate", |bencher| {
            bencher.iter(|| {
                let block = SecretVec::<u8>::new_with(bytes, |block| block[0] = 1).unwrap();
                black_box(block.expose());
            });
        });
        group.bench_function("memsec::malloc_sized + free", |bencher| {
            bencher.iter(|| {
                // SAFETY: as in `one_key`.
                unsafe {
                    let mut block = memsec::malloc_sized(bytes).unwrap();
                    block.as_mut()[0] = 1;
                    memsec::free(black_box(block));
                }
            });
        });
        group.finish();
    }
}

criterion_group!(benches, one_key, among_many, by_size);
criterion_main!(benches);
