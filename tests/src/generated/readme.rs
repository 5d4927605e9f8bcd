//! The README's tables: every option and every error code.

use std::fmt::Write as _;

use iicp_core::Code;
use serde_json::Value;

use super::fill;
use super::source::{Kind, OptionField, structs};

pub(super) fn render(present: &str) -> Result<String, String> {
    let text = fill(present, "options", &options()?)?;
    fill(&text, "errors", &errors())
}

fn options() -> Result<String, String> {
    let mut out = String::new();
    for options in structs()? {
        let _ = write!(out, "\n**`{}`**: {}\n\n", options.name, lower_first(&options.about));
        out.push_str("| Option | Type | Default | Meaning |\n|---|---|---|---|\n");
        for option in &options.options {
            let _ = writeln!(
                out,
                "| `{}` | {}{} | {} | {} |",
                option.name,
                kind(&option.kind),
                if option.optional { ", optional" } else { "" },
                default(option),
                cell(&option.about)
            );
        }
    }
    out.push('\n');
    Ok(out)
}

fn errors() -> String {
    let mut out = String::from("\n| Number | Name | Retryable | Meaning |\n|---|---|---|---|\n");
    for code in Code::ALL {
        let retryable = if code.retryable() { "yes" } else { "no" };
        let _ = writeln!(out, "| {} | `{}` | {retryable} | {} |", code.number(), code.name(), cell(code.text()));
    }
    out.push('\n');
    out
}

fn kind(kind: &Kind) -> String {
    match kind {
        Kind::Boolean => "boolean".into(),
        Kind::Integer => "integer".into(),
        Kind::Number => "number".into(),
        Kind::String => "string".into(),
        Kind::Enum(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or "),
        Kind::Struct(name) => format!("`{name}`"),
        Kind::Content => "text or list of parts".into(),
        Kind::Map => "object".into(),
        Kind::Json => "any JSON".into(),
        Kind::List(of) => format!("list of {}", self::kind(of)),
    }
}

fn default(option: &OptionField) -> String {
    match &option.default {
        Value::Null => "none".into(),
        Value::Number(bytes) if option.name.ends_with("_bytes") => match bytes.as_u64() {
            Some(n) if n >= 1 << 20 && n % (1 << 20) == 0 => format!("`{n}` ({} MiB)", n >> 20),
            _ => format!("`{bytes}`"),
        },
        other => format!("`{other}`"),
    }
}

/// Text that cannot end its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}
