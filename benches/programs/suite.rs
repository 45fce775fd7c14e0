//! The programs of Debian.

/// One program, and how it is run in the folder of inputs.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    /// The file that is started, and its arguments.
    pub(crate) command: Vec<String>,
    pub(crate) environment: &'static [(&'static str, &'static str)],
    /// The file that it reads from its standard input.
    pub(crate) input: Option<String>,
    pub(crate) kind: Kind,
}

/// How the work is done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Runs to its end and writes a result to its standard output, the same each time.
    Batch,
    /// Runs to its end and prints, for example, how long that took: its outputs cannot be compared.
    Varying,
    /// Runs for a fixed time and prints how much it did in it, of which this makes the seconds that count.
    /// Its outputs cannot be compared either.
    FixedTime(fn(&str) -> Option<f64>),
    /// The same on a fresh copy of the folder `repository`, since it changes that.
    OnRepository,
    /// A redis server, which works for a client that is not measured.
    Redis,
}

fn batch(name: &'static str, command: &[&str], input: Option<&str>) -> Program {
    let command = command.iter().map(ToString::to_string).collect();
    Program { name, command, environment: &[], input: input.map(str::to_owned), kind: Kind::Batch }
}

pub(crate) fn programs() -> Vec<Program> {
    vec![
        batch("gawk", &["/usr/bin/gawk", "-f", "count.awk"], Some("words.txt")),
        batch("perl", &["/usr/bin/perl", "index.pl"], Some("words.txt")),
        Program {
            environment: &[("PYTHONMALLOC", "malloc"), ("PYTHONHASHSEED", "0")],
            ..batch("python3", &["/usr/bin/python3", "records.py", "records.json"], None)
        },
        batch("sqlite3", &["/usr/bin/sqlite3", ":memory:"], Some("shop.sql")),
        batch("lua5.4", &["/usr/bin/lua5.4", "trees.lua"], None),
        batch(
            "jq",
            &[
                "/usr/bin/jq",
                "-c",
                "group_by(.name)|map({n:.[0].name,s:(map(.price*.stock)|add),t:(map(.tags[])|unique)})",
            ],
            Some("records.json"),
        ),
        batch(
            "g++",
            &["/usr/bin/g++", "-std=c++17", "-O1", "-S", "-o", "/dev/stdout", "containers.cc"],
            None,
        ),
        batch("xsltproc", &["/usr/bin/xsltproc", "report.xsl", "records.xml"], None),
        batch("openssl", &["/usr/bin/openssl", "storeutl", "-noout", "-text", "-certs", "bundle.pem"], None),
        batch(
            "gnuplot",
            &["/usr/bin/gnuplot", "-e", "set terminal svg; plot 'points.txt' smooth bezier, '' with dots"],
            None,
        ),
        Program {
            kind: Kind::OnRepository,
            ..batch(
                "git",
                &["/usr/bin/git", "-c", "pack.threads=1", "repack", "-adfq", "--depth=20", "--window=10"],
                None,
            )
        },
        Program {
            kind: Kind::Redis,
            ..batch("redis", &["/usr/bin/redis-server", "--port", "0", "--save", "", "--unixsocket"], None)
        },
    ]
}
