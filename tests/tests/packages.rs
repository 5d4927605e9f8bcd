//! What is published can be built from what is in it, and has its licence in it.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

fn read(path: &str) -> String {
    let path = iicp_tests::root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn the_licence_is_in_every_package() {
    // The npm package gets its copy when it is built; its own tests look for it, and those of Python into the wheel.
    for copy in ["core/LICENSE", "bindings-python/LICENSE"] {
        assert!(read(copy) == read("LICENSE"), "{copy} is not LICENSE; copy it again");
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let listing = Command::new(cargo)
        .args(["package", "--package", "iicp-core", "--list", "--allow-dirty", "--offline"])
        .current_dir(iicp_tests::root())
        .output()
        .unwrap();
    let listed = String::from_utf8(listing.stdout).unwrap();
    assert!(listed.lines().any(|file| file == "LICENSE"), "{listed}{}", String::from_utf8_lossy(&listing.stderr));
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            // Tests of the crate are run from the repository, where their vectors are.
            false if path.ends_with("tests.rs") => {}
            false if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
            false => {}
        }
    }
}

#[test]
fn the_crate_includes_no_file_from_beyond_its_folder() {
    let core = iicp_tests::root().join("core").canonicalize().unwrap();
    let mut files = Vec::new();
    sources(&core, &mut files);
    assert!(files.len() > 100, "{files:?}");
    for file in files {
        let source = std::fs::read_to_string(&file).unwrap();
        for name in source.split("include_str!(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let path = file.parent().unwrap().join(name).canonicalize().unwrap();
            assert!(path.starts_with(&core), "{} includes {}", file.display(), path.display());
        }
    }
}
