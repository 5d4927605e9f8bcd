//! Thin layers: a binding that grows is doing the engine's work.

#![allow(clippy::unwrap_used)]

use std::path::Path;

/// Lines of Rust in a folder, comments and blank lines apart.
fn lines_of_rust(folder: &Path) -> usize {
    let mut lines = 0;
    for entry in std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            lines += lines_of_rust(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = std::fs::read_to_string(&path).unwrap();
            lines += source.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count();
        }
    }
    lines
}

#[test]
fn a_layer_holds_no_more_rust_than_speaking_its_language_takes() {
    for (folder, most) in [("ffi-c/src", 1_500), ("bindings-python/src", 800), ("bindings-node/native", 800)] {
        let lines = lines_of_rust(&iicp_tests::root().join(folder));
        assert!(lines > 100, "{folder}: {lines} lines; does the layer stand somewhere else now?");
        assert!(lines <= most, "{folder}: {lines} lines of at most {most}; what belongs into core/src/bridge?");
    }
}
