//! The pages that newcomers read keep their word: every block is executed. Rust blocks are doc tests of this package (see
//! `lib.rs`); shell blocks run here, at the root of the repository, as a newcomer runs them. A block that names a file shows
//! that file, which is executed where the page says.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};

use iicp_tests::root;

const PAGES: [&str; 3] = ["README.md", "CONTRIBUTING.md", "core/ARCHITECTURE.md"];

/// The fenced blocks of a page: language and text.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            found.push((language.to_owned(), text.join("\n")));
        }
    }
    found
}

/// What `cargo test` sets for the tests of one package.
fn told_by_cargo(name: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"]
        .iter()
        .any(|p| name.starts_with(p))
}

#[test]
fn every_shell_block_works() {
    let mut ran = 0;
    for name in PAGES {
        let page = std::fs::read_to_string(root().join(name)).unwrap();
        for (language, text) in blocks(&page) {
            match language.as_str() {
                "text" => {}
                // Shows a file; see below.
                shown if name == "README.md" && shown.contains(' ') => {}
                // What the doc tests compile and run; of the other pages they know nothing.
                "rust" if name == "README.md" => {}
                // What the layers' own run scripts do.
                "c" | "go" | "python" | "js" if name == "README.md" => {}
                "sh" => {
                    run(name, &text);
                    ran += 1;
                }
                other => panic!("nothing executes a block of {other:?} in {name}:\n{text}"),
            }
        }
    }
    assert!(ran > 0, "the pages show no command");
}

fn run(page: &str, text: &str) {
    // All but the command that runs this test, and those that it runs beside it.
    let ours = |line: &&str| {
        let command = line.split('#').next().unwrap_or_default().trim();
        command == "tests/run" || command.starts_with("tests/") && command.ends_with("/run")
    };
    let text = text.lines().filter(|line| !ours(line)).collect::<Vec<_>>().join("\n");
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", &text]).current_dir(root()).stdin(Stdio::null());
    // As in a newcomer's shell: what cargo tells its tests of this package would make it build everything anew.
    for (name, _) in std::env::vars().filter(|(name, _)| told_by_cargo(name)) {
        shell.env_remove(name);
    }
    let output = shell.output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{page}:\n{text}\n{shown}\n{errors}");
    if text.contains("--example quickstart") {
        assert!(shown.contains("next chat") && shown.contains("You sent 5 words"), "{shown}");
    }
}

/// Such programs need a model, so they are run by the suite that has it.
#[test]
fn a_block_that_names_a_file_shows_what_the_suite_with_models_runs() {
    let suite = std::fs::read_to_string(root().join("tests/models/run")).unwrap();
    let page = std::fs::read_to_string(root().join("README.md")).unwrap();
    let mut shown = 0;
    for (language, text) in blocks(&page) {
        let Some((_, file)) = language.split_once(' ') else { continue };
        let source = std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert_eq!(text + "\n", source, "README.md does not show {file} as it is");
        assert!(suite.contains(file), "tests/models/run does not run {file}");
        shown += 1;
    }
    assert!(shown > 0, "README.md shows no such program");
}

#[test]
fn blocks_are_found_with_their_language() {
    let found = blocks("a\n```sh\nls\npwd\n```\nb\n```text\n```\n");
    assert_eq!(found, [("sh".into(), "ls\npwd".into()), ("text".into(), String::new())]);
}
