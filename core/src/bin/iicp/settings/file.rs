//! The configuration file: TOML, read with the place of every value, so that every mistake is shown where it stands.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::names::{Section, by_published_name, meant};
use super::schema::{Kind, Setting};
use super::{Given, Mistake, Origin};

/// More is no configuration.
const MOST_BYTES: u64 = 1 << 20;

/// What a file gives, and what is wrong with it.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub given: Vec<Given>,
    pub mistakes: Vec<Mistake>,
}

/// Reads a file. None if there is none.
pub(crate) fn read(path: &Path) -> Option<Contents> {
    let failed = |why: String| {
        let origin = Origin::File { path: path.into(), line: 0, column: 0 };
        Some(Contents { given: Vec::new(), mistakes: vec![Mistake::new(None, why, vec![origin])] })
    };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => return failed(format!("the configuration file cannot be read: {error}")),
        Ok(about) if about.is_dir() => return failed("the configuration file is a folder".into()),
        Ok(about) if about.len() > MOST_BYTES => {
            return failed(format!("the configuration file is larger than {MOST_BYTES} bytes"));
        }
        Ok(_) => {}
    }
    match std::fs::read(path).map(String::from_utf8) {
        Ok(Ok(text)) => Some(parse(path, &text)),
        Ok(Err(_)) => failed("the configuration file is not UTF-8 text".into()),
        Err(error) => failed(format!("the configuration file cannot be read: {error}")),
    }
}

/// Says that others can read a file that holds a secret, and how to end that.
#[cfg(unix)]
pub(super) fn exposed(path: &Path, given: &[Given]) -> Option<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let others = std::fs::metadata(path).ok()?.permissions().mode() & 0o044;
    let is_secret = |given: &&Given| {
        let settings = given.section.settings();
        settings.iter().any(|setting| setting.path == given.path && setting.is_secret(&given.value))
    };
    let from_file = given.iter().filter(|given| matches!(given.origin, Origin::File { .. }));
    let secret = from_file.filter(|_| others != 0).find(is_secret)?;
    Some(format!("{} holds {}, and other users can read it: chmod 600 {0}", path.display(), secret.path))
}

#[cfg(not(unix))]
pub(super) fn exposed(_path: &Path, _given: &[Given]) -> Option<String> {
    None
}

fn parse(path: &Path, text: &str) -> Contents {
    let mut reader = Reader { path: path.into(), text, contents: Contents::default() };
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let at = reader.origin(error.span().unwrap_or(0..0));
        // Not the line itself, which may hold a key.
        reader.mistake(None, format!("not TOML: {}", error.message().trim_end().replace('\n', "; ")), at);
    }
    if reader.contents.mistakes.is_empty() {
        reader.document(document.get_ref());
    }
    reader.contents
}

struct Reader<'a> {
    path: Arc<Path>,
    text: &'a str,
    contents: Contents,
}

impl Reader<'_> {
    fn document(&mut self, document: &DeTable<'_>) {
        for (name, value) in document {
            let at = self.origin(name.span());
            let names = Section::ALL.map(Section::name);
            let Some(section) = Section::ALL.into_iter().find(|section| section.name() == name.get_ref().as_ref())
            else {
                let hint = meant(name.get_ref(), names).map(|name| format!("; did you mean [{name}]?"));
                let hint = hint.unwrap_or_else(|| format!("; there are [{}]", names.join("], [")));
                self.mistake(None, format!("there is no section [{}]{hint}", name.get_ref()), at);
                continue;
            };
            let DeValue::Table(table) = value.get_ref() else {
                self.mistake(
                    None,
                    format!("{0} is a section, written [{0}] with its options below", section.name()),
                    at,
                );
                continue;
            };
            self.table(section, &section.settings(), "", table);
        }
    }

    fn table(&mut self, section: Section, settings: &[Setting], prefix: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let path = format!("{prefix}{}", name.get_ref());
            let inside = format!("{path}.");
            let setting = settings.iter().find(|setting| setting.path == path);
            let holds_settings = settings.iter().any(|setting| setting.path.starts_with(&inside));
            match (setting, value.get_ref()) {
                (Some(setting), value_found) => self.value(section, setting, value_found, value.span()),
                // Nothing in it, but that it is there says something: what it is about is wanted, as it usually is.
                (None, DeValue::Table(inner)) if holds_settings && inner.is_empty() => {
                    let (value, origin) = (Value::Object(serde_json::Map::new()), self.origin(name.span()));
                    self.contents.given.push(Given { section, path, value, origin });
                }
                (None, DeValue::Table(inner)) if holds_settings => self.table(section, settings, &inside, inner),
                (None, _) if holds_settings => {
                    let at = self.origin(value.span());
                    self.mistake(
                        Some(section),
                        format!("[{0}.{path}] is a table, with options of its own", section.name()),
                        at,
                    );
                }
                (None, _) => self.unknown(section, settings, prefix, name.get_ref(), name.span()),
            }
        }
    }

    fn value(&mut self, section: Section, setting: &Setting, found: &DeValue<'_>, span: Range<usize>) {
        let at = self.origin(span);
        match to_json(found) {
            Some(value) if setting.kind.takes(&value) => {
                self.contents.given.push(Given { section, path: setting.path.clone(), value, origin: at });
            }
            _ => {
                let found = match (found, &setting.kind) {
                    (DeValue::Integer(_), Kind::Integer(..)) => "another number",
                    (DeValue::String(_), Kind::Word(_)) => "another word",
                    (DeValue::Array(_), Kind::List(_)) => "a list with something else in it",
                    _ => kind_of(found),
                };
                let expected = setting.kind.expected();
                let text =
                    format!("option {} of [{}]: expected {expected}; found {found}", setting.path, section.name());
                self.mistake(Some(section), text, at);
            }
        }
    }

    fn unknown(&mut self, section: Section, settings: &[Setting], prefix: &str, name: &str, span: Range<usize>) {
        // Names at this level, be they options or tables of options.
        let beside = settings.iter().filter_map(|setting| setting.path.strip_prefix(prefix)?.split('.').next());
        let meant = by_published_name(section, name).or_else(|| meant(name, beside));
        let hint = match meant.map(str::to_owned).or_else(|| elsewhere(section, name)) {
            Some(meant) => format!("; did you mean {meant}?"),
            None => "; `iicp config schema` lists the options".into(),
        };
        let at = self.origin(span);
        self.mistake(
            Some(section),
            format!("there is no option {name} in [{}{}]{hint}", section.name(), table_of(prefix)),
            at,
        );
    }

    fn mistake(&mut self, section: Option<Section>, message: String, at: Origin) {
        self.contents.mistakes.push(Mistake::new(section, message, vec![at]));
    }

    fn origin(&self, span: Range<usize>) -> Origin {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Origin::File { path: self.path.clone(), line, column }
    }
}

/// An option of that very name in another section.
fn elsewhere(section: Section, name: &str) -> Option<String> {
    let others = Section::ALL.into_iter().filter(|other| *other != section);
    let mut found = others.filter(|other| other.settings().iter().any(|setting| setting.path == name));
    found.next().map(|other| format!("{name} in [{}]", other.name()))
}

fn table_of(prefix: &str) -> String {
    prefix.strip_suffix('.').map_or_else(String::new, |table| format!(".{table}"))
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// None for what JSON has no form for: dates, numbers that are too large or not finite.
fn to_json(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Integer(number) => Value::from(i64::from_str_radix(number.as_str(), number.radix()).ok()?),
        DeValue::Float(number) => serde_json::Number::from_f64(number.as_str().parse().ok()?).map(Value::Number)?,
        DeValue::Boolean(is) => Value::Bool(*is),
        DeValue::Datetime(_) => return None,
        DeValue::Array(items) => Value::Array(items.iter().map(|item| to_json(item.get_ref())).collect::<Option<_>>()?),
        DeValue::Table(table) => {
            let member = |(name, value): (&toml::Spanned<toml::de::DeString<'_>>, &toml::Spanned<DeValue<'_>>)| {
                Some((name.get_ref().to_string(), to_json(value.get_ref())?))
            };
            Value::Object(table.iter().map(member).collect::<Option<_>>()?)
        }
    })
}
