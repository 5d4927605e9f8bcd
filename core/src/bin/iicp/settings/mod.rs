//! The configuration: what file, environment and flags give, which of them counts, and where each value came from.
//!
//! A flag counts more than a variable, a variable more than the file, the file more than the default. Names, kinds and
//! limits are those of the library's option structs.

mod environment;
mod file;
mod flags;
mod names;
mod schema;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ArgMatches;
use iicp_core::options::from_json;
use iicp_core::{Code, Error};
use serde_json::{Value, json};

pub(crate) use environment::{CONFIG_FILE, DRAIN_MS, LOG};
pub(crate) use flags::{Flags, Takes, attach};
pub(crate) use names::Section;
use schema::set;
pub(crate) use schema::{Options, Setting, value_at};

/// Most mistakes of one kind that are looked for; who has more mends these first.
const MOST_MISTAKES: usize = 32;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody gave one.
    Default,
    /// Line and column count from 1; 0 is the file as a whole.
    File {
        path: Arc<Path>,
        line: usize,
        column: usize,
    },
    Variable(String),
    Flag(String),
}

impl Origin {
    fn line(&self) -> Option<usize> {
        match self {
            Origin::File { line, .. } => Some(*line),
            _ => None,
        }
    }

    pub(crate) fn json(&self) -> Value {
        match self {
            Origin::Default => json!({ "kind": "default" }),
            Origin::File { path, line: 0, .. } => json!({ "kind": "file", "path": path.as_ref() }),
            Origin::File { path, line, column } => {
                json!({ "kind": "file", "path": path.as_ref(), "line": line, "column": column })
            }
            Origin::Variable(name) => json!({ "kind": "variable", "name": name }),
            Origin::Flag(name) => json!({ "kind": "flag", "name": name }),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line: 0, .. } => write!(f, "{}", path.display()),
            Origin::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Origin::Variable(name) => write!(f, "variable {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A value that somebody gave.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub section: Section,
    pub path: String,
    pub value: Value,
    pub origin: Origin,
}

/// What is wrong with the configuration, and where that stands.
#[derive(Clone, Debug)]
pub(crate) struct Mistake {
    /// The section that cannot be used; none: nothing can.
    pub section: Option<Section>,
    pub code: Code,
    pub message: String,
    /// The values to blame; more than one if they do not go together.
    pub origins: Vec<Origin>,
}

impl Mistake {
    pub(crate) fn new(section: Option<Section>, message: String, origins: Vec<Origin>) -> Self {
        Mistake { section, code: Code::ConfigInvalid, message, origins }
    }

    pub(crate) fn json(&self) -> Value {
        let mut object = Error::new(self.code, &self.message).to_json();
        object["origins"] = self.origins.iter().map(Origin::json).collect();
        object
    }
}

/// Everything that was given, the least important first.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The file, whether or not there is one.
    pub file: Option<PathBuf>,
    given: Vec<Given>,
    mistakes: Vec<Mistake>,
}

impl Settings {
    /// Reads file, environment and the flags of a command.
    pub(crate) fn read(config: Option<&Path>, matches: &ArgMatches, flags: &[Flags]) -> Settings {
        let mut settings = Settings { file: None, given: Vec::new(), mistakes: Vec::new() };
        settings.read_file(config);
        environment::read(&mut settings.given, &mut settings.mistakes);
        for set in flags {
            set.read(matches, &mut settings.given, &mut settings.mistakes);
        }
        settings
    }

    fn read_file(&mut self, config: Option<&Path>) {
        let variable = std::env::var_os(CONFIG_FILE).filter(|path| !path.is_empty()).map(PathBuf::from);
        // Who names a file wants it read; the default one need not be there.
        let (path, named_by) = match (config, variable) {
            (Some(path), _) => (path.to_owned(), Some(Origin::Flag("--config".into()))),
            (None, Some(path)) => (path, Some(Origin::Variable(CONFIG_FILE.into()))),
            (None, None) => match default_file() {
                Some(path) => (path, None),
                None => return,
            },
        };
        match (file::read(&path), named_by) {
            (Some(contents), _) => {
                self.given.extend(contents.given);
                self.mistakes.extend(contents.mistakes);
            }
            (None, Some(named_by)) => {
                let why = format!("there is no configuration file {}", path.display());
                self.mistakes.push(Mistake::new(None, why, vec![named_by]));
            }
            (None, None) => {}
        }
        self.file = Some(path);
    }

    /// The options of a section: what was given, over `base`.
    ///
    /// # Errors
    /// Every mistake that was found, those of other sections apart.
    pub(crate) fn section<T: Options>(&self, section: Section, base: &T) -> Result<T, Vec<Mistake>> {
        self.section_for(section, base, |_| Ok(()))
    }

    /// The same, for options that must be good for `user` too: what is made with them and looks closer than they do.
    pub(crate) fn section_for<T: Options>(
        &self,
        section: Section,
        base: &T,
        user: impl Fn(&T) -> iicp_core::Result<()>,
    ) -> Result<T, Vec<Mistake>> {
        let read = |options: &Value| from_json::<T>(&options.to_string()).and_then(|good| user(&good).map(|()| good));
        let concerns = |mistake: &&Mistake| mistake.section.is_none_or(|other| other == section);
        let mut mistakes: Vec<Mistake> = self.mistakes.iter().filter(concerns).cloned().collect();
        let base = as_json(base);
        let mut counted = self.counted(section);
        // A value that is wrong is put aside to see whether others are wrong too.
        while mistakes.len() < MOST_MISTAKES {
            match read(&merged(&base, &counted)) {
                Ok(options) if mistakes.is_empty() => return Ok(options),
                Ok(_) => break,
                Err(error) => {
                    let blamed = blamed(&base, &counted, &error, read);
                    let origins = blamed.iter().map(|at| counted[*at].origin.clone()).collect();
                    mistakes.push(Mistake {
                        section: Some(section),
                        code: error.code(),
                        message: error.message().to_owned(),
                        origins,
                    });
                    if blamed.is_empty() {
                        break;
                    }
                    let mut at = 0..;
                    counted.retain(|_| at.next().is_none_or(|at| !blamed.contains(&at)));
                }
            }
        }
        mistakes.sort_by_key(|mistake| mistake.origins.first().and_then(Origin::line));
        Err(mistakes)
    }

    /// Every setting of a section with its value and where that came from, secrets as `***`.
    pub(crate) fn effective<T: Options>(&self, section: Section, base: &T) -> Vec<(Setting, Value, Origin)> {
        let counted = self.counted(section);
        let options = merged(&as_json(base), &counted);
        // With what an object that was given without its members has in them.
        let options = serde_json::from_value::<T>(options.clone()).map_or(options, |options| as_json(&options));
        let settings = section.settings().into_iter().map(|setting| {
            let given = counted.iter().find(|given| given.path == setting.path);
            let origin = given.map(|given| given.origin.clone());
            let value = match value_at(&options, &setting.path) {
                Value::Null => Value::Null,
                _ if setting.secret => match given {
                    Some(given) if !setting.is_secret(&given.value) => given.value.clone(),
                    _ => "***".into(),
                },
                value => value.clone(),
            };
            (setting, value, origin.unwrap_or(Origin::Default))
        });
        settings.collect()
    }

    /// What is no mistake, but ought to be seen.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let exposed = self.file.as_deref().and_then(|path| file::exposed(path, &self.given));
        let slips = environment::slips().into_iter();
        slips
            .map(|(name, meant)| format!("variable {name} is not known; did you mean {meant}?"))
            .chain(exposed)
            .collect()
    }

    /// Whether anybody gave a value of a section.
    pub(crate) fn gives(&self, section: Section, path: &str) -> bool {
        self.given.iter().any(|given| {
            given.section == section && (given.path == path || given.path.starts_with(&format!("{path}.")))
        })
    }

    /// The values that count.
    fn counted(&self, section: Section) -> Vec<&Given> {
        let mut counted: Vec<&Given> = Vec::new();
        for given in self.given.iter().filter(|given| given.section == section) {
            counted.retain(|earlier| earlier.path != given.path);
            counted.push(given);
        }
        counted
    }
}

/// The machine's own file, for who has none.
const EVERYBODYS_FILE: &str = "/etc/iicp/config.toml";

/// Where the file is looked for when nobody names one.
fn default_file() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    let own = folder.map(|folder| folder.join("iicp").join("config.toml"));
    let everybodys = Some(PathBuf::from(EVERYBODYS_FILE)).filter(|path| path.exists());
    match own {
        Some(own) if own.exists() => Some(own),
        own => everybodys.or(own),
    }
}

fn as_json<T: Options>(options: &T) -> Value {
    serde_json::to_value(options).unwrap_or_default()
}

fn merged(base: &Value, given: &[&Given]) -> Value {
    let mut options = base.clone();
    for given in given {
        set(&mut options, &given.path, given.value.clone());
    }
    options
}

/// The places of the values without which this error would not have come.
fn blamed<T>(
    base: &Value,
    given: &[&Given],
    error: &Error,
    read: impl Fn(&Value) -> iicp_core::Result<T>,
) -> Vec<usize> {
    let same = |other: &Error| other.code() == error.code() && other.message() == error.message();
    let guilty = |at: &usize| {
        let mut others = given.to_vec();
        others.remove(*at);
        !read(&merged(base, &others)).is_err_and(|other| same(&other))
    };
    (0..given.len()).filter(guilty).collect()
}
