//! Every verb in every language: `tests/surface.json` says what it is called, and where to look.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Surface {
    /// Every verb of the design.
    verbs: BTreeSet<String>,
    languages: BTreeMap<String, Language>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Language {
    /// The files that its surface stands in; `*` for the name of a file.
    files: Vec<String>,
    /// By verb, the text that shows it.
    verbs: BTreeMap<String, String>,
}

#[test]
fn no_language_lacks_a_verb() {
    let root = iicp_tests::root();
    let surface: Surface =
        serde_json::from_str(&std::fs::read_to_string(root.join("tests/surface.json")).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for (name, language) in &surface.languages {
        let source: String = language.files.iter().flat_map(|pattern| files(root, pattern)).map(read).collect();
        let missing = surface.verbs.iter().filter(|verb| !language.verbs.contains_key(*verb));
        wrong.extend(missing.map(|verb| format!("{verb} has no name in {name}")));
        for (verb, text) in &language.verbs {
            if !surface.verbs.contains(verb) {
                wrong.push(format!("{verb} of {name} is no verb of the list"));
            }
            if !source.contains(text) {
                wrong.push(format!("{name} has no {text:?} for {verb}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(surface.languages.len(), 4, "C, Go, Python and TypeScript");
}

fn files(root: &Path, pattern: &str) -> Vec<PathBuf> {
    let path = root.join(pattern);
    let (folder, name) = (path.parent().unwrap(), path.file_name().unwrap().to_str().unwrap());
    let Some((before, after)) = name.split_once('*') else { return vec![path] };
    let found: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("{pattern}: {e}"))
        .map(|file| file.unwrap().path())
        .filter(|file| {
            file.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(before) && n.ends_with(after))
        })
        .collect();
    assert!(!found.is_empty(), "there is no file {pattern}");
    found
}

fn read(path: PathBuf) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
