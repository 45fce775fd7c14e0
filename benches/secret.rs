//! What the secret types cost: made and dropped with each flush, grown, compared.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use oubliette::{Error, Flush, SecretBox, SecretVec, set_secret_flush};

const FLUSHES: [Flush; 3] = [Flush::Immediate, Flush::Bounded, Flush::Off];

fn made_and_dropped(c: &mut Criterion) {
    let mut group = c.benchmark_group("box_of_32_bytes/new_and_drop");
    for flush in FLUSHES {
        set_secret_flush(flush);
        group.bench_function(BenchmarkId::from_parameter(format!("{flush:?}")), |b| {
            b.iter(|| -> Result<(), Error> {
                let key = SecretBox::<[u8; 32]>::new_with(|bytes| bytes.fill(black_box(7)))?;
                black_box(key.expose());
                Ok(())
            });
        });
    }
    group.finish();
}

fn grown(c: &mut Criterion) {
    const BYTES: usize = 4096;
    let mut group = c.benchmark_group("vec/push_4096_bytes_and_drop");
    group.throughput(Throughput::Elements(4096));
    for flush in FLUSHES {
        set_secret_flush(flush);
        group.bench_function(BenchmarkId::from_parameter(format!("{flush:?}")), |b| {
            b.iter(|| -> Result<(), Error> {
                let mut secret = SecretVec::new();
                for _ in 0..BYTES {
                    secret.push(black_box(7_u8))?;
                }
                black_box(secret.expose());
                Ok(())
            });
        });
    }
    group.bench_function("std_vec", |b| {
        b.iter(|| {
            let mut plain = Vec::new();
            for _ in 0..BYTES {
                plain.push(black_box(7_u8));
            }
            black_box(plain);
        });
    });
    group.finish();
    set_secret_flush(Flush::Immediate);
}

fn compared(c: &mut Criterion) {
    let Ok(key) = SecretBox::<[u8; 32]>::random() else { return };
    let other = *key.expose();
    c.bench_function("box_of_32_bytes/equal", |b| b.iter(|| black_box(&key) == black_box(&other)));
}

criterion_group!(benches, made_and_dropped, grown, compared);
criterion_main!(benches);
