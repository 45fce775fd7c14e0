//! Checks the rules of the tree that the compiler does not know. Run by `ci/layers`.
//!
//! ```text
//! global/ -> scope/ -> secret/ guarded/  ->  exit/ -> heap/  ->  pages/  ->  os/  wipe/  ->  sync  error  policy
//! dma/                 -> secret/            ->  exit/ -> heap/  ->  pages/
//! ```
//! 1. A module names only layers below its own.
//! 2. It names only what such a layer's `mod.rs` exports, never a file of it.
//! 3. System calls are made in `os/` only; files of tests may make them to arrange what they look at.
//! 4. Assembly and CPU intrinsics are in `wipe/`, `scope/` and `keys/` only, and in the one file of `heap/` that knows
//!    where a thread-local variable is.
//! 5. Each opt-in to `unsafe_code` stands under a comment `// UNSAFETY:` that tells why.
//! 6. No file is longer than 600 lines.
//!
//! Works on tokens, not on types: it sees paths, not what a macro makes of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What each module at the root of the crate may name, itself aside. Those that are not here may name nothing.
const LAYERS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("policy", &["error"]),
    ("sync", &[]),
    // What the unit tests of every layer share.
    ("testing", &["os"]),
    ("os", &["error", "policy", "sync"]),
    ("wipe", &["error", "policy", "sync"]),
    ("keys", &["error", "policy", "sync", "os"]),
    ("pages", &["error", "policy", "sync", "os", "wipe"]),
    ("heap", &["error", "policy", "sync", "os", "keys", "wipe", "pages"]),
    ("exit", &["error", "policy", "sync", "os", "wipe", "pages", "heap"]),
    (
        "report",
        &["error", "policy", "sync", "os", "keys", "wipe", "pages", "heap", "exit", "secret", "scope", "dma"],
    ),
    ("guarded", &["error", "policy", "sync", "os", "wipe", "pages", "heap", "exit"]),
    ("secret", &["error", "policy", "sync", "os", "keys", "wipe", "pages", "heap", "exit"]),
    ("scope", &["error", "policy", "sync", "os", "wipe", "pages", "heap", "exit", "secret"]),
    ("global", &["error", "policy", "sync", "os", "wipe", "pages", "heap", "exit", "secret", "scope"]),
    ("warm_up", &["error", "os", "wipe", "exit", "secret", "scope"]),
    ("dma", &["error", "policy", "sync", "os", "wipe", "pages", "heap", "exit", "secret"]),
    // Test support, under a feature of its own: opens the inside of layers to tests and fuzzers.
    ("fault", &["error", "policy", "os", "keys"]),
    ("fuzzing", &["error", "policy", "os", "wipe", "pages", "heap"]),
];

/// Modules that may reach into the files of the layers they may name.
const TEST_SUPPORT: &[&str] = &["fault", "fuzzing"];
/// The module for unit tests, which every layer may use: without `cfg(test)` it does not exist.
const UNIT_TESTING: &str = "testing";
/// Modules that a layer exports whole, as part of its contract.
const EXPORTED_MODULES: &[(&str, &str)] = &[("os", "fake"), ("os", "queue"), ("os", "direct"), ("os", "xdp")];
/// Crates that make system calls.
const SYSTEM_CRATES: &[&str] = &["libc", "windows_sys", "region", "getrandom", "io_uring"];
const SYSTEM_LAYERS: &[&str] = &["os"];
const ASSEMBLY_LAYERS: &[&str] = &["wipe", "scope", "keys"];
const ASSEMBLY_FILES: &[&str] = &["heap/held/initial_exec.rs"];
const MOST_LINES: usize = 600;

fn main() -> ExitCode {
    let root = std::env::args().nth(1).unwrap_or_else(|| "src".to_owned());
    let sources = match read_tree(Path::new(&root)) {
        Ok(sources) => sources,
        Err(error) => {
            eprintln!("{root}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let violations = check(&sources);
    for violation in &violations {
        println!("{root}/{violation}");
    }
    println!("{} files, {} violations", sources.len(), violations.len());
    if violations.is_empty() && !sources.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The text of each file, by its path below the root with `/` between the parts.
type Sources = BTreeMap<String, String>;

fn read_tree(root: &Path) -> std::io::Result<Sources> {
    let mut sources = Sources::new();
    let mut folders: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let parts: Vec<_> = path.strip_prefix(root).unwrap_or(&path).iter().collect();
                let name = parts.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/");
                sources.insert(name, fs::read_to_string(&path)?);
            }
        }
    }
    Ok(sources)
}

/// Every violation, as `file:line: what`.
fn check(sources: &Sources) -> Vec<String> {
    let tree = Tree::of(sources);
    let mut found = Vec::new();
    for (file, text) in sources {
        let mut tell = |line: usize, what: String| found.push(format!("{file}:{line}: {what}"));
        let lines = text.lines().count();
        if lines > MOST_LINES {
            tell(lines, format!("longer than {MOST_LINES} lines"));
        }
        let code = without_comments(text);
        check_unsafety(text, &code, &mut tell);
        if file != "lib.rs" {
            check_paths(&tree, file, &code, &mut tell);
        }
    }
    found
}

/// What is known of the whole tree.
struct Tree {
    /// The layer behind each name that `lib.rs` brings to the root.
    root_names: BTreeMap<String, String>,
    /// The modules right below each layer.
    submodules: BTreeMap<String, Vec<String>>,
}

impl Tree {
    fn of(sources: &Sources) -> Self {
        let mut root_names = BTreeMap::new();
        let lib = without_comments(sources.get("lib.rs").map_or("", String::as_str));
        let tokens = tokens(&lib);
        for (at, token) in tokens.iter().enumerate() {
            if token.text == "use" {
                for path in use_tree(&tokens, at + 1).0 {
                    if let [first, .., last] = &path[..] {
                        root_names.insert(last.clone(), first.clone());
                    }
                }
            }
        }
        for (layer, _) in LAYERS {
            root_names.insert((*layer).to_owned(), (*layer).to_owned());
        }
        let mut submodules: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for file in sources.keys() {
            if let [layer, sub, ..] = &module_path(file)[..] {
                submodules.entry(layer.clone()).or_default().push(sub.clone());
            }
        }
        Self { root_names, submodules }
    }

    fn is_submodule(&self, layer: &str, name: &str) -> bool {
        self.submodules.get(layer).is_some_and(|subs| subs.iter().any(|sub| sub == name))
    }
}

/// `heap/facade/private.rs` is `["heap", "facade", "private"]`, `heap/mod.rs` is `["heap"]`.
fn module_path(file: &str) -> Vec<String> {
    let mut path: Vec<String> = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if path.last().is_some_and(|last| last == "mod" || last == "lib") {
        path.pop();
    }
    path
}

fn check_unsafety(text: &str, code: &str, tell: &mut impl FnMut(usize, String)) {
    let lines: Vec<&str> = text.lines().collect();
    for (index, line) in code.lines().enumerate() {
        if !line.contains("unsafe_code") {
            continue;
        }
        // Upwards over the attribute itself, other attributes and comments, to the first blank line or code.
        let is_told = lines[..=index]
            .iter()
            .rev()
            .map(|line| line.trim())
            .take_while(|line| !line.is_empty() && !line.ends_with(['}', ';', '{']))
            .any(|line| line.starts_with("// UNSAFETY:"));
        if !is_told {
            tell(index + 1, "opts in to `unsafe_code` without a comment `// UNSAFETY:` above".to_owned());
        }
    }
}

fn check_paths(tree: &Tree, file: &str, code: &str, tell: &mut impl FnMut(usize, String)) {
    let module = module_path(file);
    let own = module[0].as_str();
    let allowed = LAYERS.iter().find(|(layer, _)| *layer == own).map(|(_, below)| *below);
    let has_assembly = ASSEMBLY_LAYERS.contains(&own) || ASSEMBLY_FILES.contains(&file);
    if allowed.is_none() {
        tell(1, format!("`{own}` is no layer: ci/layers.rs has to say what it may use"));
    }
    let tokens = tokens(code);
    // Inline modules around the token at hand: the depth of braces at which each ends.
    let (mut depth, mut inline) = (0_usize, Vec::new());
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let text = |ahead: usize| tokens.get(at + ahead).map_or("", |token| token.text);
        match token.text {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                inline.pop_if(|end| *end == depth);
            }
            "mod" if text(2) == "{" => inline.push(depth),
            "asm" | "global_asm" | "naked_asm" if text(1) == "!" && !has_assembly => {
                tell(token.line, format!("assembly outside {ASSEMBLY_LAYERS:?}"));
            }
            _ => {}
        }
        let begins_path = text(1) == "::" && (at == 0 || tokens[at - 1].text != "::");
        if !begins_path {
            at += 1;
            continue;
        }
        let may_call = SYSTEM_LAYERS.contains(&own)
            || module.last().is_some_and(|last| last == "tests" || last == UNIT_TESTING);
        if SYSTEM_CRATES.contains(&token.text) && !may_call {
            tell(token.line, format!("`{}` outside {SYSTEM_LAYERS:?}", token.text));
        }
        if matches!(token.text, "core" | "std") && text(2) == "arch" && !has_assembly {
            tell(token.line, format!("CPU intrinsics outside {ASSEMBLY_LAYERS:?}"));
        }
        let (paths, end) = use_tree(&tokens, at);
        for path in paths {
            if let Some(path) = from_root(&module, inline.len(), &path) {
                check_path(tree, own, allowed.unwrap_or(&[]), &path, token.line, tell);
            }
        }
        at = end.max(at + 1);
    }
}

/// The path from the root of the crate that `path` means in a module, if it leaves the layer or could.
fn from_root(module: &[String], inline: usize, path: &[String]) -> Option<Vec<String>> {
    let supers = path.iter().take_while(|part| *part == "super").count();
    match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "super" if supers == module.len() + inline => Some(path[supers..].to_vec()),
        // A layer that was imported by its name.
        first if LAYERS.iter().any(|(layer, _)| *layer == first) && first != module[0] => Some(path.to_vec()),
        _ => None,
    }
}

fn check_path(
    tree: &Tree,
    own: &str,
    allowed: &[&str],
    path: &[String],
    line: usize,
    tell: &mut impl FnMut(usize, String),
) {
    let Some(layer) = path.first().and_then(|name| tree.root_names.get(name)) else { return };
    if layer == own {
        return;
    }
    if !allowed.contains(&layer.as_str()) && layer != UNIT_TESTING {
        tell(line, format!("`{own}` names `{layer}` (`{}`), which is not below it", path.join("::")));
        return;
    }
    // A last part may be a function of the same name as a file, so it has to be followed by something.
    if let [first, sub, _, ..] = path
        && first == layer
        && tree.is_submodule(layer, sub)
        && !TEST_SUPPORT.contains(&own)
        && !EXPORTED_MODULES.contains(&(layer.as_str(), sub.as_str()))
    {
        tell(line, format!("`{}` reaches past what {layer}/mod.rs exports", path.join("::")));
    }
}

struct Token<'a> {
    text: &'a str,
    line: usize,
}

/// Identifiers, `::`, and single characters of everything else but blanks.
fn tokens(code: &str) -> Vec<Token<'_>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    for (index, mut rest) in code.lines().enumerate() {
        while let Some(first) = rest.chars().next() {
            let len = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            let (text, after) = rest.split_at(len);
            if !first.is_whitespace() {
                tokens.push(Token { text, line: index + 1 });
            }
            rest = after;
        }
    }
    tokens
}

/// Every path of the tree that begins at token `at`, as in `a::{b, c::d as e}`; and the token behind it.
fn use_tree(tokens: &[Token<'_>], mut at: usize) -> (Vec<Vec<String>>, usize) {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let is_name = |text: &str| text.starts_with(|c: char| c.is_alphabetic() || c == '_');
    if text(at) == "{" {
        let mut paths = Vec::new();
        at += 1;
        while !matches!(text(at), "}" | "") {
            let (inner, end) = use_tree(tokens, at);
            paths.extend(inner);
            // At the comma, or at what is no use tree, as in a block.
            at = if end == at { at + 1 } else { end };
            if text(at) == "," {
                at += 1;
            }
        }
        return (paths, at + 1);
    }
    if !is_name(text(at)) {
        return (Vec::new(), at);
    }
    let head = text(at).to_owned();
    at += 1;
    if text(at) == "::" && (is_name(text(at + 1)) || text(at + 1) == "{") {
        let (tails, end) = use_tree(tokens, at + 1);
        let whole = |tail: Vec<String>| [head.clone()].into_iter().chain(tail).collect();
        return (tails.into_iter().map(whole).collect(), end);
    }
    if text(at) == "as" {
        // The name that it gets here.
        return (vec![vec![head, text(at + 1).to_owned()]], at + 2);
    }
    (vec![vec![head]], at)
}

/// The text with comments and the contents of literals blanked out, line by line as before.
fn without_comments(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let len = skipped(rest, code.chars().next_back());
        let (piece, after) = rest.split_at(len.unwrap_or(first.len_utf8()));
        if len.is_some() {
            piece.chars().for_each(|c| code.push(if c == '\n' { c } else { ' ' }));
        } else {
            let _ = code.write_str(piece);
        }
        rest = after;
    }
    code
}

/// The length of the comment or literal that `rest` begins with, if it does.
fn skipped(rest: &str, before: Option<char>) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        let (mut depth, mut at) = (0_usize, 0);
        loop {
            let tail = rest.get(at..).unwrap_or("");
            if tail.is_empty() {
                return Some(rest.len());
            } else if tail.starts_with("/*") {
                (depth, at) = (depth + 1, at + 2);
            } else if tail.starts_with("*/") {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return Some(at);
                }
            } else {
                at += tail.chars().next().map_or(1, char::len_utf8);
            }
        }
    }
    let is_in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with('r') && !is_in_word {
        let hashes = rest[1..].chars().take_while(|c| *c == '#').count();
        if rest[1 + hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = 2 + hashes;
            return Some(rest[body..].find(&end).map_or(rest.len(), |at| body + at + end.len()));
        }
    }
    let quote = rest.chars().next()?;
    // 'x' and '\n' are characters, 'x without an end is a lifetime.
    let is_char = quote == '\'' && (rest[1..].starts_with('\\') || rest.chars().nth(2) == Some('\''));
    if quote != '"' && !is_char {
        return None;
    }
    let mut is_escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if c == quote && !is_escaped {
            return Some(at + 1);
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    Some(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIB: &str =
        "mod os; mod heap; mod secret;\npub use error::{Error, Operation};\npub use secret::SecretBox;";

    /// What is found in a tree of `lib.rs`, two files of `heap/` and one more.
    fn found(file: &str, text: &str) -> Vec<String> {
        let files = [("lib.rs", LIB), ("heap/mod.rs", ""), ("heap/slab.rs", ""), (file, text)];
        check(&files.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect())
    }

    #[track_caller]
    fn assert_caught(file: &str, text: &str, what: &str) {
        let found = found(file, text);
        assert!(found.len() == 1 && found[0].contains(what), "{text:?}: {found:?}");
    }

    #[track_caller]
    fn assert_clean(file: &str, text: &str) {
        assert_eq!(found(file, text), [""; 0], "{text:?}");
    }

    #[test]
    fn upward_imports_are_caught() {
        assert_caught("os/a.rs", "use crate::heap::of;", "names `heap`");
        assert_caught("os/a.rs", "fn f() { crate::heap::flush_all() }", "names `heap`");
        assert_caught("os/a.rs", "use crate::{Error, heap::of};", "names `heap`");
        assert_caught("os/a.rs", "\n\nuse crate::SecretBox;", ":3:");
        assert_caught("wipe/a.rs", "use crate::os;", "names `os`");
        assert_caught("pages/mod.rs", "use super::heap;", "names `heap`");
        assert_caught("pages/a.rs", "use super::super::heap;", "names `heap`");
        assert_caught(
            "pages/a.rs",
            "mod tests { mod deep { use super::super::super::super::heap; } }",
            "`heap`",
        );
        assert_caught("dma/a.rs", "use crate::scope::x;", "names `scope`");
        assert_clean("os/tests.rs", "use crate::testing::dies;");
        assert_caught("sync.rs", "use crate::Error;", "names `error`");
        assert_caught("new/mod.rs", "", "is no layer");
    }

    #[test]
    fn downward_imports_are_clean() {
        assert_clean("secret/a.rs", "use crate::{Error, heap::{self, of}, wipe};\nuse super::b::c;");
        assert_clean("heap/a.rs", "fn f() { <A as B>::c(); D::<E>::g(); { (F {}) :: h } }");
        assert_clean("heap/a.rs", "use crate::os::{self, Errno}; mod t { use super::super::slab::X; }");
        assert_clean("heap/facade/private.rs", "use super::super::slab::X; use crate::heap::slab::Y;");
        assert_clean(
            "os/a.rs",
            "// use crate::heap::of;\n/* crate::heap /* */ */ const A: &str = \"crate::heap::x\";",
        );
        assert_clean(
            "os/a.rs",
            "const A: &str = r#\"\" crate::heap::x\"#; fn f<'a>(b: &'a u8) -> char { '\"' }",
        );
    }

    #[test]
    fn reaching_past_mod_rs_is_caught() {
        assert_caught("secret/a.rs", "use crate::heap::slab::Local;", "reaches past");
        assert_caught("secret/a.rs", "use crate::heap::{of, slab::{Local}};", "reaches past");
        assert_caught("secret/a.rs", "use crate::heap; fn f() { heap::slab::g() }", "reaches past");
        assert_clean("secret/a.rs", "use crate::heap; fn f() { heap::slab(1) }");
        assert_clean("fuzzing.rs", "use crate::heap::slab::Local;");
    }

    #[test]
    fn system_calls_and_assembly_outside_their_layers_are_caught() {
        assert_caught("heap/a.rs", "fn f() { let _ = libc::getpid(); }", "`libc` outside");
        assert_caught("heap/a.rs", "use libc::{c_int, mmap};", "`libc` outside");
        assert_clean("os/a.rs", "use libc::mmap;");
        assert_clean("heap/tests.rs", "use libc::mmap;");
        assert_caught("heap/a.rs", "core::arch::asm!(\"nop\");", "CPU intrinsics outside");
        assert_caught("heap/a.rs", "asm!(\"nop\");", "assembly outside");
        assert_caught("heap/a.rs", "naked_asm!(\"ret\")", "assembly outside");
        assert_caught("heap/held/mod.rs", "global_asm!(\"nop\")", "assembly outside");
        assert_clean("heap/held/initial_exec.rs", "use core::arch::asm; fn f() { asm!(\"nop\") }");
        assert_caught("os/a.rs", "use std::arch::x86_64::_mm_clflush;", "CPU intrinsics outside");
        assert_clean("wipe/a.rs", "use core::arch::asm; fn f() { asm!(\"nop\") }");
    }

    #[test]
    fn unsafe_code_without_its_reason_is_caught() {
        const OPT_IN: &str = "#![expect(unsafe_code, reason = \"calls\")]\n";
        assert_caught("heap/a.rs", OPT_IN, "UNSAFETY");
        assert_caught("heap/a.rs", &format!("// UNSAFETY: calls.\nuse x;\n{OPT_IN}"), "UNSAFETY");
        assert_caught("heap/a.rs", "#![allow(\n    unsafe_code,\n)]", ":2:");
        assert_clean("heap/a.rs", &format!("//! Doc.\n\n// UNSAFETY: calls\n// it.\n{OPT_IN}"));
        assert_clean("heap/a.rs", "// UNSAFETY: tests.\n#![allow(\n    unsafe_code,\n)]");
        assert_clean("heap/a.rs", "// no unsafe_code here");
    }

    #[test]
    fn long_files_are_caught() {
        assert_caught("heap/a.rs", &"\n".repeat(601), "longer");
        assert_clean("heap/a.rs", &"\n".repeat(600));
    }
}
