//! A secret's file leaves nothing in the page cache.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use oubliette::dma::SecretFile;
use oubliette::{Error, read_into_secret};

use crate::support::machine::beside_others;
use crate::support::pages::PAGE_BYTES;
use crate::support::{pattern, skip};

/// A file on a disk, not in the page cache, and removed when this is dropped.
struct OnDisk(PathBuf);

impl OnDisk {
    fn new(name: &str, bytes: usize) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("oubliette-{name}-{}-{number}", std::process::id()));
        let mut file = File::create(&path).unwrap();
        file.write_all(&pattern::secret(bytes as u64, bytes)).unwrap();
        file.sync_all().unwrap();
        let on_disk = Self(path);
        // A page that somebody holds just then stays (posix_fadvise(2)).
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            // SAFETY: no memory is involved (posix_fadvise(2)).
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
            if on_disk.cached_pages() == 0 || Instant::now() > end {
                return on_disk;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Pages of the file in the page cache, says the kernel (mincore(2)).
    fn cached_pages(&self) -> usize {
        let file = File::open(&self.0).unwrap();
        let len = file.metadata().unwrap().len() as usize;
        if len == 0 {
            return 0;
        }
        // SAFETY: a new mapping at a place that the kernel chooses; it is never read.
        let mapping = unsafe {
            libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        assert_ne!(mapping, libc::MAP_FAILED);
        let mut pages = vec![0_u8; len.div_ceil(PAGE_BYTES)];
        // SAFETY: `pages` has a byte for each page of the mapping.
        assert_eq!(unsafe { libc::mincore(mapping, len, pages.as_mut_ptr()) }, 0);
        // SAFETY: mapped above, and nobody uses it.
        unsafe { libc::munmap(mapping, len) };
        pages.iter().filter(|page| **page & 1 != 0).count()
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Whether files here can be read past the cache; says so where not.
fn is_direct() -> bool {
    let probe = OnDisk::new("probe", 1);
    match SecretFile::open(&probe.0) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error, Error::CacheOnly);
            skip::impossible(&format!("{}: {error}", std::env::temp_dir().display()));
            false
        }
    }
}

#[test]
fn nothing_stays_in_the_page_cache() {
    let _beside = beside_others();
    if !is_direct() {
        return;
    }
    for bytes in [0, 1, 511, 512, 4095, 4096, 4097, 100_000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20] {
        let file = OnDisk::new("cache", bytes);
        assert_eq!(file.cached_pages(), 0, "{bytes}: it starts outside");
        let secret = SecretFile::open(&file.0).unwrap().read().unwrap();
        assert_eq!(secret.len(), bytes);
        assert!(pattern::matches(secret.expose(), bytes as u64), "{bytes}");
        assert_eq!(file.cached_pages(), 0, "{bytes}: read past the cache");

        let mut open = File::open(&file.0).unwrap();
        let secret = read_into_secret(&open).unwrap();
        assert!(secret.len() == bytes && pattern::matches(secret.expose(), bytes as u64), "{bytes}");
        assert_eq!(file.cached_pages(), 0, "{bytes}: by a file that was opened in the usual way");

        open.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(file.cached_pages() > 0, bytes > 0, "control: read(2) leaves copies");
        drop(SecretFile::open(&file.0).unwrap().read().unwrap());
        assert_eq!(file.cached_pages(), 0, "{bytes}: and those are dropped");
    }
}

#[test]
fn what_is_read_without_a_cache_hides_nothing_by_dropping_it_late() {
    let _beside = beside_others();
    // Dropping pages from the cache after a usual read would pass the test above too, but the copy would have been
    // there. So the cache is watched while the file is read.
    if !is_direct() {
        return;
    }
    let file = OnDisk::new("watched", 64 << 20);
    let most = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut open = SecretFile::open(&file.0);
            let read = open.as_mut().map(|file| file.read()).unwrap();
            match read {
                Ok(secret) => assert_eq!(secret.len(), 64 << 20),
                Err(error) => assert!(matches!(error, Error::LockLimit { .. }), "{error}"),
            }
        });
        let mut most = 0;
        while !reader.is_finished() {
            most = most.max(file.cached_pages());
        }
        most
    });
    assert_eq!(most, 0);
}

#[test]
fn a_file_that_grows() {
    if !is_direct() {
        return;
    }
    let file = OnDisk::new("grows", 0);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut append = File::options().append(true).open(&file.0).unwrap();
            for index in 0..2_000_usize {
                append.write_all(&[pattern::byte(1, index); 700]).unwrap();
            }
            is_over.store(true, Ordering::SeqCst);
        });
        let mut longest = 0;
        while !is_over.load(Ordering::SeqCst) {
            let secret = SecretFile::open(&file.0).unwrap().read().unwrap();
            let expected = |index: usize| pattern::byte(1, index / 700);
            assert!(secret.expose().iter().enumerate().all(|(index, byte)| *byte == expected(index)));
            assert!(secret.len() >= longest, "what was there is there");
            longest = secret.len();
        }
    });
    assert_eq!(SecretFile::open(&file.0).unwrap().read().unwrap().len(), 2_000 * 700);
}

#[test]
fn what_is_in_the_cache_only_is_refused() {
    let shared_memory = PathBuf::from(format!("/dev/shm/oubliette-{}", std::process::id()));
    if fs::write(&shared_memory, b"key").is_err() {
        return skip::impossible("no /dev/shm");
    }
    let file = OnDisk(shared_memory);
    assert_eq!(SecretFile::open(&file.0).unwrap_err(), Error::CacheOnly);
    assert_eq!(read_into_secret(File::open(&file.0).unwrap()).unwrap_err(), Error::CacheOnly);
    assert_eq!(read_into_secret(File::open("/dev/null").unwrap()).unwrap_err(), Error::CacheOnly);
    assert!(matches!(SecretFile::open("/nowhere/at/all"), Err(Error::Os { errno: libc::ENOENT, .. })));
}
