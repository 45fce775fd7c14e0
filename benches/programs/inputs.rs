//! What the programs work on: made anew, the same each time.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A generator that gives the same numbers each time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// Common words are common: the smaller the commoner.
    fn word(&mut self) -> String {
        let rank = self.below(300) * self.below(300);
        format!("w{rank:x}")
    }
}

/// Makes the folder with all inputs.
pub(crate) fn make() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    words(&folder.join("words.txt"));
    json(&folder.join("records.json"));
    xml(&folder.join("records.xml"));
    points(&folder.join("points.txt"));
    for (name, text) in [
        ("shop.sql", include_str!("shop.sql")),
        ("trees.lua", include_str!("trees.lua")),
        ("count.awk", include_str!("count.awk")),
        ("index.pl", include_str!("index.pl")),
        ("records.py", include_str!("records.py")),
        ("report.xsl", include_str!("report.xsl")),
        ("containers.cc", include_str!("containers.cc")),
    ] {
        fs::write(folder.join(name), text).unwrap();
    }
    certificates(&folder);
    repository(&folder.join("repository"));
    folder
}

fn file(path: &Path) -> BufWriter<File> {
    BufWriter::new(File::create(path).unwrap())
}

fn words(path: &Path) {
    let (mut numbers, mut out) = (Numbers(7), file(path));
    for _ in 0..120_000 {
        let mut line = String::new();
        for _ in 0..=numbers.below(12) {
            let _ = write!(line, "{} ", numbers.word());
        }
        writeln!(out, "{line}").unwrap();
    }
}

fn json(path: &Path) {
    let (mut numbers, mut out) = (Numbers(8), file(path));
    write!(out, "[").unwrap();
    for id in 0..40_000 {
        let comma = if id == 0 { "" } else { "," };
        let (name, tag, other) = (numbers.word(), numbers.word(), numbers.word());
        let (price, stock) = (numbers.below(100_000), numbers.below(50));
        write!(
            out,
            "{comma}{{\"id\":{id},\"name\":\"{name}\",\"tags\":[\"{tag}\",\"{other}\"],\"price\":{price},\"stock\":{stock}}}"
        )
        .unwrap();
    }
    writeln!(out, "]").unwrap();
}

fn xml(path: &Path) {
    let (mut numbers, mut out) = (Numbers(9), file(path));
    writeln!(out, "<?xml version=\"1.0\"?>\n<shop>").unwrap();
    for id in 0..40_000 {
        let (name, tag) = (numbers.word(), numbers.word());
        let (group, price) = (numbers.below(40), numbers.below(100_000));
        writeln!(out, "<item id=\"{id}\" group=\"g{group}\"><name>{name}</name><tag>{tag}</tag><price>{price}</price></item>")
            .unwrap();
    }
    writeln!(out, "</shop>").unwrap();
}

fn points(path: &Path) {
    let (mut numbers, mut out) = (Numbers(10), file(path));
    for x in 0..150_000 {
        writeln!(out, "{x} {}", numbers.below(1000)).unwrap();
    }
}

/// A bundle of certificates, all different.
fn certificates(folder: &Path) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-keyout", "key.pem", "-out", "one.pem", "-days", "30", "-subj", "/CN=one"])
        .current_dir(folder)
        .stderr(Stdio::null())
        .status();
    if made.is_ok_and(|status| status.success()) {
        let one = fs::read(folder.join("one.pem")).unwrap();
        let mut out = file(&folder.join("bundle.pem"));
        for _ in 0..1500 {
            out.write_all(&one).unwrap();
        }
    }
}

/// A repository with some history, and nothing packed.
fn repository(path: &Path) {
    fs::create_dir_all(path).unwrap();
    let quiet = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(path).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    if quiet(&["init", "-q", "--bare"]).status().is_err() {
        return;
    }
    let mut import = quiet(&["fast-import", "--quiet"]).stdin(Stdio::piped()).spawn().unwrap();
    history(BufWriter::new(import.stdin.take().unwrap()));
    import.wait().unwrap();
}

/// What git-fast-import(1) reads: commits that change some lines of some files.
fn history(mut out: impl Write) {
    let mut numbers = Numbers(11);
    for commit in 0..300_u64 {
        let message = format!("change {commit}\n");
        let seconds = 1_700_000_000 + commit;
        write!(out, "commit refs/heads/main\ncommitter A <a@example.org> {seconds} +0000\n").unwrap();
        write!(out, "data {}\n{message}", message.len()).unwrap();
        for _ in 0..20 {
            let name = numbers.below(400);
            let mut text = String::new();
            for line in 0..200 {
                let _ = writeln!(text, "line {line} of {name}: {}", numbers.below(1 + commit));
            }
            write!(out, "M 100644 inline d{}/f{name}\ndata {}\n{text}\n", name % 20, text.len()).unwrap();
        }
    }
}
