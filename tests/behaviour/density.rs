//! How many secrets fit under a limit, and what each costs.

use oubliette::{Error, SecretBox, SecretVec, report};

use crate::support::child::{self, Role};
use crate::support::maps::mappings_of;
use crate::support::{limits, pattern, skip};

pub(crate) const ROLES: &[Role] = &[
    ("fill", |_| fill_the_limit()),
    ("fill_after_large", |_| fill_after_large()),
    ("cost", |_| print_cost()),
];

type Key = SecretBox<[u8; 32]>;

fn key(number: usize) -> Result<Key, Error> {
    Key::new_with(|bytes| pattern::fill(bytes, number as u64))
}

fn is_intact(number: usize, key: &Key) -> bool {
    pattern::matches(key.expose(), number as u64)
}

/// The default limit of many systems.
const MEMLOCK_BYTES: u64 = 8 << 20;

#[test]
fn eighty_thousand_secrets_fit_in_eight_mebibytes() {
    let ended = child::run("fill", "");
    ended.assert_success();
    if let Some(why) = ended.said("skipped") {
        return skip::not_set_up(why);
    }
    println!("{} secrets", ended.number("secrets"));
    assert!(ended.number("secrets") >= 80_000, "{ended:?}");
    let error = ended.said("error").unwrap();
    assert!(error.contains("RLIMIT_MEMLOCK is 8388608 bytes"), "{error}");
    assert_eq!(ended.number("damaged"), 0);
    assert_eq!(ended.said("refilled"), ended.said("dropped"), "room that was given back was not to be had");
    // A slab stays as long as one of its slots waits in the quarantine.
    let (resident, left) = (ended.number("resident"), ended.number("left"));
    assert!(resident >= 80_000 * 32 && left < resident / 2, "{left} of {resident} bytes stay resident");
}

fn fill_the_limit() {
    if let Err(refused) = limits::as_ordinary_user(MEMLOCK_BYTES) {
        return println!("skipped {}", refused.0);
    }
    // Room for the handles first: nothing but secrets is to be allocated on the way to the limit.
    let mut keys = Vec::with_capacity(1_000_000);
    let error = loop {
        match key(keys.len()) {
            Ok(key) if keys.len() < keys.capacity() => keys.push(key),
            Ok(_) => panic!("no end of {} secrets", keys.len()),
            Err(error) => break error,
        }
    };
    println!("secrets {}", keys.len());
    println!("error {error}");
    assert!(matches!(error, Error::LockLimit { .. }), "{error:?}");
    // The answer stays the same, and costs nothing.
    assert!((0..100).all(|_| key(0).is_err()));
    println!("resident {}", locked_and_resident_bytes());
    println!("damaged {}", keys.iter().enumerate().filter(|(i, key)| !is_intact(*i, key)).count());
    assert!(limits::status_bytes("VmLck") <= MEMLOCK_BYTES as usize);
    // Half of them go; as many come back.
    let dropped = keys.len() / 2;
    keys.truncate(keys.len() - dropped);
    let refilled = (0..dropped).map(key).take_while(Result::is_ok).count();
    println!("dropped {dropped}");
    println!("refilled {refilled}");
    assert!(keys.iter().enumerate().all(|(i, key)| is_intact(i, key)));
    drop(keys);
    println!("left {}", locked_and_resident_bytes());
}

/// What a heap keeps of freed blocks must not stand in the way of new ones.
#[test]
fn what_is_kept_of_large_blocks_gives_way() {
    let ended = child::run("fill_after_large", "");
    ended.assert_success();
    if let Some(why) = ended.said("skipped") {
        return skip::not_set_up(why);
    }
    assert!(ended.number("secrets") >= 80_000, "{ended:?}");
    assert!(ended.number("large") >= 5, "{ended:?}");
}

fn fill_after_large() {
    if let Err(refused) = limits::as_ordinary_user(MEMLOCK_BYTES) {
        return println!("skipped {}", refused.0);
    }
    for size in [1 << 20, 2 << 20, 3 << 20, 100_000, 5 << 20] {
        drop(SecretVec::<u8>::new_with(size, |bytes| pattern::fill(&mut bytes[..100], 1)).unwrap());
    }
    let keys: Vec<Key> = (0..80_000).map_while(|number| key(number).ok()).collect();
    println!("secrets {}", keys.len());
    drop(keys);
    // And the other way round.
    let large: Vec<_> = (0..5)
        .map_while(|_| SecretVec::<u8>::new_with(1 << 20, |bytes| pattern::fill(&mut bytes[..100], 1)).ok())
        .collect();
    println!("large {}", large.len());
}

#[test]
fn a_secret_costs_few_locked_bytes_and_no_mapping() {
    const SECRETS: usize = 20_000;
    let ended = child::run("cost", &SECRETS.to_string());
    ended.assert_success();
    if let Some(why) = ended.said("skipped") {
        return skip::not_set_up(why);
    }
    let each = ended.number("locked") as f64 / SECRETS as f64;
    println!("{each:.1} locked bytes a secret, {} mappings", ended.number("mappings"));
    assert!(each <= 100.0, "{each} locked bytes for each secret");
    assert!(ended.number("mappings") < 200, "{ended:?}");
    assert_eq!(ended.number("reported"), ended.number("locked"), "report() and the kernel differ");
}

fn print_cost() {
    const SECRETS: usize = 20_000;
    let mut keys = Vec::with_capacity(SECRETS);
    let (locked, mappings) = (limits::status_bytes("VmLck"), limits::mapping_count());
    for number in 0..SECRETS {
        match key(number) {
            Ok(key) => keys.push(key),
            Err(error) => return println!("skipped {error}"),
        }
    }
    println!("locked {}", limits::status_bytes("VmLck") - locked);
    println!("mappings {}", limits::mapping_count() - mappings);
    let report = *report().secrets().unwrap();
    assert_eq!(report.live_blocks, SECRETS);
    assert_eq!(report.live_bytes, SECRETS * 32);
    println!("reported {}", report.locked_bytes);
    assert!(keys.iter().enumerate().all(|(i, key)| is_intact(i, key)));
}

/// What a heap holds in memory. (Its range stays locked, and charged, for the next secret.)
fn locked_and_resident_bytes() -> usize {
    let mappings = mappings_of("self").unwrap();
    mappings.iter().filter(|mapping| mapping.has("lo")).map(|mapping| mapping.kib("Rss") * 1024).sum()
}
