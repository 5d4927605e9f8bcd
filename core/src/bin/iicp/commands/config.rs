use std::collections::HashSet;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use iicp_core::options::{ClientOptions, DirectoryOptions, NodeOptions};
use iicp_core::{Code, Error};
use schemars::schema_for;
use serde_json::{Value, json};

use super::{
    client_defaults, client_options, directory, directory_defaults, discover, doctor, healthcheck, node_defaults,
    query, serve, up,
};
use crate::cli;
use crate::console::{Console, faint};
use crate::failure::Failure;
use crate::settings::{Flags, Mistake, Origin, Section, Setting, Settings};

const EXAMPLES: &str = "\
Examples:
  iicp config show                           every setting with its value, as a configuration file
  iicp config show --origin                  and where each came from
  iicp config show --origin -- up --port 1   what a command line would use
  iicp config validate /etc/iicp.toml
  iicp config schema > iicp.schema.json      for editors that check TOML";

/// Show and check the configuration
///
/// A flag counts more than a variable, a variable more than the file, the file more than the default. The file is TOML with
/// the sections [client], [node] and [directory]. An option of [node], say, is also the variable IICP_NODE_<OPTION>, and a
/// flag with dashes; a secret may stand in a file that IICP_..._FILE names.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Config {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write every setting with its value; secrets as ***
    Show {
        /// Say where each value came from: file and line, variable, flag or default
        #[arg(long)]
        origin: bool,
        /// A command line of iicp whose settings are shown, with the flags that it gives
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Check file and environment, and name every mistake
    Validate {
        /// The file, in place of the one that commands would read
        #[arg(value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
    },
    /// Write the JSON Schema of the configuration file
    Schema,
}

pub(crate) fn run(args: Config, config: &Option<PathBuf>, console: Console) -> Result<(), Failure> {
    match args.action {
        Action::Show { origin, command } => show(config, origin, command, console),
        Action::Validate { file } => validate(file.as_ref().or(config.as_ref()), console),
        Action::Schema => Ok(console.line(&schema()?)?),
    }
}

fn show(config: &Option<PathBuf>, origin: bool, command: Vec<OsString>, console: Console) -> Result<(), Failure> {
    let line = std::iter::once(OsString::from("iicp")).chain(command.clone());
    let matches = if command.is_empty() {
        clap::ArgMatches::default()
    } else {
        let told =
            |error: clap::Error| Failure::Usage(error.to_string().trim_start_matches("error: ").trim_end().to_owned());
        cli::command().try_get_matches_from(line).map_err(told)?
    };
    let (flags, given) = match matches.subcommand() {
        Some((name, given)) => (flags_of(name), given),
        None => (&[][..], &matches),
    };
    let named = given.try_get_one::<PathBuf>("config").ok().flatten().or(config.as_ref());
    let settings = Settings::read(named.map(PathBuf::as_path), given, flags);
    settings.warnings().iter().for_each(|warning| console.warning(warning));
    let mistakes = mistakes(&settings);
    for section in Section::ALL
        .into_iter()
        .filter(|section| flags.is_empty() || flags.iter().any(|flags| flags.section == *section))
    {
        let shown = match section {
            Section::Client => settings.effective(section, &client_defaults()),
            Section::Node => settings.effective(section, &node_defaults()),
            Section::Directory => settings.effective(section, &directory_defaults()),
        };
        write(section, shown, origin, console)?;
    }
    if mistakes.is_empty() { Ok(()) } else { Err(mistakes.into()) }
}

fn flags_of(command: &str) -> &'static [Flags] {
    match command {
        "up" => up::FLAGS,
        "serve" => serve::FLAGS,
        "query" => query::FLAGS,
        "discover" => discover::FLAGS,
        "directory" => directory::FLAGS,
        "doctor" => doctor::FLAGS,
        "healthcheck" => healthcheck::FLAGS,
        _ => &[],
    }
}

fn write(
    section: Section,
    shown: Vec<(Setting, Value, Origin)>,
    with_origin: bool,
    console: Console,
) -> Result<(), Failure> {
    if console.json {
        for (setting, value, origin) in shown {
            let mut object = json!({ "section": section.name(), "option": setting.path, "value": value });
            if with_origin {
                object["origin"] = origin.json();
            }
            console.object(&object)?;
        }
        return Ok(());
    }
    // Tables come after the plain options of their section, or TOML would take these for the table's.
    let (tables, plain): (Vec<_>, Vec<_>) = shown.into_iter().partition(|(setting, ..)| setting.path.contains('.'));
    let table_of =
        |setting: &Setting| setting.path.rsplit_once('.').map_or(String::new(), |(table, _)| table.to_owned());
    let in_use: HashSet<String> =
        tables.iter().filter(|(_, value, _)| !value.is_null()).map(|(setting, ..)| table_of(setting)).collect();
    let mut table = String::new();
    console.line(&format!("[{}]", section.name()))?;
    for (setting, value, origin) in plain.into_iter().chain(tables) {
        let inside = table_of(&setting);
        if inside != table {
            // Even an empty table would switch on what it is about.
            let not = if in_use.contains(&inside) { "" } else { "# " };
            console.line(&format!("\n{not}[{}.{inside}]", section.name()))?;
            table = inside;
        }
        let name = setting.path.rsplit('.').next().unwrap_or(&setting.path);
        let line = match toml(&value) {
            Some(value) => format!("{name} = {value}"),
            None => format!("# {name} is not set"),
        };
        console.line(&if with_origin { format!("{line:<48} {}", faint(&format!("# {origin}"))) } else { line })?;
    }
    Ok(console.line("")?)
}

/// A value as TOML has it; none for what is not set.
fn toml(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        // Of JSON's escapes TOML knows all that serde_json writes.
        Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
        Value::Array(items) => format!("[{}]", items.iter().filter_map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let member =
                |(name, value): (&String, &Value)| Some(format!("{} = {}", Value::from(name.as_str()), toml(value)?));
            format!("{{ {} }}", members.iter().filter_map(member).collect::<Vec<_>>().join(", "))
        }
    })
}

/// Every mistake in any section, each once.
fn mistakes(settings: &Settings) -> Vec<Mistake> {
    let found = [
        client_options(settings).err(),
        settings.section::<NodeOptions>(Section::Node, &node_defaults()).err(),
        settings.section::<DirectoryOptions>(Section::Directory, &directory_defaults()).err(),
    ];
    let mut all: Vec<Mistake> = Vec::new();
    for mistake in found.into_iter().flatten().flatten() {
        let told = all.iter().any(|other| other.message == mistake.message && other.origins == mistake.origins);
        if !told {
            all.push(mistake);
        }
    }
    all
}

fn validate(file: Option<&PathBuf>, console: Console) -> Result<(), Failure> {
    let settings = Settings::read(file.map(PathBuf::as_path), &clap::ArgMatches::default(), &[]);
    settings.warnings().iter().for_each(|warning| console.warning(warning));
    let mistakes = mistakes(&settings);
    if !mistakes.is_empty() {
        return Err(mistakes.into());
    }
    let read = settings.file.filter(|path| path.exists());
    let text = match &read {
        Some(path) => format!("{} and the environment are good", path.display()),
        None => "there is no configuration file; the environment is good".into(),
    };
    if console.json {
        console.object(&json!({ "valid": true, "file": read }))?;
    } else if !console.quiet {
        console.line(&text)?;
    }
    Ok(())
}

fn schema() -> Result<String, Failure> {
    let sections = [schema_for!(ClientOptions), schema_for!(NodeOptions), schema_for!(DirectoryOptions)]
        .map(|schema| schema.to_value());
    let mut definitions = serde_json::Map::new();
    let mut properties = serde_json::Map::new();
    for (section, mut schema) in Section::ALL.into_iter().zip(sections) {
        // References are to the root of the whole.
        if let Some(Value::Object(inner)) = schema.as_object_mut().and_then(|schema| schema.remove("$defs")) {
            definitions.extend(inner);
        }
        schema.as_object_mut().map(|schema| schema.remove("$schema"));
        properties.insert(section.name().into(), schema);
    }
    let whole = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of iicp",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
        "$defs": definitions,
    });
    serde_json::to_string_pretty(&whole).map_err(|e| Error::new(Code::Internal, e.to_string()).into())
}
