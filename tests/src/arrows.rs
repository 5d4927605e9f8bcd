//! Reads a source tree and tells which of the architecture's rules it breaks.

use std::path::{Path, PathBuf};

/// A module may use only what stands before it.
pub const ORDER: &[&str] = &[
    "error",
    "types",
    "options",
    "telemetry",
    "wire",
    "crypto",
    "protocol",
    "runtime",
    "state",
    "transport",
    "punch",
    "discovery",
    "relay",
    "nat",
    "client",
    "node",
    "directory",
    "gateway",
    "bridge",
    "measured",
    "fuzzing",
];

/// Modules that take bytes and time and return bytes and deadlines.
pub const PURE: &[&str] = &["wire", "crypto", "protocol"];

/// What a pure module must not name: runtimes, sockets, clocks, files and threads.
const IMPURE: &[&str] = &[
    "tokio",
    "tokio_util",
    "hyper",
    "hyper_util",
    "reqwest",
    "axum",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "Instant::now",
    "SystemTime::now",
    "std::fs",
    "std::thread",
];

/// The longest a source file may get.
pub const MOST_LINES: usize = 700;

/// Every broken rule below `src`, a crate's source directory, one sentence each.
///
/// # Errors
/// What cannot be read.
pub fn broken(src: &Path) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    let root = std::fs::read_to_string(src.join("lib.rs")).unwrap_or_default();
    let only_tests = test_modules(&code_only(&root));
    for file in rust_files(src)? {
        let inside = file.strip_prefix(src).unwrap_or(&file);
        let text = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let path = module_path(inside);
        let Some(module) = path.first() else { continue };
        if only_tests.contains(module) {
            continue;
        }
        let Some(place) = ORDER.iter().position(|name| name == module) else {
            found.push(format!("{}: module {module} has no place in the order", inside.display()));
            continue;
        };
        let code = code_only(&text);
        for (line, used) in uses(&code, path.len()) {
            let at = format!("{}:{line}", inside.display());
            match ORDER.iter().position(|name| *name == used) {
                Some(other) if other > place => {
                    found.push(format!("{at}: {module} uses {used}, which stands below it"))
                }
                Some(_) => {}
                None => found.push(format!("{at}: crate::{used} is no module; name the module that it comes from")),
            }
        }
        if PURE.contains(&module.as_str()) {
            found.extend(
                impure(&code).map(|(line, name)| {
                    format!("{}:{line}: {module} is pure and must not name {name}", inside.display())
                }),
            );
        }
    }
    Ok(found)
}

/// A sentence for every file below `src` that is longer than [`MOST_LINES`].
///
/// # Errors
/// What cannot be read.
pub fn long_files(src: &Path) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    for file in rust_files(src)? {
        let text = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        found.extend(too_long(&file, &text));
    }
    Ok(found)
}

fn too_long(file: &Path, text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > MOST_LINES).then(|| format!("{}: {lines} lines; split it, {MOST_LINES} are the most", file.display()))
}

fn rust_files(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))? {
        let path = entry.map_err(|e| e.to_string())?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// `node/serve.rs` is `["node", "serve"]`; the crate's own root and its programs have no module path.
fn module_path(inside: &Path) -> Vec<String> {
    let mut path: Vec<String> =
        inside.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if path.last().is_some_and(|last| last == "mod") {
        path.pop();
    }
    if path == ["lib"] || path.first().is_some_and(|first| first == "bin") {
        return Vec::new();
    }
    path
}

/// Modules of the crate's root that exist in tests only. They stand outside the order: they may use every module, and
/// whoever uses them is told that they are none.
fn test_modules(root: &str) -> Vec<String> {
    let declared = root.match_indices("#[cfg(test)]").filter_map(|(at, attribute)| {
        let name = root[at + attribute.len()..].trim_start().strip_prefix("mod ")?;
        name.split_once(';').map(|(name, _)| name.trim().to_owned())
    });
    declared.filter(|name| name.chars().all(is_word)).collect()
}

/// Blanks comments and the insides of strings, keeping line breaks.
fn code_only(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(quotes) = raw_string(rest) {
            let close = format!("\"{}", "#".repeat(quotes));
            let open = 2 + quotes;
            rest[open..].find(&close).map_or(rest.len(), |end| open + end + close.len())
        } else if first == '"' {
            string(rest)
        } else if let Some(length) = char_literal(rest) {
            length
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        out.extend(rest[..skipped].chars().map(|c| if c == '\n' { c } else { ' ' }));
        rest = &rest[skipped..];
    }
    out
}

/// The number of hashes of the raw string that begins here.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text.strip_prefix('r')?;
    let quotes = hashes.len() - hashes.trim_start_matches('#').len();
    hashes[quotes..].starts_with('"').then_some(quotes)
}

/// The length of the string that begins here, both quotes included.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the character literal that begins here; a lifetime is none.
fn char_literal(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    if inner.starts_with('\\') {
        return inner.get(2..)?.find('\'').map(|end| end + 4);
    }
    let first = inner.chars().next()?;
    inner[first.len_utf8()..].starts_with('\'').then(|| first.len_utf8() + 2)
}

/// Every module that code names by `crate::`, or by enough `super::` to leave its own top-level module, with the line.
fn uses(code: &str, depth: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, rest) in paths(code, "crate::") {
        found.extend(heads(rest).into_iter().map(|head| (line_of(code, at), head)));
    }
    for (at, mut rest) in paths(code, "super::") {
        let mut ups = 1;
        while let Some(more) = rest.strip_prefix("super::") {
            (ups, rest) = (ups + 1, more);
        }
        if ups >= depth {
            // Inside an inline module one `super` less leaves the file; then the name is hardly that of a module.
            let modules = heads(rest).into_iter().filter(|head| ORDER.contains(&head.as_str()));
            found.extend(modules.map(|head| (line_of(code, at), head)));
        }
    }
    found
}

/// Places where `prefix` begins a path, with what follows it.
fn paths<'a>(code: &'a str, prefix: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    words(code, prefix).filter(|(at, _)| !code[..*at].ends_with(':'))
}

/// Places where `prefix` begins a word, with what follows it.
fn words<'a>(code: &'a str, prefix: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    code.match_indices(prefix)
        .filter(|(at, _)| !code[..*at].ends_with(is_word))
        .map(|(at, _)| (at, &code[at + prefix.len()..]))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// `a::b` has the head `a`; `{a::b, c}` has `a` and `c`.
fn heads(path: &str) -> Vec<String> {
    let ident = |text: &str| text.trim_start().chars().take_while(|c| is_word(*c)).collect();
    let Some(group) = path.strip_prefix('{') else { return vec![ident(path)] };
    let (mut depth, mut heads, mut begin) = (0_usize, Vec::new(), 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' | ',' if depth == 0 => {
                heads.push(ident(&group[begin..at]));
                begin = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    heads.retain(|head: &String| !head.is_empty());
    heads
}

fn impure(code: &str) -> impl Iterator<Item = (usize, &'static str)> {
    IMPURE.iter().flat_map(|name| {
        words(code, name).filter(|(_, rest)| !rest.starts_with(is_word)).map(|(at, _)| (line_of(code, at), *name))
    })
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source tree in a directory of its own, removed at the end.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Tree {
            let root = std::env::temp_dir().join(format!("iicp-arrows-{name}-{}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            Tree(root)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_tree_whose_arrows_run_down_is_left_alone() {
        let tree = Tree::new(
            "good",
            &[
                ("lib.rs", "mod error; pub use bridge::X; use crate::bridge::Y;"),
                ("error.rs", "// crate::node is only spoken of\nfn f() -> &'static str { \"crate::node::x\" }"),
                ("node/mod.rs", "use crate::{error::{Code, Error}, wire::task};\nuse crate::transport;"),
                ("node/serve.rs", "use super::handler; use super::super::wire; /* crate::bridge */ use tokio::net;"),
                ("wire/mod.rs", "use super::error::Code; use std::time::Instant; fn f(tokio_like: u8) {}"),
                ("bin/tool/main.rs", "use iicp_core::Client;"),
            ],
        );
        assert_eq!(broken(&tree.0).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn every_way_to_point_up_is_found() {
        for (name, path, text) in [
            ("plain", "wire/task.rs", "use crate::node::Handler;"),
            ("group", "wire/task.rs", "use crate::{error, types::{A, B},\n node::{Handler, client}};"),
            ("inline", "runtime.rs", "fn f() { let url = \"http://x\"; crate::client::new() }"),
            ("char", "runtime.rs", "fn f<'a>(c: char) { if c == '\"' { crate::client::new() } }"),
            ("raw", "runtime.rs", "const A: &str = r#\"\"\"#; use crate::client;"),
            ("super", "wire/task.rs", "use super::super::node;"),
            ("super at the top", "runtime.rs", "use super::client;"),
            ("test", "error.rs", "#[cfg(test)] mod tests { use crate::options::X; }"),
            ("re-export", "node/mod.rs", "use crate::Client;"),
            ("no place", "helpers.rs", ""),
            ("tokio", "protocol/retry.rs", "use tokio::time::Instant;"),
            ("clock", "crypto/token.rs", "let now = std::time::SystemTime::now();"),
            ("clock, shorter", "protocol/retry.rs", "let now = Instant::now();"),
            ("socket", "wire/task.rs", "use std::net::{IpAddr, TcpStream};"),
        ] {
            let tree = Tree::new(&name.replace(' ', "-"), &[(path, text)]);
            let found = broken(&tree.0).unwrap();
            assert_eq!(found.len(), 1, "{name}: {found:?}");
            assert!(found[0].starts_with(path), "{name}: {found:?}");
        }
    }

    #[test]
    fn a_module_of_tests_may_use_every_module_and_none_may_use_it() {
        let root = "mod wire;\n#[cfg(test)]\nmod replay_all;\n#[cfg(test)] mod tests { }\nmod helpers;";
        let tree = Tree::new(
            "tests",
            &[
                ("lib.rs", root),
                ("replay_all/mod.rs", "use crate::bridge::X; use crate::wire; use std::fs;"),
                ("helpers.rs", ""),
                ("wire/mod.rs", "use crate::replay_all::load;"),
            ],
        );
        let found = broken(&tree.0).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("helpers.rs") && found[1].contains("crate::replay_all"), "{found:?}");
    }

    #[test]
    fn a_file_that_grew_too_long_is_named() {
        let tree = Tree::new("long", &[("a.rs", &"\n".repeat(MOST_LINES + 1)), ("b.rs", &"\n".repeat(MOST_LINES))]);
        let found = long_files(&tree.0).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("a.rs"));
    }
}
