//! Settings that come from flags. A command takes the flags of one or more sections; which there are, what they take and
//! what their help says is read from the library's options.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::Value;

use super::names::{Section, also, flag, variables};
use super::schema::{Kind, Options, Setting, value_at};
use super::{Given, Mistake, Origin};

/// The flags of one section that a command takes.
#[derive(Clone, Debug)]
pub(crate) struct Flags {
    pub section: Section,
    /// Stands before every flag's name, where a command takes those of several sections.
    pub prefix: &'static str,
    pub takes: Takes,
    /// Settings that `-h` shows; `--help` shows all.
    pub common: &'static [&'static str],
}

/// Which settings of a section have flags.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Takes {
    All,
    /// All but those that the command decides itself.
    AllBut(&'static [&'static str]),
    Only(&'static [&'static str]),
}

impl Flags {
    fn settings(&self) -> impl Iterator<Item = Setting> {
        self.section.settings().into_iter().filter(|setting| match self.takes {
            Takes::All => true,
            Takes::AllBut(without) => !without.contains(&setting.path.as_str()),
            Takes::Only(these) => these.contains(&setting.path.as_str()),
        })
    }

    fn id(&self, setting: &Setting) -> String {
        format!("{}.{}", self.section.name(), setting.path)
    }

    fn long(&self, setting: &Setting) -> String {
        format!("{}{}", self.prefix, flag(self.section, &setting.path))
    }

    /// Adds what the flags of a command line give.
    pub(crate) fn read(&self, matches: &ArgMatches, given: &mut Vec<Given>, mistakes: &mut Vec<Mistake>) {
        for setting in self.settings() {
            let id = self.id(&setting);
            let origin = Origin::Flag(format!("--{}", self.long(&setting)));
            let texts: Vec<&String> =
                matches.try_get_many(&id).ok().flatten().map(Iterator::collect).unwrap_or_default();
            let value = match texts[..] {
                [] if matches.try_get_one(&no(&id)).ok().flatten() == Some(&true) => Some(Value::Bool(false)),
                [] => continue,
                // Every flag of a list adds to it.
                _ if matches!(setting.kind, Kind::List(_)) => {
                    let parts: Option<Vec<Value>> = texts.iter().map(|text| setting.kind.read(text)).collect();
                    parts.map(|parts| parts.into_iter().filter_map(|part| part.as_array().cloned()).flatten().collect())
                }
                [.., last] => setting.kind.read(last),
            };
            match value {
                Some(value) => given.push(Given { section: self.section, path: setting.path, value, origin }),
                None => {
                    let text = format!("--{}: expected {}", self.long(&setting), setting.kind.expected());
                    mistakes.push(Mistake::new(Some(self.section), text, vec![origin]));
                }
            }
        }
    }
}

/// The flag that switches a setting off.
fn no(id: &str) -> String {
    format!("no-{id}")
}

/// Gives a command the flags of a section; `base` are the defaults that its help shows.
pub(crate) fn attach<T: Options>(mut command: Command, flags: &Flags, base: &T) -> Command {
    let defaults = super::as_json(base);
    for setting in flags.settings() {
        let id = flags.id(&setting);
        let common = flags.common.contains(&setting.path.as_str());
        let mut about = setting.about.trim_end_matches('.').to_owned();
        if let Some(default) = shown(value_at(&defaults, &setting.path)) {
            about = format!("{about} [default: {default}]");
        }
        let names = variables(flags.section, &setting.path).join(" or ");
        let arg = Arg::new(id.clone())
            .long(flags.long(&setting))
            .aliases(also(flags.section, &setting.path).into_iter().map(|name| format!("{}{name}", flags.prefix)))
            .value_name(value_name(&setting))
            .long_help(format!("{about} [variable: {names}]"))
            .help(about)
            .hide_short_help(!common)
            .help_heading(heading(flags.section))
            .action(ArgAction::Append);
        let boolean = setting.kind == Kind::Boolean;
        let arg = match &setting.kind {
            Kind::Boolean => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_parser(PossibleValuesParser::new(["true", "false"]))
                .hide_possible_values(true),
            Kind::Word(words) => arg.value_parser(PossibleValuesParser::new(words.clone())),
            Kind::Integer(..) | Kind::Number => arg.allow_hyphen_values(true),
            _ => arg,
        };
        if boolean {
            let off = Arg::new(no(&id)).long(format!("no-{}", flags.long(&setting))).action(ArgAction::SetTrue);
            command = command.arg(off.overrides_with(id.clone()).hide(true)).arg(arg.overrides_with(no(&id)));
        } else {
            command = command.arg(arg);
        }
    }
    command
}

const fn heading(section: Section) -> &'static str {
    match section {
        Section::Client => "Client options",
        Section::Node => "Node options",
        Section::Directory => "Directory options",
    }
}

fn value_name(setting: &Setting) -> String {
    match &setting.kind {
        Kind::Integer(..) | Kind::Number => "N".into(),
        Kind::Json => "JSON".into(),
        Kind::Boolean => "true|false".into(),
        Kind::Text | Kind::Word(_) | Kind::List(_) => {
            let last = setting.path.rsplit(['.', '_']).next().unwrap_or_default();
            last.strip_suffix('s').filter(|one| !one.ends_with('s')).unwrap_or(last).to_ascii_uppercase()
        }
    }
}

/// A default as help shows it.
fn shown(default: &Value) -> Option<String> {
    match default {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(items) if items.is_empty() => None,
        Value::Array(items) => Some(items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")),
        other => Some(other.to_string()),
    }
}
