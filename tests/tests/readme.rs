//! The README keeps its word: every block of it is executed. Rust blocks are doc tests of this package (see `lib.rs`);
//! shell blocks run here, at the root of the repository, as a newcomer runs them.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};

use iicp_tests::root;

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
fn every_shell_block_of_the_readme_works() {
    let page = std::fs::read_to_string(root().join("README.md")).unwrap();
    let mut ran = 0;
    for (language, text) in blocks(&page) {
        match language.as_str() {
            // Output, and what the doc tests compile and run.
            "text" | "rust" => continue,
            "sh" => {}
            other => panic!("nothing executes a block of {other:?}:\n{text}"),
        }
        // The one command that runs this test.
        if text == "tests/run" {
            continue;
        }
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", &text]).current_dir(root()).stdin(Stdio::null());
        // As in a newcomer's shell: what cargo tells its tests of this package would make it build everything anew.
        for (name, _) in std::env::vars().filter(|(name, _)| told_by_cargo(name)) {
            shell.env_remove(name);
        }
        let output = shell.output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}\n{shown}\n{}", String::from_utf8_lossy(&output.stderr));
        if text.contains("quickstart") {
            assert!(shown.contains("next chat") && shown.contains("You sent 5 words"), "{shown}");
        }
        ran += 1;
    }
    assert!(ran > 0, "the README shows no command");
}

#[test]
fn blocks_are_found_with_their_language() {
    let found = blocks("a\n```sh\nls\npwd\n```\nb\n```text\n```\n");
    assert_eq!(found, [("sh".into(), "ls\npwd".into()), ("text".into(), String::new())]);
}
