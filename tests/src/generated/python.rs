//! Python's module of generated things: error codes, kinds of events and the types of the options.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use iicp_core::Code;
use iicp_core::bridge::{EventKind, Inference};

use super::source::{Kind, OptionField, Struct, structs};

/// What a call cannot do without, and what it takes as an argument of its own.
const REQUIRED: &[(&str, &str)] = &[
    ("Discover", "intent"),
    ("TaskOptions", "intent"),
    ("ProfileRequest", "profile_id"),
    ("ProfileRequest", "profile_version"),
    ("ProfileRequest", "profile_fixture_sha256"),
    ("ChatMessage", "role"),
];
const ARGUMENTS: &[(&str, &str)] = &[
    ("ClientOptions", "external_ranker"),
    ("Chat", "messages"),
    ("Completion", "prompt"),
    ("Embedding", "input"),
    ("Transcription", "audio"),
    ("Speech", "input"),
    ("Moderation", "input"),
];
/// As `ruff format` is told.
const LONGEST_LINE: usize = 120;
/// Not for users of this layer, which makes its runtime and its queues itself.
const INTERNAL: &[&str] = &["RuntimeOptions", "QueueOptions"];

pub(super) fn render(_present: &str) -> Result<String, String> {
    let mut structs = structs()?;
    structs.retain(|options| !INTERNAL.contains(&options.name.as_str()));
    let mut out = String::from(
        "\"\"\"Written by `cargo gen` from the engine's own tables; change those instead.\"\"\"\n\n\
         from __future__ import annotations\n\n\
         from collections.abc import Mapping, Sequence\n\
         from enum import IntEnum\n\
         from typing import Any, Final, Literal, Required, TypedDict\n\n\
         from ._public import public\n\n",
    );
    intents(&mut out);
    codes(&mut out);
    event_kinds(&mut out);
    inferences(&mut out);
    times(&mut out, &structs);
    let _ = writeln!(out, "DEFAULT_MAX_CONCURRENT: Final = {}", default_of(&structs, "NodeOptions", "max_concurrent")?);
    message(&mut out);
    for options in &structs {
        options_type(&mut out, options);
    }
    out.push_str("\n\npublic(globals())\n");
    Ok(out)
}

/// The well-known intents: of a chat, and of every model task that has a call of its own.
fn intents(out: &mut String) {
    for (name, intent, about) in [
        ("CHAT", iicp_core::CHAT, "a chat with a language model"),
        ("COMPLETION", iicp_core::COMPLETION, "a text completion"),
        ("EMBEDDING", iicp_core::EMBEDDING, "turning texts into vectors"),
        ("TRANSCRIPTION", iicp_core::TRANSCRIPTION, "writing down speech"),
        ("SPEECH", iicp_core::SPEECH, "speaking a text"),
        ("MODERATION", iicp_core::MODERATION, "judging a text"),
    ] {
        let _ = writeln!(out, "{name}: Final = {intent:?}\n\"\"\"The intent of {about}.\"\"\"\n");
    }
}

fn codes(out: &mut String) {
    out.push_str("\nclass Code(IntEnum):\n    \"\"\"The stable error codes, the same in every language.\"\"\"\n\n");
    for code in Code::ALL {
        let _ = writeln!(out, "    {} = {}\n    \"\"\"{}\"\"\"", code.name(), code.number(), code.text());
    }
    out.push('\n');
}

fn event_kinds(out: &mut String) {
    out.push_str("\nclass EventKind(IntEnum):\n    \"\"\"What an event of a queue says.\"\"\"\n\n");
    for kind in EventKind::ALL {
        let _ = writeln!(out, "    {} = {}\n    \"\"\"{}\"\"\"", kind.name(), kind.number(), kind.text());
    }
    out.push_str("\n\n");
}

fn inferences(out: &mut String) {
    out.push_str("class Inference(IntEnum):\n    \"\"\"Which model task a call runs.\"\"\"\n\n");
    for kind in Inference::ALL {
        let _ = writeln!(out, "    {} = {}\n    \"\"\"{}\"\"\"", kind.name(), kind.number(), kind.text());
    }
    out.push_str("\n\n");
}

/// Times are seconds in Python, as everywhere in its library, and whole milliseconds in the engine.
fn in_seconds(option: &OptionField) -> Option<&str> {
    option.name.strip_suffix("_ms").filter(|_| option.kind == Kind::Integer)
}

fn times(out: &mut String, structs: &[Struct]) {
    let names: BTreeSet<&str> = structs.iter().flat_map(|s| &s.options).filter_map(in_seconds).collect();
    out.push_str("SECONDS: Final = frozenset(\n    {\n");
    for name in names {
        let _ = writeln!(out, "        {name:?},");
    }
    out.push_str("    }\n)\n\"\"\"Options in seconds; the engine calls them the same with ``_ms`` behind.\"\"\"\n\n");
    let holds_times = |option: &&OptionField| {
        let Kind::Struct(held) = &option.kind else { return false };
        structs.iter().any(|s| s.name == *held && s.options.iter().any(|option| in_seconds(option).is_some()))
    };
    let holding: BTreeSet<String> = structs
        .iter()
        .flat_map(|s| &s.options)
        .filter(holds_times)
        .map(|option| format!("{:?}", option.name))
        .collect();
    let holding = holding.into_iter().collect::<Vec<_>>().join(", ");
    let _ =
        writeln!(out, "HOLD_SECONDS: Final = frozenset({{{holding}}})\n\"\"\"Options that hold such options.\"\"\"\n");
}

fn default_of(structs: &[Struct], name: &str, option: &str) -> Result<String, String> {
    let found = structs.iter().find(|s| s.name == name).and_then(|s| s.options.iter().find(|o| o.name == option));
    found.map(|option| option.default.to_string()).ok_or_else(|| format!("{name} has no option {option}"))
}

fn message(out: &mut String) {
    out.push_str(
        "\n\nclass TextPart(TypedDict):\n    \"\"\"Text in a message.\"\"\"\n\n    type: Literal[\"text\"]\n    text: str\n\
         \n\nclass ImageUrl(TypedDict, total=False):\n    \"\"\"Where a picture is.\"\"\"\n\n    url: Required[str]\n    \
         \"\"\"An ``https:`` or a ``data:`` URL; the provider fetches it.\"\"\"\n    \
         detail: Literal[\"auto\", \"low\", \"high\"]\n    \"\"\"How closely it is looked at.\"\"\"\n\
         \n\nclass ImagePart(TypedDict):\n    \"\"\"A picture in a message.\"\"\"\n\n    type: Literal[\"image_url\"]\n    \
         image_url: ImageUrl\n\
         \n\nclass InputAudio(TypedDict):\n    \"\"\"A sound, base64, and its format.\"\"\"\n\n    data: str\n    format: str\n\
         \n\nclass AudioPart(TypedDict):\n    \"\"\"Sound in a message.\"\"\"\n\n    type: Literal[\"input_audio\"]\n    \
         input_audio: InputAudio\n\
         \n\nContentPart = TextPart | ImagePart | AudioPart\n\"\"\"A part of a message.\"\"\"\n",
    );
}

fn options_type(out: &mut String, options: &Struct) {
    let name = &options.name;
    let _ = write!(out, "\n\nclass {name}(TypedDict, total=False):\n    \"\"\"{}\"\"\"\n\n", options.about);
    for option in &options.options {
        let is_in = |list: &[(&str, &str)]| list.contains(&(name, &option.name));
        if is_in(ARGUMENTS) {
            continue;
        }
        let (field, kind) = match in_seconds(option) {
            Some(field) => (field, "float".to_owned()),
            None => (&*option.name, python_type(&option.kind)),
        };
        let kind = if option.optional { format!("{kind} | None") } else { kind };
        let kind = if is_in(REQUIRED) { format!("Required[{kind}]") } else { kind };
        let default = match &option.default {
            serde_json::Value::Null => String::new(),
            _ if is_in(REQUIRED) => String::new(),
            default => format!(" Default: {}.", python_value(default, in_seconds(option).is_some())),
        };
        let about = option.about.replace('`', "``").replace("milliseconds", "seconds").replace("120,000", "120");
        let mut line = format!("    {field}: {kind}");
        if line.len() > LONGEST_LINE {
            line = format!("    {field}: (\n        {}\n    )", on_lines(&kind));
        }
        let _ = writeln!(out, "{line}\n    \"\"\"{about}{default}\"\"\"");
    }
}

/// A type as ruff writes it when it does not fit into a line of its own.
fn on_lines(kind: &str) -> String {
    let words = kind.strip_prefix("Literal[").and_then(|rest| rest.split_once("] | None"));
    match words {
        Some((words, "")) if 8 + kind.len() > LONGEST_LINE => {
            let words = words.replace(", ", ",\n            ");
            format!("Literal[\n            {words},\n        ]\n        | None")
        }
        _ => kind.to_owned(),
    }
}

fn python_type(kind: &Kind) -> String {
    match kind {
        Kind::Boolean => "bool".into(),
        Kind::Integer => "int".into(),
        Kind::Number => "float".into(),
        Kind::String => "str".into(),
        Kind::Enum(words) => {
            format!("Literal[{}]", words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", "))
        }
        Kind::Struct(name) => name.clone(),
        Kind::Content => "str | Sequence[ContentPart]".into(),
        Kind::Map => "Mapping[str, Any]".into(),
        Kind::Json => "Any".into(),
        Kind::List(of) => format!("Sequence[{}]", python_type(of)),
    }
}

fn python_value(value: &serde_json::Value, in_seconds: bool) -> String {
    match value {
        serde_json::Value::Bool(yes) => if *yes { "True" } else { "False" }.into(),
        serde_json::Value::Number(number) if in_seconds => {
            number.as_f64().map_or_else(String::new, |ms| format!("{:?}", ms / 1000.0))
        }
        other => format!("``{other}``"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_and_every_option_of_the_layer_is_in_the_module() {
        let text = render("").unwrap();
        assert!(Code::ALL.iter().all(|code| text.contains(&format!("    {} = {}\n", code.name(), code.number()))));
        assert!(text.contains("    intent: Required[str]\n") && text.contains("    timeout: float | None\n"));
        assert!(!text.contains("_ms:") && !text.contains("    messages:"), "{text}");
    }
}
