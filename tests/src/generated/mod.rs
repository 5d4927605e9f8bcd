//! What `cargo gen` writes, and from what.
//!
//! A generated file, or a generated part of a hand-written one, is one [`Output`]. To add one, write a function from
//! the file's present text to its new text and put it into [`OUTPUTS`].

mod go;
mod header;

mod python;
mod readme;
pub mod source;
mod typescript;

use std::path::Path;

/// One file that `cargo gen` keeps in step.
#[derive(Debug)]
pub struct Output {
    /// Path below the repository's root.
    pub path: &'static str,
    /// The whole new text; gets the present one, which is empty if there is no file yet.
    pub render: fn(&str) -> Result<String, String>,
}

/// Every file that is generated, wholly or in part.
pub const OUTPUTS: &[Output] = &[
    Output { path: "README.md", render: readme::render },
    Output { path: "include/iicp.h", render: header::render },
    Output { path: "ffi-c/go/generated.go", render: go::render },
    Output { path: "bindings-python/python/iicp_core/_generated.py", render: python::render },
    Output { path: "bindings-node/src/generated.ts", render: typescript::render },
    Output { path: "bindings-node/package.json", render: typescript::package },
    Output { path: "bindings-node/package-lock.json", render: typescript::lock },
];

/// Whether to write, or only to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Write what differs.
    Write,
    /// Report what differs.
    Check,
}

/// Brings every output below `root` up to date, or names those that are not.
///
/// # Errors
/// What cannot be read, rendered or written.
pub fn run(root: &Path, outputs: &[Output], mode: Mode) -> Result<Vec<&'static str>, String> {
    let mut stale = Vec::new();
    for output in outputs {
        let path = root.join(output.path);
        let present = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(format!("{}: {e}", output.path)),
        };
        let wanted = (output.render)(&present).map_err(|why| format!("{}: {why}", output.path))?;
        if wanted == present {
            continue;
        }
        stale.push(output.path);
        if mode == Mode::Write {
            std::fs::write(&path, wanted).map_err(|e| format!("{}: {e}", output.path))?;
        }
    }
    Ok(stale)
}

/// Replaces what stands between `<!-- generated:NAME -->` and `<!-- /generated:NAME -->`.
///
/// # Errors
/// If the two marks do not stand in the text exactly once, in this order.
pub fn fill(text: &str, name: &str, content: &str) -> Result<String, String> {
    let (open, close) = (format!("<!-- generated:{name} -->\n"), format!("<!-- /generated:{name} -->\n"));
    let wrong = || format!("the lines {:?} and {:?} must stand in it once each", open.trim_end(), close.trim_end());
    let (head, rest) = text.split_once(&open).ok_or_else(wrong)?;
    let (_, tail) = rest.split_once(&close).ok_or_else(wrong)?;
    if tail.contains(&open) || tail.contains(&close) || head.contains(&close) {
        return Err(wrong());
    }
    Ok(format!("{head}{open}{content}{close}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: &str = "<!-- generated:a -->\n";
    const CLOSE: &str = "<!-- /generated:a -->\n";

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let text = format!("before\n{OPEN}old\n{CLOSE}after\n");
        assert_eq!(fill(&text, "a", "new\n").unwrap(), format!("before\n{OPEN}new\n{CLOSE}after\n"));
    }

    #[test]
    fn a_missing_or_doubled_mark_is_an_error() {
        for text in ["", OPEN, CLOSE, &format!("{CLOSE}{OPEN}"), &format!("{OPEN}{CLOSE}{OPEN}{CLOSE}")] {
            assert!(fill(text, "a", "new\n").is_err(), "{text:?}");
        }
    }

    #[test]
    fn check_names_what_is_stale_and_writes_nothing() {
        let root = std::env::temp_dir().join(format!("iicp-gen-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        let outputs = [Output { path: "out.txt", render: |_| Ok("wanted".into()) }];
        assert_eq!(run(&root, &outputs, Mode::Check).unwrap(), ["out.txt"]);
        assert!(!root.join("out.txt").exists());
        assert_eq!(run(&root, &outputs, Mode::Write).unwrap(), ["out.txt"]);
        assert!(run(&root, &outputs, Mode::Check).unwrap().is_empty());
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn everything_that_is_generated_is_up_to_date() {
        let stale = run(crate::root(), OUTPUTS, Mode::Check).unwrap();
        assert!(stale.is_empty(), "{stale:?}: run `cargo gen`");
    }
}
