//! `include/iicp.h`: the C interface as cbindgen reads it from `ffi-c/src`, with the codes and kinds from the engine.

use std::fmt::Write as _;
use std::path::Path;

use cbindgen::{Builder, Config, DocumentationStyle, ExportConfig, FunctionConfig, Language, Layout, Style};
use iicp_core::bridge::{EventKind, Inference, Spelling};
use iicp_core::options::DirectoryOptions;
use iicp_core::{CHAT, COMPLETION, Code, EMBEDDING, MODERATION, SPEECH, TRANSCRIPTION};

/// The files in the order in which the manual reads best.
const FILES: &[&str] =
    &["version", "view", "error", "runtime", "queue", "event", "client", "wait", "node", "directory"];

const PREFACE: &str = include_str!("preface.h");

/// What a C program needs to lend a text: after the types, and no symbols of the library.
const HELPERS: &str = "\
/** A view of a C string; NULL is the empty text. */
static inline iicp_str iicp_text(const char *text) {
    iicp_str view;
    view.ptr = text;
    view.len = text ? strlen(text) : 0;
    return view;
}

/** The same for a body. */
static inline iicp_bytes iicp_body(const char *text) {
    iicp_bytes view;
    view.ptr = (const uint8_t *)text;
    view.len = text ? strlen(text) : 0;
    return view;
}

";

/// The well-known intents: their names in every language, and what they are the intents of.
pub(super) const INTENTS: [(&str, &str, &str); 6] = [
    ("CHAT", "chats", CHAT),
    ("COMPLETION", "completions", COMPLETION),
    ("EMBEDDING", "embeddings", EMBEDDING),
    ("TRANSCRIPTION", "transcriptions", TRANSCRIPTION),
    ("SPEECH", "speeches", SPEECH),
    ("MODERATION", "moderations", MODERATION),
];

/// Where the functions begin.
const FUNCTIONS: &str = "#ifdef __cplusplus\nextern \"C\" {";

pub(super) fn render(_present: &str) -> Result<String, String> {
    let folder = crate::root().join("ffi-c/src");
    let config = Config {
        language: Language::C,
        cpp_compat: true,
        header: Some(PREFACE.trim_end().into()),
        include_guard: Some("IICP_H".into()),
        no_includes: true,
        sys_includes: ["stddef.h", "stdint.h", "string.h"].map(Into::into).into(),
        after_includes: Some(constants()?),
        usize_is_size_t: true,
        style: Style::Type,
        documentation_style: DocumentationStyle::Doxy,
        line_length: 110,
        tab_width: 4,
        // These stand above already, with their numbers.
        export: ExportConfig {
            exclude: ["iicp_code", "iicp_event_kind", "iicp_inference", "iicp_spelling"].map(Into::into).into(),
            ..ExportConfig::default()
        },
        function: FunctionConfig { args: Layout::Auto, ..FunctionConfig::default() },
        ..Config::default()
    };
    let sources = FILES.iter().map(|file| folder.join(file).with_extension("rs"));
    let builder = sources.clone().fold(Builder::new().with_config(config), |builder, path| builder.with_src(path));
    let mut header = Vec::new();
    builder.generate().map_err(|e| e.to_string())?.write(&mut header);
    let header = String::from_utf8(header).map_err(|e| e.to_string())?;
    let at = header.find(FUNCTIONS).ok_or("the header has no functions")?;
    let header = [&header[..at], HELPERS, &header[at..]].concat();
    sources.rev().try_fold(header, |header, path| with_heading(&header, &path))
}

/// The numbers, and the texts that the engine has and C cannot make up.
fn constants() -> Result<String, String> {
    let mut out = String::from(
        "\n/** What a function returns that can fail: `IICP_OK` or why not. */\ntypedef int32_t iicp_code;\n",
    );
    out.push_str("\n/** Every code. A later library may add some. */\nenum {\n");
    for code in Code::ALL {
        let again = if code.retryable() { " May succeed later." } else { "" };
        let _ = write!(out, "    /** {}{again} */\n    IICP_{} = {},\n", code.text(), code.name(), code.number());
    }
    out.push_str("};\n\n/** What an event says. */\ntypedef int32_t iicp_event_kind;\n");
    out.push_str("\n/** Every kind of event. A later library may add some. */\nenum {\n");
    for kind in EventKind::ALL {
        let _ = write!(out, "    /** {} */\n    IICP_EVENT_{} = {},\n", kind.text(), kind.name(), kind.number());
    }
    out.push_str("};\n\n/** Which model task `iicp_client_infer` runs. */\ntypedef int32_t iicp_inference;\n");
    out.push_str("\n/** Every model task. A later library may add some. */\nenum {\n");
    for kind in Inference::ALL {
        let _ = write!(out, "    /** {} */\n    IICP_INFERENCE_{} = {},\n", kind.text(), kind.name(), kind.number());
    }
    out.push_str("};\n\n/** How a language calls the options of the engine. */\ntypedef int32_t iicp_spelling;\n");
    out.push_str("\n/** Every spelling. A later library may add some. */\nenum {\n");
    for kind in Spelling::ALL {
        let _ = write!(out, "    /** {} */\n    IICP_SPELLING_{} = {},\n", kind.text(), kind.name(), kind.number());
    }
    out.push_str("};\n\n");
    for (name, what, intent) in INTENTS {
        let _ = writeln!(out, "/** The intent of {what}. */\n#define IICP_{name} \"{intent}\"");
    }
    let loopback = directory_loopback()?;
    let _ = write!(
        out,
        "\n/** Options of a directory for development on this machine: nothing is probed, limited or gated. */\n\
         #define IICP_DIRECTORY_LOOPBACK \"{}\"",
        loopback.replace('"', "\\\"")
    );
    Ok(out)
}

/// What `DirectoryOptions::loopback` changes, as JSON.
pub(super) fn directory_loopback() -> Result<String, String> {
    let fields = |options| serde_json::to_value(options).map_err(|e| e.to_string());
    let defaults = fields(DirectoryOptions::default())?;
    let mut loopback = fields(DirectoryOptions::loopback())?;
    let loopback = loopback.as_object_mut().ok_or("options are an object")?;
    loopback.retain(|name, value| defaults[name] != *value);
    serde_json::to_string(loopback).map_err(|e| e.to_string())
}

/// Puts a file's first line above its first function.
fn with_heading(header: &str, path: &Path) -> Result<String, String> {
    let source = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let title = source.lines().next().and_then(|line| line.strip_prefix("//! ")).ok_or("a file has no first line")?;
    let Some((_, function)) = source.split_once("extern \"C\" fn iicp_") else { return Ok(header.into()) };
    let name = function.split('(').next().unwrap_or_default();
    let at = header.find(&format!(" iicp_{name}(")).ok_or_else(|| format!("iicp_{name} is not in the header"))?;
    let comment = header[..at].rfind("/**").ok_or_else(|| format!("iicp_{name} has no comment"))?;
    let title = title.split(':').next().unwrap_or(title).trim_end_matches('.');
    let rule = "-".repeat(100_usize.saturating_sub(title.len()));
    Ok(format!("{}/* ---- {title} {rule} */\n\n{}", &header[..comment], &header[comment..]))
}
