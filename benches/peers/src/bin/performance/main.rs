//! Makes `docs/performance.md` and its plots from what a run of the benchmarks left behind.
//!
//! `performance RUN DOCS`: `RUN` holds `figures.tsv`, `secure.tsv` (the run with mimalloc's secure mode) and
//! criterion's folders `criterion` and `criterion-secure`.

mod criterion;
mod machine;
mod plot;
mod table;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use oubliette_peers::figures::{self, Point};

use crate::criterion::Times;
use crate::table::Table;

const HOME: &str = "Oubliette";
const SECURE: &str = "mimalloc secure";

/// All that was measured.
struct Run {
    points: Vec<Point>,
    secure_points: Vec<Point>,
    times: Times,
    secure_times: Times,
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let (Some(run), Some(docs)) = (arguments.next(), arguments.next()) else {
        panic!("usage: performance RUN DOCS");
    };
    let points = |name: &str| figures::read(&fs::read_to_string(run.join(name)).unwrap_or_default());
    let run = Run {
        points: points("figures.tsv"),
        secure_points: points("secure.tsv"),
        times: criterion::read(&run.join("criterion")),
        secure_times: criterion::read(&run.join("criterion-secure")),
    };
    let plots = docs.join("performance");
    fs::create_dir_all(&plots).unwrap();
    let mut text = String::from(HEADER);
    writeln!(text, "Measured on: {}.\n", machine::describe()).unwrap();
    secrets(&run, &mut text);
    mixes(&run, &mut text);
    programs(&run, &mut text);
    latencies(&run, &mut text);
    memory(&run, &mut text);
    grown(&run, &plots, &mut text);
    fs::write(docs.join("performance.md"), text).unwrap();
}

const HEADER: &str = "# Performance

Written by `benches/peers/run`; edit `benches/peers/src/bin/performance` instead. Times are of a shared machine and
drift; ratios are of one run and hold better. \"Oubliette\" is the whole-program heap as it is by default: blocks are
wiped and their lines pushed past the caches within a bound, checked for overflow and for writes after free, and
locked. \"Flush off\" leaves the caches to themselves. mimalloc's secure mode is measured in a run of its own, beside
System and Oubliette again, and shown as its ratio there.

";

fn secrets(run: &Run, text: &mut String) {
    text.push_str("## Single secrets\n\nNanoseconds for making, writing and dropping one.\n\n");
    let group = "32 bytes: new + drop";
    let mut table = Table::new(["32 bytes", "ns", "against `SecretBox`, flush off"]);
    let own = run.times.get(group, "SecretBox, flush off");
    let mut rows = run.times.of_group(group);
    rows.sort_by(|a, b| a.1.total_cmp(&b.1));
    for (name, time) in rows {
        table.row([name.to_owned(), table::number(time), table::ratio(own.map(|own| time / own))]);
    }
    table.print(text);
    if let (Some(line), Some(immediate)) = (
        run.times.get("one line: write + clflushopt + mfence", ""),
        run.times.get(group, "SecretBox, flush immediate"),
    ) {
        writeln!(
            text,
            "Writing one line, flushing it and waiting costs {} ns: `Flush::Immediate` takes {:.2} times that.\n",
            table::number(line),
            immediate / line
        )
        .unwrap();
    }
    let mut table = Table::new(["others alive", "ns"]);
    for (name, time) in run.times.of_group("32 bytes: new + drop among others") {
        table.row([name.to_owned(), table::number(time)]);
    }
    table.print(text);
    let names = [
        "SecretVec, flush off",
        "SecretVec, flush bounded",
        "SecretVec, flush immediate",
        "memsec",
        "secrets (libsodium)",
        "OpenSSL secure heap",
        "libgcrypt secure heap",
    ];
    let mut table = Table::new(["bytes"].into_iter().chain(names));
    for bytes in [16, 64, 256, 1024, 4096, 16_384, 65_536] {
        let group = format!("{bytes} bytes: new + drop");
        let times = names.map(|name| run.times.get(&group, name).map_or("-".to_owned(), table::number));
        table.row([bytes.to_string()].into_iter().chain(times));
    }
    table.print(text);
}

fn mixes(run: &Run, text: &mut String) {
    text.push_str(
        "## Whole programs' mixes\n\nTime against System's in the same run; below 1 is faster. \"Churn\" replaces \
         blocks of program-like sizes at random among 1,000 alive; \"hand over\" frees every block on another \
         thread than allocated it.\n\n",
    );
    let groups = [
        "churn, 1 threads",
        "churn, 2 threads",
        "churn, 4 threads",
        "producer and consumer, 100 bytes",
        "hand over, 2 threads",
        "hand over, 4 threads",
        "growth by realloc, 16 B to 1 MiB",
    ];
    let mut table = Table::new(["allocator"].into_iter().chain(groups));
    let mut row = |name: &str, times: &Times| {
        let ratio = |group| Some(times.get(group, name)? / times.get(group, "System")?);
        table.row([name.to_owned()].into_iter().chain(groups.map(|group| table::ratio(ratio(group)))));
    };
    for (name, _) in run.times.of_group(groups[0]) {
        row(name, &run.times);
    }
    row(SECURE, &run.secure_times);
    table.print(text);

    text.push_str("How much more two and four threads get done than one (two cores):\n\n");
    let mut table = Table::new(["allocator", "2 threads", "4 threads"]);
    for (name, one) in run.times.of_group(groups[0]) {
        let scale =
            |threads: f64, group| table::ratio(run.times.get(group, name).map(|time| threads * one / time));
        table.row([name.to_owned(), scale(2.0, groups[1]), scale(4.0, groups[2])]);
    }
    table.print(text);
}

fn programs(run: &Run, text: &mut String) {
    text.push_str(
        "## Rust programs\n\nProcessor time and peak memory against System, the median of runs in turn \
         (`benches/peers/src/programs`).\n\n",
    );
    for (what, title) in [("processor time", "processor time"), ("peak memory", "peak memory")] {
        let prefix = format!("{what} against System: ");
        let of_run = |points: &[Point]| -> Vec<Point> {
            points.iter().filter(|point| point.figure.starts_with(&prefix)).cloned().collect()
        };
        let points = of_run(&run.points);
        let mut columns: Vec<String> = Vec::new();
        let mut names: Vec<String> = Vec::new();
        for point in &points {
            push_new(&mut columns, &point.figure);
            push_new(&mut names, &point.series);
        }
        let heads = columns.iter().map(|column| column.trim_start_matches(&prefix));
        let mut table = Table::new([title].into_iter().chain(heads));
        let secure = of_run(&run.secure_points);
        let all = names.iter().map(|name| (name.as_str(), &points)).chain([(SECURE, &secure)]);
        for (name, points) in all {
            let cell = |column: &String| {
                table::ratio(points.iter().find(|p| p.figure == *column && p.series == name).map(|p| p.y))
            };
            table.row([name.to_owned()].into_iter().chain(columns.iter().map(cell)));
        }
        table.print(text);
    }
}

fn latencies(run: &Run, text: &mut String) {
    text.push_str("## Latencies\n\nNanoseconds, the clock's own cost included.\n\n");
    for figure in ["latency of one allocation or free", "latency of new + drop, 32 bytes"] {
        let mut table = Table::new([figure, "p50", "p99", "p99.9", "p99.99"]);
        let mut names = Vec::new();
        for point in run.points.iter().filter(|point| point.figure == figure) {
            push_new(&mut names, &point.series);
        }
        for name in names {
            let cell = |percentile: f64| {
                let found = |p: &&Point| p.figure == figure && p.series == name && p.x == percentile;
                run.points.iter().find(found).map_or("-".to_owned(), |point| table::number(point.y))
            };
            let cells = [50.0, 99.0, 99.9, 99.99].map(cell);
            table.row([name.clone()].into_iter().chain(cells));
        }
        table.print(text);
    }
}

fn memory(run: &Run, text: &mut String) {
    text.push_str(
        "## Memory\n\nEach in a process of its own, after 300,000 blocks of program-like sizes.\n\n",
    );
    let figure = "resident bytes a live byte";
    let mut table = Table::new([figure, "all alive", "half freed at random"]);
    let all = run.points.iter().chain(run.secure_points.iter().filter(|point| point.series == SECURE));
    let points: Vec<_> = all.filter(|point| point.figure == figure).collect();
    for point in points.iter().filter(|point| point.x == 1.0) {
        let half = points.iter().find(|other| other.series == point.series && other.x == 2.0);
        table.row([point.series.clone(), table::ratio(Some(point.y)), table::ratio(half.map(|p| p.y))]);
    }
    table.print(text);
    let [resident, locked] = ["resident bytes a secret of 32 bytes", "locked bytes a secret of 32 bytes"];
    let mut table = Table::new(["10,000 secrets of 32 bytes", "resident bytes each", "locked bytes each"]);
    for point in run.points.iter().filter(|point| point.figure == resident) {
        let locked = run.points.iter().find(|other| other.figure == locked && other.series == point.series);
        table.row([
            point.series.clone(),
            table::number(point.y),
            locked.map_or("-".to_owned(), |point| table::number(point.y)),
        ]);
    }
    table.print(text);
}

fn grown(run: &Run, plots: &Path, text: &mut String) {
    text.push_str("## How cost grows\n\n");
    let all = [
        ("alloc + free of 48 bytes, ns, by blocks alive", "alive.svg", "blocks alive"),
        ("replacing a random block of 48 bytes, ns, by blocks alive", "random.svg", "blocks alive"),
        ("alloc + free, program-like sizes, ns of processor time, by threads", "threads.svg", "threads"),
        ("alloc + touch + free, ns, by size", "size.svg", "bytes"),
        ("wiping, GB a second", "wipe.svg", "bytes"),
    ];
    for (figure, file, x) in all {
        let points: Vec<_> = run.points.iter().filter(|point| point.figure == figure).collect();
        if points.is_empty() {
            continue;
        }
        plot::draw(&plots.join(file), figure, x, &points);
        writeln!(text, "![{figure}](performance/{file})\n").unwrap();
        let mut names = Vec::new();
        let mut places: Vec<f64> = Vec::new();
        for point in &points {
            push_new(&mut names, &point.series);
            if !places.contains(&point.x) {
                places.push(point.x);
            }
        }
        let heads = names.iter().map(String::as_str);
        let mut table = Table::new([x].into_iter().chain(heads));
        for place in places {
            let cell = |name: &String| {
                let found = points.iter().find(|point| point.x == place && point.series == *name);
                found.map_or("-".to_owned(), |point| table::number(point.y))
            };
            table.row([format!("{place}")].into_iter().chain(names.iter().map(cell)));
        }
        writeln!(text, "<details><summary>{figure}: the numbers</summary>\n").unwrap();
        table.print(text);
        text.push_str("</details>\n\n");
    }
    writeln!(text, "The line to look at is {HOME}'s own: flat where the others are flat.").unwrap();
}

fn push_new(list: &mut Vec<String>, name: &str) {
    if !list.iter().any(|other| other == name) {
        list.push(name.to_owned());
    }
}
