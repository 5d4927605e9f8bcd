//! OpenAI's interface: tasks to requests, answers to results. Payloads and results stay bytes, but for the few fields
//! that have to change.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::fields::{Fields, json_string};
use super::form::Form;
use super::models::Models;
use super::upstream::{Content, Failure, no_model};
use crate::error::{Code, Error, Result};
use crate::node::handler::{Inbound, Reply};
use crate::transport::http_client;
use crate::types::{CHAT, COMPLETION, EMBEDDING, MODERATION, Payload, SPEECH, TRANSCRIPTION, check_depth};
use crate::wire::{count, object as object_of};

/// What is asked of the server, and what its answer has to be.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) path: &'static str,
    pub(super) content: Content,
    pub(super) wanted: Wanted,
    /// Whether the answer may come in parts.
    pub(super) in_parts: bool,
}

/// The form of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A JSON object with this field; it is the result.
    Object { with: &'static str },
    /// The same; what its messages say must be text.
    Chat,
    /// A message of Anthropic's interface.
    Message,
    /// A transcript, in JSON or as text.
    Transcript,
    /// A sound file, in this format if one was asked for.
    Sound { format: Option<String> },
}

/// Intents that this interface has.
pub(super) const INTENTS: [&str; 6] = [CHAT, COMPLETION, EMBEDDING, TRANSCRIPTION, SPEECH, MODERATION];

/// What a task asks of the server.
///
/// # Errors
/// `PAYLOAD_INVALID` and `TASK_REJECTED`, as the caller is to be told.
pub(super) fn job(task: &Inbound, models: &Models) -> Result<Job> {
    let fields = Fields::read(task.payload.bytes())?;
    let (path, wanted) = match &*task.intent {
        CHAT => ("/chat/completions", Wanted::Chat),
        COMPLETION => ("/completions", Wanted::Object { with: "choices" }),
        EMBEDDING => ("/embeddings", Wanted::Object { with: "data" }),
        MODERATION => ("/moderations", Wanted::Object { with: "results" }),
        SPEECH => {
            let format = fields.text("response_format")?.map(Cow::into_owned);
            ("/audio/speech", Wanted::Sound { format })
        }
        TRANSCRIPTION => return transcription(task, &fields, models),
        other => return Err(unserved(other)),
    };
    let in_parts = task.takes_events && matches!(&*task.intent, CHAT | COMPLETION);
    let content = Content::Json(json(task, fields, models)?);
    Ok(Job { path, content, wanted, in_parts })
}

/// The backend cannot do this.
pub(super) fn unserved(intent: &str) -> Error {
    Error::rejected(format!("the backend does not serve {intent}; ask the directory who does"))
        .with_wire_code("unknown_intent")
        .with_http_status(404)
}

/// The task leaves the choice to the node, and the backend has not said yet what there is to choose from: another node may
/// be further.
pub(super) fn no_model_yet() -> Error {
    Error::new(Code::Capacity, "the backend has named no model yet")
}

/// The model that a task asks for, or that is asked for in its stead.
pub(super) fn model<'a>(task: &'a Inbound, fields: &Fields<'a>, models: &'a Models) -> Result<Option<Cow<'a, str>>> {
    let named = fields.text("model")?.filter(|model| !model.is_empty()).or(task.model.as_deref().map(Cow::Borrowed));
    match named {
        Some(model) if models.has(&model) => Ok(Some(model)),
        Some(_) => Err(no_model()),
        None => Ok(models.default_for(&task.intent).map(Cow::Borrowed)),
    }
}

/// The payload with what it lacks. Whether a stream is made of the answer is the node's to say.
fn json(task: &Inbound, mut fields: Fields<'_>, models: &Models) -> Result<Bytes> {
    let generates = matches!(&*task.intent, CHAT | COMPLETION);
    let model = model(task, &fields, models)?;
    if model.is_none() && (generates || *task.intent == *EMBEDDING) {
        return Err(no_model_yet());
    }
    let mut more: Vec<(&str, &[u8])> = Vec::with_capacity(4);
    let mut quoted = Vec::new();
    if let Some(model) = &model {
        json_string(&mut quoted, model);
        more.push(("model", &quoted));
    }
    let max_tokens = task.max_tokens.map(|most| most.to_string());
    if let Some(most) = &max_tokens
        && generates
        && fields.get("max_tokens").or(fields.get("max_completion_tokens")).is_none()
    {
        fields.remove(&["max_tokens"]);
        more.push(("max_tokens", most.as_bytes()));
    }
    if generates {
        more.push(("stream", if task.takes_events { b"true" } else { b"false" }));
    }
    if generates && task.takes_events {
        more.push(("stream_options", br#"{"include_usage":true}"#));
    }
    if *task.intent == *SPEECH && fields.get("voice").is_none() {
        fields.remove(&["voice"]);
        more.push(("voice", br#""alloy""#));
    }
    fields.remove(&["model", "stream", "stream_options", "stream_format"]);
    Ok(fields.write(&more))
}

fn transcription(task: &Inbound, fields: &Fields<'_>, models: &Models) -> Result<Job> {
    let audio = match fields.text("audio")? {
        Some(audio) => audio,
        None => fields.text("audio_b64")?.ok_or_else(|| missing("audio, a sound file in base64"))?,
    };
    let file = match audio {
        Cow::Borrowed(inside) => task.payload.bytes().slice_ref(inside.as_bytes()),
        Cow::Owned(unescaped) => unescaped.into(),
    };
    let mut texts: Vec<(&str, Cow<'_, str>)> = Vec::new();
    texts.extend(model(task, fields, models)?.map(|model| ("model", model)));
    for name in ["language", "prompt"] {
        texts.extend(fields.text(name)?.map(|text| (name, text)));
    }
    let format = fields.text("response_format")?.unwrap_or(Cow::Borrowed("json"));
    texts.push(("response_format", format));
    if let Some(temperature) = fields.get("temperature") {
        let is_number = serde_json::from_str::<f64>(temperature.get()).is_ok();
        let text = is_number.then(|| temperature.get()).ok_or_else(|| missing("a number as temperature"))?;
        texts.push(("temperature", Cow::Borrowed(text)));
    }
    let name = fields.text("filename")?.unwrap_or(Cow::Borrowed("audio.wav"));
    let content = Content::Form(Form::new(&name, file, &texts)?);
    Ok(Job { path: "/audio/transcriptions", content, wanted: Wanted::Transcript, in_parts: false })
}

fn missing(what: &str) -> Error {
    Error::new(Code::PayloadInvalid, format!("the payload lacks {what}"))
}

/// The result of an answer.
pub(super) fn reply(wanted: &Wanted, answer: &http_client::Reply) -> Result<Reply, Failure> {
    match wanted {
        Wanted::Object { with } => object(&answer.body, with),
        Wanted::Chat => chat(&answer.body),
        Wanted::Message => super::anthropic::reply(&answer.body),
        Wanted::Transcript => transcript(answer),
        Wanted::Sound { format } => sound(answer, format.as_deref()),
    }
}

/// What is looked at of an answer; the rest is only walked over.
#[derive(Deserialize)]
#[serde(bound(deserialize = "C: Deserialize<'de>"))]
struct Looked<'a, C> {
    #[serde(default = "none")]
    choices: Option<C>,
    #[serde(default)]
    data: Option<IgnoredAny>,
    #[serde(default)]
    results: Option<IgnoredAny>,
    #[serde(default)]
    text: Option<IgnoredAny>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

fn none<C>() -> Option<C> {
    None
}

impl<'a, C: Deserialize<'a>> Looked<'a, C> {
    fn read(body: &'a Bytes) -> Result<Self, Failure> {
        let text = std::str::from_utf8(body).map_err(|_| Failure::Garbage("not text"))?;
        if !text.trim_ascii_start().starts_with('{') {
            return Err(Failure::Garbage("no JSON object"));
        }
        let looked = serde_json::from_str(text).map_err(|_| Failure::Garbage("no JSON object that was asked for"))?;
        check_depth(body).map_err(|_| Failure::Garbage("nested too deeply"))?;
        Ok(looked)
    }

    fn has(&self, name: &str) -> bool {
        match name {
            "choices" => self.choices.is_some(),
            "data" => self.data.is_some(),
            "results" => self.results.is_some(),
            _ => self.text.is_some(),
        }
    }

    /// Tokens that the task took; none if the server does not say, or in no form that is known.
    fn tokens(&self) -> u64 {
        let usage = self.usage.and_then(|usage| object_of::<Usage>(usage.get().as_bytes()).ok());
        usage.as_ref().map_or(0, Usage::tokens)
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Usage {
    #[serde(deserialize_with = "count")]
    total_tokens: Option<u64>,
    #[serde(deserialize_with = "count")]
    prompt_tokens: Option<u64>,
    #[serde(deserialize_with = "count")]
    completion_tokens: Option<u64>,
}

impl Usage {
    pub(super) fn tokens(&self) -> u64 {
        let sum = || self.prompt_tokens.unwrap_or(0).saturating_add(self.completion_tokens.unwrap_or(0));
        self.total_tokens.unwrap_or_else(sum)
    }
}

/// An object that is the result as it is.
fn object(body: &Bytes, with: &str) -> Result<Reply, Failure> {
    let looked = Looked::<IgnoredAny>::read(body)?;
    if !looked.has(with) {
        return Err(Failure::Garbage("without what was asked for"));
    }
    Ok(result(body.slice_ref(body.trim_ascii()), looked.tokens()))
}

fn result(json: Bytes, tokens: u64) -> Reply {
    Reply::from(Payload::trusted(json)).tokens_used(tokens)
}

/// A chat's answer. A message that only calls tools says `null`, which published clients cannot read; such a `null`
/// becomes an empty text, and nothing else is touched.
fn chat(body: &Bytes) -> Result<Reply, Failure> {
    #[derive(Deserialize)]
    struct Choice<'a> {
        #[serde(borrow)]
        message: Message<'a>,
    }
    /// A value as it stands, also if it is null.
    fn raw<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<&'de RawValue>, D::Error> {
        <&RawValue>::deserialize(d).map(Some)
    }
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow, default, deserialize_with = "raw")]
        content: Option<&'a RawValue>,
    }
    let looked = Looked::<Vec<Choice<'_>>>::read(body)?;
    let tokens = looked.tokens();
    let choices = looked.choices.filter(|choices| !choices.is_empty());
    let choices = choices.ok_or(Failure::Garbage("without the choices of a chat"))?;
    let nulls = choices.iter().filter_map(|choice| choice.message.content).filter(|content| content.get() == "null");
    let mut nulls = nulls.map(|null| null.get().as_ptr().addr() - body.as_ptr().addr()).peekable();
    if nulls.peek().is_none() {
        return Ok(result(body.slice_ref(body.trim_ascii()), tokens));
    }
    let mut out = Vec::with_capacity(body.len());
    let mut done = 0;
    for at in nulls {
        out.extend_from_slice(&body[done..at]);
        out.extend_from_slice(b"\"\"");
        done = at + "null".len();
    }
    out.extend_from_slice(&body[done..]);
    Ok(result(out.into(), tokens))
}

/// The media type of an answer, in lower case and without parameters.
fn media_type(answer: &http_client::Reply) -> String {
    let text = answer.content_type.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn transcript(answer: &http_client::Reply) -> Result<Reply, Failure> {
    if answer.body.trim_ascii_start().first() == Some(&b'{') {
        return object(&answer.body, "text");
    }
    let text = std::str::from_utf8(&answer.body).map_err(|_| Failure::Garbage("not text"))?;
    let is_page = text.trim_ascii_start().starts_with('<');
    match &*media_type(answer) {
        "text/html" | "application/json" | "application/xhtml+xml" => Err(Failure::Garbage("no transcript")),
        _ if is_page => Err(Failure::Garbage("no transcript")),
        _ => {
            let mut json = br#"{"text":"#.to_vec();
            json_string(&mut json, text.trim());
            json.push(b'}');
            Ok(result(json.into(), 0))
        }
    }
}

fn sound(answer: &http_client::Reply, format: Option<&str>) -> Result<Reply, Failure> {
    let media_type = media_type(answer);
    let is_sound = media_type.starts_with("audio/") || media_type == "application/octet-stream";
    if !is_sound || answer.body.is_empty() {
        return Err(Failure::Garbage("no sound"));
    }
    let format = format.unwrap_or(match &*media_type {
        "audio/mpeg" | "audio/mp3" | "application/octet-stream" => "mp3",
        "audio/ogg" | "audio/opus" => "opus",
        "audio/x-wav" | "audio/wave" | "audio/vnd.wave" => "wav",
        "audio/x-flac" => "flac",
        other => other.strip_prefix("audio/").unwrap_or(other),
    });
    let mut json = Vec::with_capacity(answer.body.len() / 3 * 4 + 128);
    json.extend_from_slice(br#"{"content_type":"#);
    json_string(&mut json, &media_type);
    json.extend_from_slice(br#","format":"#);
    json_string(&mut json, format);
    json.extend_from_slice(br#","audio":""#);
    let begun = json.len();
    json.resize(begun + answer.body.len().div_ceil(3) * 4, 0);
    STANDARD.encode_slice(&answer.body, &mut json[begun..]).map_err(|_| Failure::TooLarge)?;
    json.extend_from_slice(b"\"}");
    Ok(result(json.into(), 0))
}

#[cfg(test)]
pub(super) mod tests;
