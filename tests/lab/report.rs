//! The lines that the guest writes and the host reads.

/// Whether copies of a secret have to be in the guest's memory after its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copies {
    /// Not a page of it.
    None,
    /// At least one: a control.
    Some,
}

/// A line of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    Begin {
        kernel: &'a str,
    },
    Passed {
        name: &'a str,
    },
    Failed {
        name: &'a str,
        reason: &'a str,
    },
    Skipped {
        name: &'a str,
        reason: &'a str,
    },
    Search {
        name: &'a str,
        seed: u64,
        bytes: usize,
        copies: Copies,
        what: &'a str,
    },
    Done {
        count: usize,
    },
    /// What `init` tells of the program that runs the checks.
    RunnerEnded {
        status: &'a str,
    },
    /// What a check printed.
    Other,
}

/// Asks the host to look for secret number `seed` of `support::pattern`, of this many bytes, in the memory of the
/// guest after its end. The needle itself is in no message, so it is nowhere but where the check put it.
pub(crate) fn search(name: &str, seed: u64, bytes: usize, copies: Copies, what: &str) {
    let copies = if copies == Copies::None { "none" } else { "some" };
    println!("lab: {name} search {seed} {bytes} {copies} {what}");
}

/// Reads a line.
pub(crate) fn parse(line: &str) -> Line<'_> {
    if let Some(status) = line.strip_prefix("init: the runner ended with status ") {
        return Line::RunnerEnded { status };
    }
    let Some(rest) = line.strip_prefix("lab: ") else { return Line::Other };
    let (first, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let (second, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    match (first, second) {
        ("begin", kernel) => Line::Begin { kernel },
        ("done", count) => count.parse().map_or(Line::Other, |count| Line::Done { count }),
        (name, "passed") => Line::Passed { name },
        (name, "FAILED") => Line::Failed { name, reason },
        (name, "skipped") => Line::Skipped { name, reason },
        (name, "search") => parse_search(name, reason).unwrap_or(Line::Other),
        _ => Line::Other,
    }
}

fn parse_search<'a>(name: &'a str, rest: &'a str) -> Option<Line<'a>> {
    let mut words = rest.splitn(4, ' ');
    let seed = words.next()?.parse().ok()?;
    let bytes = words.next()?.parse().ok()?;
    let copies = match words.next()? {
        "none" => Copies::None,
        "some" => Copies::Some,
        _ => return None,
    };
    Some(Line::Search { name, seed, bytes, copies, what: words.next()? })
}
