//! The architecture's rules hold for the source as it stands.

#![allow(clippy::unwrap_used)]

use iicp_tests::arrows::{broken, long_files};
use iicp_tests::root;
use serde_json::Value;

#[test]
fn no_arrow_runs_up_and_the_pure_modules_stay_pure() {
    let found = broken(&root().join("core/src")).unwrap();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn no_source_file_outgrows_its_reader() {
    let found: Vec<String> = packages()
        .iter()
        .flat_map(|package| ["src", "tests", "examples", "benches"].map(|part| package.dir.join(part)))
        .filter(|dir| dir.is_dir())
        .flat_map(|dir| long_files(&dir).unwrap())
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn layers_stand_on_the_engine_alone_and_the_engine_on_none_of_ours() {
    let packages = packages();
    assert!(packages.iter().any(|package| package.name == "iicp-core"));
    for package in packages.iter().filter(|package| package.name != "iicp-tests") {
        let allowed: &[&str] = if package.name == "iicp-core" { &[] } else { &["iicp-core"] };
        for ours in &package.of_ours {
            assert!(allowed.contains(&ours.as_str()), "{} depends on {ours}", package.name);
        }
    }
}

#[test]
fn no_crate_gets_around_the_workspaces_lints() {
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap();
    let workspace = read(root().join("Cargo.toml"));
    let lints: Vec<&str> = section(&workspace, "[workspace.lints.").collect();
    assert!(lints.contains(&"unsafe_code = \"forbid\"") && lints.len() > 5, "{lints:?}");
    for package in packages() {
        let manifest = read(package.dir.join("Cargo.toml"));
        // A manifest can't take over the workspace's lints and change one of them.
        let own: &[&str] = match package.name.as_str() {
            "iicp-ffi-c" => &["unsafe_code = \"allow\"", "undocumented_unsafe_blocks = \"warn\""],
            "iicp-core-node" => &["unsafe_code = \"deny\""],
            _ => {
                assert!(manifest.contains("[lints]\nworkspace = true\n"), "{} has lints of its own", package.name);
                continue;
            }
        };
        let has: Vec<&str> = section(&manifest, "[lints.").collect();
        let inherited = |lint: &&&str| !["unsafe_code", "unexpected_cfgs"].iter().any(|own| lint.starts_with(own));
        let wanted = lints.iter().filter(inherited).chain(own);
        let missing: Vec<_> = wanted.filter(|lint| !has.contains(lint)).collect();
        assert!(missing.is_empty(), "{} lacks the lints {missing:?}", package.name);
    }
}

/// The settings below all headings that begin so.
fn section<'a>(manifest: &'a str, heading: &'a str) -> impl Iterator<Item = &'a str> {
    let mut inside = false;
    manifest.lines().filter(move |line| {
        if line.starts_with('[') {
            inside = line.starts_with(heading);
        }
        inside && !line.starts_with(['[', '#']) && !line.is_empty()
    })
}

struct Package {
    name: String,
    dir: std::path::PathBuf,
    /// Dependencies that are members of this workspace.
    of_ours: Vec<String>,
}

fn packages() -> Vec<Package> {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let list = |value: &Value| value.as_array().unwrap().clone();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    list(&metadata["packages"])
        .iter()
        .map(|package| Package {
            name: text(&package["name"]),
            dir: std::path::Path::new(&text(&package["manifest_path"])).parent().unwrap().to_owned(),
            of_ours: list(&package["dependencies"])
                .iter()
                .filter(|dependency| dependency["path"].is_string())
                .map(|dependency| text(&dependency["name"]))
                .collect(),
        })
        .collect()
}
