//! `bindings-node/src/generated.ts`: error codes, event kinds, option types and the names that options have in the core;
//! and the version in the npm package's own files.

use std::fmt::Write as _;

use iicp_core::bridge::{EventKind, Inference, Spelling};
use iicp_core::options::DirectoryOptions;
use iicp_core::{CHAT, COMPLETION, Code, EMBEDDING, MODERATION, SPEECH, TRANSCRIPTION};
use serde_json::Value;

use super::source::{Kind, OptionField, Struct, structs};

/// Options without which a call cannot mean anything. Their defaults are empty, and the core refuses them.
const REQUIRED: &[(&str, &str)] = &[
    ("Discover", "intent"),
    ("TaskOptions", "intent"),
    ("Chat", "messages"),
    ("ProfileRequest", "profile_id"),
    ("ProfileRequest", "profile_version"),
    ("ProfileRequest", "profile_fixture_sha256"),
    ("ChatMessage", "role"),
    ("Completion", "prompt"),
    ("Embedding", "input"),
    ("Transcription", "audio"),
    ("Speech", "input"),
    ("Moderation", "input"),
];

/// Keeps the names that every chat library has, whatever the language; nothing is mapped in it.
const AS_THEY_ARE: &str = "ChatMessage";

/// Set by this layer itself: its clients are given a function.
const OURS: &[(&str, &str)] = &[("ClientOptions", "external_ranker")];

/// The well-known intents that have a call of their own.
const INTENTS: &[(&str, &str, &str)] = &[
    ("CHAT", CHAT, "a chat with a language model"),
    ("COMPLETION", COMPLETION, "a text completion"),
    ("EMBEDDING", EMBEDDING, "turning texts into vectors"),
    ("TRANSCRIPTION", TRANSCRIPTION, "writing down speech"),
    ("SPEECH", SPEECH, "speaking a text"),
    ("MODERATION", MODERATION, "judging a text"),
];

/// Not for users of this layer, which makes its runtime and its queues itself.
const INTERNAL: &[&str] = &["RuntimeOptions", "QueueOptions"];

/// `package.json`, which names the version once.
pub(super) fn package(present: &str) -> Result<String, String> {
    stamp(present, 1)
}

/// `package-lock.json`, which begins with the package itself, twice.
pub(super) fn lock(present: &str) -> Result<String, String> {
    stamp(present, 2)
}

/// Puts our version into the first so many places that have one.
fn stamp(present: &str, places: usize) -> Result<String, String> {
    const KEY: &str = "\"version\": \"";
    let (mut out, mut rest) = (String::with_capacity(present.len()), present);
    for _ in 0..places {
        let (before, after) = rest.split_once(KEY).ok_or("it has no version")?;
        let (_, after) = after.split_once('"').ok_or("its version has no end")?;
        out += before;
        out += KEY;
        out += env!("CARGO_PKG_VERSION");
        out.push('"');
        rest = after;
    }
    Ok(out + rest)
}

pub(super) fn render(_present: &str) -> Result<String, String> {
    let mut out =
        String::from("// Written by `cargo gen` from options.rs, error.rs and event.rs of the core. Do not edit.\n\n");
    for (name, intent, about) in INTENTS {
        let _ = writeln!(out, "/** The intent of {about}. */\nexport const {name} = \"{intent}\";\n");
    }
    codes(&mut out);
    kinds(&mut out);
    inferences(&mut out);
    out.push_str(
        "/** A part of a message: text, a picture (an `https:` or a `data:` URL that the provider fetches), or sound in base64. */\n\
         export type ContentPart =\n  | { type: \"text\"; text: string }\n  \
         | { type: \"image_url\"; image_url: { url: string; detail?: \"auto\" | \"low\" | \"high\" } }\n  \
         | { type: \"input_audio\"; input_audio: { data: string; format: string } };\n\n",
    );
    let mut structs = structs()?;
    for Struct { name, options, .. } in &mut structs {
        options.retain(|option| !OURS.contains(&(name.as_str(), option.name.as_str())));
    }
    let mut nested = Vec::new();
    for options in structs.iter().filter(|options| !INTERNAL.contains(&options.name.as_str())) {
        interface(&mut out, options);
        if options.name != AS_THEY_ARE {
            names(&mut out, options);
        }
        nested.extend(options.options.iter().filter_map(|option| match &option.kind {
            Kind::Struct(name) => Some((option.name.clone(), name.clone())),
            Kind::List(of) => match &**of {
                Kind::Struct(name) if name != AS_THEY_ARE => Some((option.name.clone(), name.clone())),
                _ => None,
            },
            _ => None,
        }));
    }
    nested.sort();
    nested.dedup();
    out.push_str("/** Options that hold options of their own, by what the core calls them. */\n");
    out.push_str("export const NESTED: ReadonlyMap<string, ReadonlyMap<string, string>> = new Map([\n");
    for (option, name) in nested {
        let _ = writeln!(out, "  [\"{option}\", {}],", names_of(&name));
    }
    out.push_str("]);\n\n");
    loopback(&mut out)?;
    Ok(out)
}

/// What `DirectoryOptions::loopback()` changes of the defaults.
fn loopback(out: &mut String) -> Result<(), String> {
    let read = |options| serde_json::to_value::<DirectoryOptions>(options).map_err(|e| e.to_string());
    let (default, loopback) = (read(DirectoryOptions::default())?, read(DirectoryOptions::loopback())?);
    out.push_str("/** How a directory for development on this machine differs from a public one. */\n");
    out.push_str("export const LOOPBACK: DirectoryOptions = {\n");
    for (name, value) in loopback.as_object().into_iter().flatten() {
        if default[name] != *value {
            let _ = writeln!(out, "  {}: {value},", camel(name));
        }
    }
    out.push_str("};\n");
    Ok(())
}

fn codes(out: &mut String) {
    out.push_str("/** Every stable error code by its name. */\nexport const Code = {\n");
    for code in Code::ALL {
        let _ = writeln!(out, "  /** {} */\n  {}: {},", code.text(), code.name(), code.number());
    }
    out.push_str("} as const;\n\n/** The name of an error code. */\nexport type CodeName = keyof typeof Code;\n\n");
    out.push_str(
        "/** The names of the codes by their numbers. */\nexport const CODE_NAMES: ReadonlyMap<number, CodeName> =",
    );
    out.push_str(" new Map(\n  Object.entries(Code).map(([name, number]) => [number, name as CodeName]),\n);\n\n");
}

fn kinds(out: &mut String) {
    out.push_str("/** What an event of the core says. */\nexport const EventKind = {\n");
    for kind in EventKind::ALL {
        let _ = writeln!(out, "  /** {} */\n  {}: {},", kind.text(), kind.name(), kind.number());
    }
    out.push_str("} as const;\n\n");
}

fn inferences(out: &mut String) {
    out.push_str("/** The model tasks that have a call of their own. */\nexport const Inference = {\n");
    for kind in Inference::ALL {
        let _ = writeln!(out, "  /** {} */\n  {}: {},", kind.text(), kind.name(), kind.number());
    }
    out.push_str("} as const;\n\n");
}

fn interface(out: &mut String, options: &Struct) {
    let _ = writeln!(out, "/** {} */\nexport interface {} {{", options.about, options.name);
    for option in &options.options {
        let required = REQUIRED.contains(&(options.name.as_str(), option.name.as_str()));
        let mark = if required { "" } else { "?" };
        let of = kind(&option.kind);
        let name = if options.name == AS_THEY_ARE { option.name.clone() } else { camel(&option.name) };
        let undefined = if required { "" } else { " | undefined" };
        let _ = writeln!(out, "  /** {}{} */", option.about, default(option));
        let _ = writeln!(out, "  {name}{mark}: {of}{undefined};");
    }
    out.push_str("}\n\n");
}

fn names_of(options: &str) -> String {
    format!("{}_NAMES", options.strip_suffix("Options").unwrap_or(options).to_uppercase())
}

/// A map instead of an object: `constructor` and the like are no options.
fn names(out: &mut String, options: &Struct) {
    let name = names_of(&options.name);
    let _ = writeln!(out, "/** What the core calls the options of `{}`. */", options.name);
    let _ = writeln!(out, "export const {name}: ReadonlyMap<string, string> = new Map([");
    for option in &options.options {
        let _ = writeln!(out, "  [\"{}\", \"{}\"],", camel(&option.name), option.name);
    }
    out.push_str("]);\n\n");
}

fn kind(kind: &Kind) -> String {
    match kind {
        Kind::Boolean => "boolean".into(),
        Kind::Integer | Kind::Number => "number".into(),
        Kind::String => "string".into(),
        Kind::Enum(words) => words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" | "),
        Kind::Struct(name) => name.clone(),
        Kind::Content => "string | readonly ContentPart[]".into(),
        Kind::Map => "Readonly<Record<string, unknown>>".into(),
        Kind::Json => "unknown".into(),
        Kind::List(of) => match **of {
            Kind::Enum(_) => format!("readonly ({})[]", self::kind(of)),
            _ => format!("readonly {}[]", self::kind(of)),
        },
    }
}

fn default(option: &OptionField) -> String {
    match &option.default {
        Value::Null => String::new(),
        Value::String(text) if text.is_empty() => String::new(),
        Value::Array(list) if list.is_empty() => String::new(),
        other => format!(" Default: `{other}`."),
    }
}

fn camel(name: &str) -> String {
    Spelling::Camel.option(name).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_camel_case_and_lead_back() {
        for (snake, name) in [("intent", "intent"), ("timeout_ms", "timeoutMs"), ("max_body_bytes", "maxBodyBytes")] {
            assert_eq!(camel(snake), name);
        }
    }

    #[test]
    fn the_version_is_stamped_where_it_is_the_packages_own() {
        let lock = |ours: &str| {
            format!(r#"{{ "version": "{ours}", "": {{ "version": "{ours}" }}, "x": {{ "version": "7" }} }}"#)
        };
        assert_eq!(stamp(&lock("0"), 2).unwrap(), lock(env!("CARGO_PKG_VERSION")));
        assert!(stamp("{}", 1).is_err());
    }
}
