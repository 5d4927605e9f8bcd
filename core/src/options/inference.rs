//! The tasks of the well-known intents, typed: what is asked of a model, and how the call is routed.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Consensus, RouteConstraints, RoutingPolicy, RuntimeIdentity, TaskOptions, Validate, check_names, check_routing,
    check_timeout, in_range, millis,
};
use crate::error::{Code, Error, Result};
use crate::types::{CHAT, COMPLETION, EMBEDDING, MODERATION, Qos, SPEECH, TRANSCRIPTION, Traceparent};

/// Defines the options of one intent: its own fields, then those that every call of a model has.
macro_rules! inference {
    (
        $(#[$about:meta])* $name:ident, $what:literal, $intent:ident,
        { $($(#[$doc:meta])* $field:ident: $kind:ty,)* }
    ) => {
        $(#[$about])*
        #[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        #[non_exhaustive]
        pub struct $name {
            $($(#[$doc])* pub $field: $kind,)*
            /// The model that must answer.
            pub model: Option<String>,
            /// Time for the whole call, in milliseconds, at most 120,000; by default the client's.
            pub timeout_ms: Option<u64>,
            /// Whether it may be sent again when it may have run already; it harms no one, so by default yes.
            pub idempotent: bool,
            /// Preferred region, by default the client's.
            pub region: Option<String>,
            /// Quality of service.
            pub qos: Option<Qos>,
            /// Least reputation of the node, 0 to 1.
            pub min_reputation: Option<f64>,
            /// W3C trace context of the caller; by default a fresh one.
            pub traceparent: Option<String>,
            /// Who may be sent it; by default as the client says.
            pub routing_policy: Option<RoutingPolicy>,
            /// What is asked of the route and never told to a provider; what it does not give is taken from the call.
            pub route: Option<RouteConstraints>,
            /// How many nodes are asked and must agree; by default one, whose answer counts.
            pub consensus: Option<Consensus>,
            /// More fields of the payload, passed through as they are.
            pub extra: Option<Map<String, Value>>,
        }

        impl Default for $name {
            fn default() -> Self {
                $name {
                    $($field: Default::default(),)*
                    model: None,
                    timeout_ms: None,
                    idempotent: true,
                    region: None,
                    qos: None,
                    min_reputation: None,
                    traceparent: None,
                    routing_policy: None,
                    route: None,
                    consensus: None,
                    extra: None,
                }
            }
        }

        // What a model is asked is nobody else's business.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("model", &self.model).finish_non_exhaustive()
            }
        }

        impl Validate for $name {
            const WHAT: &'static str = $what;

            fn validate(&self) -> Result<()> {
                self.check()?;
                self.timeout_ms.map_or(Ok(()), check_timeout)?;
                self.routing_policy.as_ref().map_or(Ok(()), RoutingPolicy::validate)?;
                self.route.as_ref().map_or(Ok(()), RouteConstraints::validate)?;
                if self.traceparent.as_deref().is_some_and(|trace| Traceparent::parse(trace).is_none()) {
                    return Err(Error::of_options(
                        Code::ConfigInvalid,
                        concat!("option `traceparent` of ", $what, " must be 00-<32 hex>-<16 hex>-<2 hex>"),
                    ));
                }
                check_routing(Self::WHAT, self.region.as_deref(), self.model.as_deref(), self.min_reputation)
            }
        }

        impl $name {
            /// Asks for a model.
            #[must_use]
            pub fn model(mut self, model: impl Into<String>) -> Self {
                self.model = Some(model.into());
                self
            }

            /// Sets the time for the whole call, at most 120 s.
            #[must_use]
            pub fn timeout(mut self, timeout: Duration) -> Self {
                self.timeout_ms = Some(millis(timeout));
                self
            }

            /// The task's options and the payload's fields, the model among both: providers look for it in either.
            pub(crate) fn into_task(self) -> (TaskOptions, Map<String, Value>) {
                let mut payload = self.payload();
                if let Some(model) = &self.model {
                    payload.insert("model".into(), model.as_str().into());
                }
                for (name, value) in self.extra.into_iter().flatten() {
                    // What has an option of its own is set there.
                    payload.entry(name).or_insert(value);
                }
                let options = TaskOptions {
                    intent: $intent.into(),
                    timeout_ms: self.timeout_ms,
                    idempotent: self.idempotent,
                    region: self.region,
                    qos: self.qos,
                    model: self.model,
                    min_reputation: self.min_reputation,
                    traceparent: self.traceparent,
                    routing_policy: self.routing_policy,
                    route: self.route,
                    consensus: self.consensus,
                    ..TaskOptions::default()
                };
                (options, payload)
            }
        }
    };
}

/// A picture in a message.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageUrl {
    /// Where it is: an `https:` or a `data:` URL. The provider fetches it, the engine does not.
    pub url: String,
    /// How closely it is looked at: `auto`, `low` or `high`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Sound in a message.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputAudio {
    /// The sound, base64.
    pub data: String,
    /// Its format, such as `wav` or `mp3`.
    pub format: String,
}

/// A part of a message.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ContentPart {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// A picture.
    ImageUrl {
        /// Where it is.
        image_url: ImageUrl,
    },
    /// Sound.
    InputAudio {
        /// The sound itself.
        input_audio: InputAudio,
    },
}

/// What a message says: a text, or parts of different kinds.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a text or a list of parts")]
pub enum Content {
    /// A text.
    Text(String),
    /// Parts, in order.
    Parts(Vec<ContentPart>),
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Content::Text(text.to_owned())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Content::Text(text)
    }
}

impl From<Vec<ContentPart>> for Content {
    fn from(parts: Vec<ContentPart>) -> Self {
        Content::Parts(parts)
    }
}

/// One message of a chat.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ChatMessage {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What it says; an assistant's message that only calls tools says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// Who says it, where several have the same role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The tools that the assistant called, as it wrote them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<Map<String, Value>>>,
    /// The call that a tool's message answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl ChatMessage {
    /// A message.
    #[must_use]
    pub fn new(role: impl Into<String>, content: impl Into<Content>) -> Self {
        ChatMessage { role: role.into(), content: Some(content.into()), ..ChatMessage::default() }
    }
}

/// A type that holds what the user says shows only what it is.
macro_rules! unseen {
    ($($name:ident)*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(<private>)"))
            }
        }
    )*};
}

unseen!(ImageUrl InputAudio ContentPart Content);

impl fmt::Debug for ChatMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChatMessage {{ role: {:?}, content: <private> }}", self.role)
    }
}

inference! {
    /// A chat: messages, the tools that may be called, and the usual knobs of inference.
    Chat, "a chat", CHAT, {
        /// The conversation, oldest first.
        messages: Vec<ChatMessage>,
        /// Most tokens of the answer.
        max_tokens: Option<u32>,
        /// Sampling temperature, 0 to 2.
        temperature: Option<f64>,
        /// Texts at which the answer ends.
        stop: Option<Vec<String>>,
        /// Tools that the model may call, passed through as they are.
        tools: Option<Vec<Map<String, Value>>>,
        /// Which of them it must call, passed through as it is.
        tool_choice: Option<Value>,
        /// Whether the model is told that the request reached it through IICP, by one system message after leading
        /// instructions.
        runtime_identity: RuntimeIdentity,
    }
}

inference! {
    /// A text to be completed.
    Completion, "a completion", COMPLETION, {
        /// The text.
        prompt: String,
        /// Most tokens of the answer.
        max_tokens: Option<u32>,
        /// Sampling temperature, 0 to 2.
        temperature: Option<f64>,
        /// Texts at which the answer ends.
        stop: Option<Vec<String>>,
    }
}

inference! {
    /// Texts to be turned into vectors.
    Embedding, "an embedding", EMBEDDING, {
        /// The texts; one alone may stand without a list.
        #[serde(deserialize_with = "one_or_many")]
        input: Vec<String>,
        /// The length of the vectors, where the model lets one choose.
        dimensions: Option<u32>,
    }
}

inference! {
    /// Speech to be written down.
    Transcription, "a transcription", TRANSCRIPTION, {
        /// The sound file, base64.
        audio: String,
        /// Its name, whose ending tells the format; `audio.wav` if nothing is said.
        filename: Option<String>,
        /// The language that is spoken, such as `en`.
        language: Option<String>,
        /// Words that help the model to spell.
        prompt: Option<String>,
        /// Sampling temperature, 0 to 1.
        temperature: Option<f64>,
    }
}

inference! {
    /// Text to be spoken.
    Speech, "a speech", SPEECH, {
        /// The text.
        input: String,
        /// The voice, by the backend's name for it.
        voice: Option<String>,
        /// The sound's format, such as `wav` or `mp3`.
        response_format: Option<String>,
        /// How fast, 0.25 to 4.
        speed: Option<f64>,
    }
}

inference! {
    /// Texts to be judged.
    Moderation, "a moderation", MODERATION, {
        /// The texts; one alone may stand without a list.
        #[serde(deserialize_with = "one_or_many")]
        input: Vec<String>,
    }
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text or a list of texts")]
    enum Input {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Input::deserialize(d)? {
        Input::One(text) => vec![text],
        Input::Many(texts) => texts,
    })
}

fn missing(what: &str, option: &str, least: &str) -> Error {
    Error::of_options(Code::ConfigInvalid, format!("option `{option}` of {what} is empty; give {least}"))
}

/// Collects the fields that are there.
fn fields<const N: usize>(fields: [(&str, Option<Value>); N]) -> Map<String, Value> {
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

impl Chat {
    /// A chat that begins with a user's message.
    #[must_use]
    pub fn user(content: impl Into<Content>) -> Self {
        Chat::default().message("user", content)
    }

    /// A chat that begins with a system message.
    #[must_use]
    pub fn system(content: impl Into<Content>) -> Self {
        Chat::default().message("system", content)
    }

    /// Adds a message.
    #[must_use]
    pub fn message(mut self, role: impl Into<String>, content: impl Into<Content>) -> Self {
        self.messages.push(ChatMessage::new(role, content));
        self
    }

    /// Limits the tokens of the answer.
    #[must_use]
    pub fn max_tokens(mut self, most: u32) -> Self {
        self.max_tokens = Some(most);
        self
    }

    /// Sets the sampling temperature, 0 to 2.
    #[must_use]
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.temperature = Some(temperature);
        self
    }

    fn check(&self) -> Result<()> {
        if self.messages.is_empty() {
            return Err(missing(Self::WHAT, "messages", "at least one message"));
        }
        for message in &self.messages {
            if !matches!(message.role.as_str(), "system" | "developer" | "user" | "assistant" | "tool") {
                return Err(Error::new(
                    Code::ConfigInvalid,
                    "a message's role must be system, developer, user, assistant or tool",
                ));
            }
            if message.content.is_none() && message.tool_calls.is_none() {
                return Err(Error::new(
                    Code::ConfigInvalid,
                    "a message has no content; only an assistant's message that calls tools may have none",
                ));
            }
        }
        check_sampling(Self::WHAT, self.max_tokens, self.temperature)
    }

    fn payload(&self) -> Map<String, Value> {
        fields([
            ("messages", serde_json::to_value(&self.messages).ok()),
            ("max_tokens", self.max_tokens.map(Value::from)),
            ("temperature", self.temperature.map(Value::from)),
            ("stop", self.stop.clone().map(Value::from)),
            ("tools", self.tools.clone().map(|tools| tools.into_iter().map(Value::Object).collect())),
            ("tool_choice", self.tool_choice.clone()),
        ])
    }
}

impl From<&str> for Chat {
    fn from(content: &str) -> Self {
        Chat::user(content)
    }
}

impl From<String> for Chat {
    fn from(content: String) -> Self {
        Chat::user(content)
    }
}

fn check_sampling(what: &str, max_tokens: Option<u32>, temperature: Option<f64>) -> Result<()> {
    in_range(what, "temperature", temperature.unwrap_or_default(), 0.0, 2.0)?;
    in_range(what, "max_tokens", max_tokens.unwrap_or(1), 1, u32::MAX)
}

impl Completion {
    /// Asks for a text to be completed.
    #[must_use]
    pub fn of(prompt: impl Into<String>) -> Self {
        Completion { prompt: prompt.into(), ..Completion::default() }
    }

    fn check(&self) -> Result<()> {
        if self.prompt.is_empty() {
            return Err(missing(Self::WHAT, "prompt", "the text to complete"));
        }
        check_sampling(Self::WHAT, self.max_tokens, self.temperature)
    }

    fn payload(&self) -> Map<String, Value> {
        fields([
            ("prompt", Some(self.prompt.as_str().into())),
            ("max_tokens", self.max_tokens.map(Value::from)),
            ("temperature", self.temperature.map(Value::from)),
            ("stop", self.stop.clone().map(Value::from)),
        ])
    }
}

impl Embedding {
    /// Asks for the vectors of texts, in their order.
    #[must_use]
    pub fn of<T: Into<String>>(input: impl IntoIterator<Item = T>) -> Self {
        Embedding { input: input.into_iter().map(Into::into).collect(), ..Embedding::default() }
    }

    fn check(&self) -> Result<()> {
        check_input(Self::WHAT, &self.input)?;
        in_range(Self::WHAT, "dimensions", self.dimensions.unwrap_or(1), 1, 1 << 20)
    }

    fn payload(&self) -> Map<String, Value> {
        fields([("input", Some(self.input.clone().into())), ("dimensions", self.dimensions.map(Value::from))])
    }
}

impl Transcription {
    /// Asks for what is said in a sound file.
    #[must_use]
    pub fn of(audio: &[u8]) -> Self {
        Transcription { audio: STANDARD.encode(audio), ..Transcription::default() }
    }

    fn check(&self) -> Result<()> {
        if self.audio.is_empty() {
            return Err(missing(Self::WHAT, "audio", "the sound file"));
        }
        if STANDARD.decode(&self.audio).is_err() {
            return Err(Error::of_options(
                Code::ConfigInvalid,
                "option `audio` of a transcription must be base64 with padding",
            ));
        }
        check_names(Self::WHAT, "filename", self.filename.as_slice(), 255)?;
        check_names(Self::WHAT, "language", self.language.as_slice(), 35)?;
        in_range(Self::WHAT, "temperature", self.temperature.unwrap_or_default(), 0.0, 1.0)
    }

    fn payload(&self) -> Map<String, Value> {
        fields([
            ("audio", Some(self.audio.as_str().into())),
            ("filename", self.filename.clone().map(Value::from)),
            ("language", self.language.clone().map(Value::from)),
            ("prompt", self.prompt.clone().map(Value::from)),
            ("temperature", self.temperature.map(Value::from)),
        ])
    }
}

impl Speech {
    /// Asks for a text to be spoken.
    #[must_use]
    pub fn of(input: impl Into<String>) -> Self {
        Speech { input: input.into(), ..Speech::default() }
    }

    fn check(&self) -> Result<()> {
        if self.input.is_empty() {
            return Err(missing(Self::WHAT, "input", "the text to speak"));
        }
        check_names(Self::WHAT, "voice", self.voice.as_slice(), 128)?;
        check_names(Self::WHAT, "response_format", self.response_format.as_slice(), 32)?;
        in_range(Self::WHAT, "speed", self.speed.unwrap_or(1.0), 0.25, 4.0)
    }

    fn payload(&self) -> Map<String, Value> {
        fields([
            ("input", Some(self.input.as_str().into())),
            ("voice", self.voice.clone().map(Value::from)),
            ("response_format", self.response_format.clone().map(Value::from)),
            ("speed", self.speed.map(Value::from)),
        ])
    }
}

impl Moderation {
    /// Asks for texts to be judged, in their order.
    #[must_use]
    pub fn of<T: Into<String>>(input: impl IntoIterator<Item = T>) -> Self {
        Moderation { input: input.into_iter().map(Into::into).collect(), ..Moderation::default() }
    }

    fn check(&self) -> Result<()> {
        check_input(Self::WHAT, &self.input)
    }

    fn payload(&self) -> Map<String, Value> {
        fields([("input", Some(self.input.clone().into()))])
    }
}

fn check_input(what: &str, input: &[String]) -> Result<()> {
    if input.is_empty() || input.iter().any(String::is_empty) {
        return Err(missing(what, "input", "at least one text, and no empty one"));
    }
    Ok(())
}
