//! What a setting is called in the file, in the environment and as a flag.
//!
//! The file has `[section]` and the option's own name. A variable is `IICP_<SECTION>_<OPTION>`, a flag is the option with
//! dashes. Where the published command has a name for the same thing, it is understood too.

use iicp_core::options::{ClientOptions, DirectoryOptions, NodeOptions};

use super::schema::{Setting, settings};

/// A section of the configuration: one option struct of the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Client,
    Node,
    Directory,
}

impl Section {
    pub(crate) const ALL: [Section; 3] = [Section::Client, Section::Node, Section::Directory];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Section::Client => "client",
            Section::Node => "node",
            Section::Directory => "directory",
        }
    }

    pub(crate) fn settings(self) -> Vec<Setting> {
        match self {
            Section::Client => settings::<ClientOptions>(),
            Section::Node => settings::<NodeOptions>(),
            Section::Directory => settings::<DirectoryOptions>(),
        }
    }
}

/// What the published command calls a setting: section, path, flag, variable. Empty where it has no name.
const PUBLISHED: &[(Section, &str, &str, &str)] = &[
    (Section::Client, "directory", "directory-url", "IICP_DIRECTORY_URL"),
    (Section::Client, "node_token", "", "IICP_NODE_TOKEN"),
    (Section::Client, "route_discovery", "", "IICP_ROUTE_DISCOVERY_MODE"),
    (Section::Client, "routing_strategy", "", "IICP_ROUTING_STRATEGY"),
    (Section::Client, "routing_epsilon", "", "IICP_ROUTING_EPSILON"),
    (Section::Client, "routing_top_k", "", "IICP_ROUTING_TOP_K"),
    (Section::Client, "routing_softmax_tau", "", "IICP_ROUTING_SOFTMAX_TAU"),
    (Section::Client, "routing_policy.profile", "routing-profile", "IICP_ROUTING_PROFILE"),
    (Section::Client, "routing_policy.allowed_regions", "region-allowlist", "IICP_REGION_ALLOWLIST"),
    (Section::Client, "routing_policy.allow_remote_executor", "allow-remote-executor", ""),
    (Section::Node, "backend.api_key", "", "IICP_BACKEND_API_KEY"),
    (Section::Node, "backend.kind", "backend", "IICP_BACKEND_TYPE"),
    (Section::Node, "backend.model", "model", "IICP_BACKEND_MODEL"),
    (Section::Node, "backend.url", "", "IICP_BACKEND_URL"),
    (Section::Node, "directory", "directory-url", "IICP_DIRECTORY_URL"),
    (Section::Node, "endpoint", "public-endpoint", "IICP_PUBLIC_ENDPOINT"),
    (Section::Node, "intents", "intent", ""),
];

/// Further spellings of flags: section, path, flag.
const ALSO: &[(Section, &str, &str)] = &[(Section::Node, "backend.kind", "backend-type")];

fn published(section: Section, path: &str) -> Option<&'static (Section, &'static str, &'static str, &'static str)> {
    PUBLISHED.iter().find(|entry| entry.0 == section && entry.1 == path)
}

/// The flag, without its dashes.
pub(crate) fn flag(section: Section, path: &str) -> String {
    match published(section, path) {
        Some((_, _, flag, _)) if !flag.is_empty() => (*flag).to_owned(),
        _ => spelt(path, '-'),
    }
}

/// Flags that mean the same and are not shown.
pub(crate) fn also(section: Section, path: &str) -> Vec<String> {
    let further = ALSO.iter().filter(|entry| entry.0 == section && entry.1 == path).map(|entry| entry.2.to_owned());
    further.chain([spelt(path, '-')]).filter(|name| *name != flag(section, path)).collect()
}

/// The variables, the most precise first.
pub(crate) fn variables(section: Section, path: &str) -> Vec<String> {
    let own = format!("IICP_{}_{}", section.name(), spelt(path, '_')).to_ascii_uppercase();
    let published = published(section, path).map(|entry| entry.3.to_owned()).filter(|name| !name.is_empty());
    std::iter::once(own).chain(published).collect()
}

fn spelt(path: &str, between: char) -> String {
    path.replace(['.', '_'], &between.to_string())
}

/// The name among `known` that `wrong` was probably meant to be.
pub(crate) fn meant<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| name.replace(['-', '.'], "_").to_ascii_lowercase();
    let near = |name: &'a str| (strsim::damerau_levenshtein(&plain(wrong), &plain(name)), name);
    let (distance, name) = known.into_iter().map(near).min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + name.len() / 4).then_some(name)
}

/// The option of `section` that the published command has `wrong` for.
pub(crate) fn by_published_name(section: Section, wrong: &str) -> Option<&'static str> {
    let wrong = wrong.replace('_', "-");
    PUBLISHED.iter().find(|entry| entry.0 == section && entry.2 == wrong).map(|entry| entry.1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_published_name_belongs_to_a_setting_that_exists() {
        for (section, path, ..) in PUBLISHED {
            let known = section.settings().iter().any(|setting| setting.path == *path);
            assert!(known, "there is no {path} in [{}]", section.name());
        }
    }

    #[test]
    fn names_are_derived_and_published_ones_are_understood() {
        assert_eq!(flag(Section::Node, "max_concurrent"), "max-concurrent");
        assert_eq!(flag(Section::Node, "endpoint"), "public-endpoint");
        assert_eq!(also(Section::Node, "endpoint"), ["endpoint"]);
        assert_eq!(variables(Section::Node, "port"), ["IICP_NODE_PORT"]);
        assert_eq!(variables(Section::Client, "directory"), ["IICP_CLIENT_DIRECTORY", "IICP_DIRECTORY_URL"]);
    }

    #[test]
    fn flags_of_a_section_are_told_apart() {
        for section in Section::ALL {
            let mut all: Vec<String> = Vec::new();
            for setting in section.settings() {
                all.push(flag(section, &setting.path));
                all.extend(also(section, &setting.path));
            }
            let count = all.len();
            all.sort();
            all.dedup();
            assert_eq!(all.len(), count, "[{}]: {all:?}", section.name());
        }
    }

    #[test]
    fn a_slip_is_understood_and_nonsense_is_not() {
        let known = ["port", "host", "max_concurrent"];
        assert_eq!(meant("prot", known), Some("port"));
        assert_eq!(meant("max-concurent", known), Some("max_concurrent"));
        assert_eq!(meant("temperature", known), None);
    }
}
