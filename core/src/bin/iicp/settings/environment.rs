//! Settings that come from variables of the environment.

use std::io::Read as _;

use super::names::{Section, meant, variables};
use super::schema::Setting;
use super::{Given, Mistake, Origin};

/// Names a file that holds the configuration.
pub(crate) const CONFIG_FILE: &str = "IICP_CONFIG_FILE";
/// Says how much is logged.
pub(crate) const LOG: &str = "IICP_LOG";
/// Says how long running tasks have when the command is stopped.
pub(crate) const DRAIN_MS: &str = "IICP_DRAIN_MS";

/// A secret is short.
const MOST_SECRET_BYTES: u64 = 64 << 10;

/// What the environment gives, and what is wrong with it.
pub(crate) fn read(given: &mut Vec<Given>, mistakes: &mut Vec<Mistake>) {
    for section in Section::ALL {
        for setting in section.settings() {
            // The less precise name first, so that the other has the last word.
            for name in variables(section, &setting.path).into_iter().rev() {
                match value_of(&name, &setting) {
                    Ok(None) => {}
                    Ok(Some((text, origin))) => match setting.kind.read(&text) {
                        Some(value) => given.push(Given { section, path: setting.path.clone(), value, origin }),
                        None => {
                            let expected = setting.kind.expected();
                            mistakes.push(Mistake::new(
                                Some(section),
                                format!("{origin}: expected {expected}"),
                                vec![origin],
                            ));
                        }
                    },
                    Err((why, origin)) => mistakes.push(Mistake::new(Some(section), why, vec![origin])),
                }
            }
        }
    }
}

/// The value of a variable that is set and not empty. A secret may stand in a file whose path `<NAME>_FILE` gives, as
/// container engines hand it over.
fn value_of(name: &str, setting: &Setting) -> Result<Option<(String, Origin)>, (String, Origin)> {
    let origin = |name: &str| Origin::Variable(name.to_owned());
    let not_text = |name: &str| (format!("{name} is not UTF-8 text"), origin(name));
    if let Some(value) = std::env::var_os(name).filter(|value| !value.is_empty()) {
        return match value.into_string() {
            Ok(text) => Ok(Some((text, origin(name)))),
            Err(_) => Err(not_text(name)),
        };
    }
    let from_file = format!("{name}_FILE");
    if !setting.secret && !setting.pem {
        return Ok(None);
    }
    let Some(path) = std::env::var_os(&from_file).filter(|path| !path.is_empty()) else { return Ok(None) };
    if setting.pem {
        // The library reads it itself, and again when it is renewed.
        let path = path.into_string().map_err(|_| not_text(&from_file))?;
        return Ok(Some((path, origin(&from_file))));
    }
    let mut text = String::new();
    match std::fs::File::open(&path).and_then(|file| file.take(MOST_SECRET_BYTES).read_to_string(&mut text)) {
        Ok(_) => Ok(Some((text.trim_end_matches(['\n', '\r']).to_owned(), origin(&from_file)))),
        Err(error) => {
            Err((format!("{}, which {from_file} names, cannot be read: {error}", path.display()), origin(&from_file)))
        }
    }
}

/// Variables that look like ours and are probably spelt wrong, with what they were meant to be.
pub(crate) fn slips() -> Vec<(String, String)> {
    let mut known: Vec<String> = [CONFIG_FILE, LOG, DRAIN_MS].map(str::to_owned).into();
    for section in Section::ALL {
        for setting in section.settings() {
            for name in variables(section, &setting.path) {
                if setting.secret || setting.pem {
                    known.push(format!("{name}_FILE"));
                }
                known.push(name);
            }
        }
    }
    let ours =
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(|name| name.starts_with("IICP_"));
    let slip = |name: String| {
        if known.contains(&name) {
            return None;
        }
        // Of the published command's many variables most mean nothing here, and are no mistake.
        let near = known.iter().map(|known| known.strip_prefix("IICP_").unwrap_or(known));
        let meant = meant(name.strip_prefix("IICP_").unwrap_or(&name), near)?;
        let meant = format!("IICP_{meant}");
        (strsim::damerau_levenshtein(&name, &meant) <= 2).then_some((name, meant))
    };
    ours.filter_map(slip).collect()
}
