//! Single secrets: made, written and dropped, beside every other library's secret memory in the same run.
//!
//! `cargo bench --manifest-path benches/peers/Cargo.toml --bench secrets`
//!
//! Every row of ours does all of it: a block that was found all zero, canary, checks, wipe, and the flush
//! named. memsec (a port of libsodium's `sodium_malloc`) and `secrets` (a binding of it) map, guard, lock and
//! unmap pages for each. The heaps of OpenSSL and libgcrypt, the pool of `sanitization` and the page of
//! `secmem-alloc` are locked once; none of them checks for a write after free, and none flushes.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use oubliette::{Flush, SecretBox, SecretVec, set_secret_flush};
use oubliette_peers::c_heaps::CHeap;
use sanitization::SecretPool;
use secmem_alloc::allocator_api::Box as SecmemBox;
use secmem_alloc::sec_alloc::SecStackSinglePageAlloc;

const FLUSHES: [(&str, Flush); 3] =
    [("off", Flush::Off), ("bounded", Flush::Bounded), ("immediate", Flush::Immediate)];

/// What no immediate flush can beat: one line written, flushed, and waited for.
#[cfg(target_arch = "x86_64")]
fn flush_one_line(criterion: &mut Criterion) {
    #[repr(align(64))]
    struct Line([u8; 64]);
    let mut line = Line([0; 64]);
    criterion.bench_function("one line: write + clflushopt + mfence", |bencher| {
        bencher.iter(|| {
            black_box(&mut line).0[0] = 1;
            // SAFETY: the address is that of a live value; both instructions leave its content alone. Every
            // processor since 2015 has `clflushopt`, and this one is here to be measured.
            unsafe {
                std::arch::asm!("clflushopt [{0}]", "mfence", in(reg) &raw mut line, options(nostack));
            }
        });
    });
}

#[cfg(not(target_arch = "x86_64"))]
fn flush_one_line(_: &mut Criterion) {}

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
    group.bench_function("memsec", |bencher| {
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
    group.bench_function("secrets (libsodium)", |bencher| {
        bencher.iter(|| black_box(secrets::SecretBox::<[u8; 32]>::new(|key| key[0] = 1)));
    });
    let page = SecStackSinglePageAlloc::new().unwrap();
    group.bench_function("secmem-alloc", |bencher| {
        bencher.iter(|| {
            let mut key = SecmemBox::new_in([0_u8; 32], &page);
            key[0] = 1;
            black_box(&key);
        });
    });
    let pool = SecretPool::<32, 1024>::new().unwrap();
    group.bench_function("sanitization's pool", |bencher| {
        bencher.iter(|| {
            let mut key = pool.try_allocate().unwrap().unwrap();
            key.with_secret_mut_or_panic(|key| key[0] = 1);
            black_box(&key);
        });
    });
    for (name, heap) in CHeap::ALL {
        group.bench_function(name, |bencher| bencher.iter(|| on_c_heap(heap, 32)));
    }
    group.finish();
}

fn on_c_heap(heap: CHeap, bytes: usize) {
    let block = heap.allocate(bytes);
    assert!(!block.is_null());
    // SAFETY: inside the block, which nobody else has.
    unsafe { block.write(1) };
    // SAFETY: it came from this heap with this size, and is freed once.
    unsafe { heap.free(black_box(block), bytes) };
}

/// The same while many others are alive: cost must not grow with their number.
fn among_many(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("32 bytes: new + drop among others");
    set_secret_flush(Flush::Off);
    for others in [100, 10_000, 100_000] {
        let alive: Vec<_> = (0..others).map_while(|_| SecretBox::<[u8; 32]>::random().ok()).collect();
        if alive.len() < others {
            println!("skipped {others} others: RLIMIT_MEMLOCK lets {} live", alive.len());
            break;
        }
        group.bench_function(format!("SecretBox, {others} others"), |bencher| {
            bencher.iter(|| {
                let key = SecretBox::<[u8; 32]>::new_with(|key| key[0] = 1).unwrap();
                black_box(key.expose());
            });
        });
    }
    set_secret_flush(Flush::Immediate);
    for others in [100, 10_000] {
        let alive: Vec<_> = (0..others).map(|_| CHeap::Libgcrypt.allocate(32)).collect();
        assert!(alive.iter().all(|block| !block.is_null()));
        group.bench_function(format!("libgcrypt secure heap, {others} others"), |bencher| {
            bencher.iter(|| on_c_heap(CHeap::Libgcrypt, 32));
        });
        for block in alive {
            // SAFETY: from this heap, freed once.
            unsafe { CHeap::Libgcrypt.free(block, 32) };
        }
    }
    group.finish();
}

fn by_size(criterion: &mut Criterion) {
    for bytes in [16, 64, 256, 1024, 4096, 16_384, 65_536] {
        let mut group = criterion.benchmark_group(format!("{bytes} bytes: new + drop"));
        for (name, flush) in FLUSHES {
            set_secret_flush(flush);
            group.bench_function(format!("SecretVec, flush {name}"), |bencher| {
                bencher.iter(|| {
                    let block = SecretVec::<u8>::new_with(bytes, |block| block[0] = 1).unwrap();
                    black_box(block.expose());
                });
            });
        }
        set_secret_flush(Flush::Immediate);
        group.bench_function("memsec", |bencher| {
            bencher.iter(|| {
                // SAFETY: as in `one_key`.
                unsafe {
                    let mut block = memsec::malloc_sized(bytes).unwrap();
                    block.as_mut()[0] = 1;
                    memsec::free(black_box(block));
                }
            });
        });
        group.bench_function("secrets (libsodium)", |bencher| {
            bencher.iter(|| black_box(secrets::SecretVec::<u8>::new(bytes, |block| block[0] = 1)));
        });
        for (name, heap) in CHeap::ALL {
            group.bench_function(name, |bencher| bencher.iter(|| on_c_heap(heap, bytes)));
        }
        group.finish();
    }
}

fn config() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .nresamples(2000)
        .measurement_time(Duration::from_millis(700))
        .warm_up_time(Duration::from_millis(200))
}

criterion_group! { name = benches; config = config(); targets = flush_one_line, one_key, among_many, by_size }
criterion_main!(benches);
