//! What tasks come back with.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Payload;
use crate::error::{Code, Error, Result};

/// Tokens that a chat used, as the provider counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Usage {
    /// Tokens of the messages.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
    /// Both together.
    pub total_tokens: u64,
}

/// Where the time of a submit went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timings {
    /// Asking the directory; zero if a known route was used.
    pub discover: Duration,
    /// Choosing among the candidates, the application's ranker included.
    pub select: Duration,
    /// Connecting to the node that answered; zero if a connection was there.
    pub connect: Duration,
    /// From sending the task, over an open connection, to the first byte of the answer.
    pub first_byte: Duration,
    /// The engine's own work: what is left of the total after waiting for directory, ranker, nodes and pauses.
    pub overhead: Duration,
    /// From the call of the submit to its result.
    pub total: Duration,
}

/// How the node of a task was chosen, without anything that is private: no prompt, answer, endpoint or token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RoutingReceipt {
    /// Always `iicp-routing-receipt-v1`.
    pub receipt_version: String,
    /// What chose: a strategy, `directory_ticket_v1`, or `external_ranker/<policy>/<mode>`.
    pub selection_profile: String,
    /// Nodes that the task could have been sent to.
    pub eligible_candidate_count: usize,
    /// The first eight characters of the node's id.
    pub selected_node_id_prefix: String,
    /// The first twelve characters of the ticket's id, if the route came with a ticket.
    pub dispatch_ticket_id_prefix: Option<String>,
    /// What the directory said about the profile that was asked for: `compatible` or `unsupported`.
    pub profile_negotiation: Option<String>,
    /// What was left out: always `prompt_response_endpoint_token_excluded`.
    pub redaction: String,
}

/// A finished task.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TaskResult {
    /// Id of the task.
    pub task_id: String,
    /// Id of the node that ran it.
    pub node_id: String,
    /// What the handler returned.
    pub result: Payload,
    /// How often the task was sent, at least once.
    pub attempts: u32,
    /// The trace that all calls of this submit carried.
    pub traceparent: String,
    /// Where the time went.
    pub timings: Timings,
    /// How the node was chosen.
    pub receipt: RoutingReceipt,
    /// Whether task and answer were sealed.
    pub sealed: bool,
}

/// A reply whose content is the caller's own: `Debug` shows what it is, not what it says.
macro_rules! private {
    ($($name:ident)*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("node_id", &self.task.node_id).finish_non_exhaustive()
            }
        }
    )*};
}

private!(ChatReply CompletionReply EmbeddingReply TranscriptionReply SpeechReply ModerationReply);

fn malformed(task: &TaskResult, what: &str) -> Error {
    let node = &task.node_id;
    Error::new(Code::Malformed, format!("node {node} answered with a result that holds no {what}; ask its operator"))
}

/// The answer to a chat.
#[derive(Clone)]
#[non_exhaustive]
pub struct ChatReply {
    text: String,
    /// The tools that the model wants called, as it wrote them.
    pub tool_calls: Vec<Map<String, Value>>,
    /// Why the answer ends: `stop`, `length`, `tool_calls`, …
    pub finish_reason: Option<String>,
    /// Tokens used, if the provider counted them.
    pub usage: Option<Usage>,
    /// The model that answered, if the provider says.
    pub model: Option<String>,
    /// Id of the node that answered.
    pub node_id: String,
    /// The finished task; its result is the provider's whole reply.
    pub task: TaskResult,
}

/// What chats and completions have in common on the wire.
#[derive(Deserialize)]
struct Choice {
    message: Option<Message>,
    text: Option<String>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<Value>,
    #[serde(default)]
    tool_calls: Option<Vec<Map<String, Value>>>,
}

#[derive(Deserialize)]
struct Generated {
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    text: Option<String>,
    usage: Option<Usage>,
    model: Option<String>,
}

impl Message {
    /// The content as text: itself, or its parts that are text.
    fn text(&self) -> String {
        match &self.content {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
            _ => String::new(),
        }
    }
}

impl ChatReply {
    /// Reads the first choice of a chat completion; a handler that returned bare text or `{"text": …}` is read too.
    ///
    /// # Errors
    /// `MALFORMED` if there is no message in the result.
    pub(crate) fn read(task: TaskResult) -> Result<Self> {
        let node_id = task.node_id.clone();
        if let Ok(text) = task.result.json::<String>() {
            let (tool_calls, finish_reason, usage, model) = (Vec::new(), None, None, None);
            return Ok(ChatReply { text, tool_calls, finish_reason, usage, model, node_id, task });
        }
        let Generated { choices, text, usage, model } = task.result.json().map_err(|_| malformed(&task, "message"))?;
        let choice = choices.into_iter().flatten().next();
        let finish_reason = choice.as_ref().and_then(|choice| choice.finish_reason.clone());
        let message = choice.and_then(|choice| choice.message);
        let text = match (&message, text) {
            (Some(message), _) => message.text(),
            (None, Some(text)) => text,
            (None, None) => return Err(malformed(&task, "message")),
        };
        let tool_calls = message.and_then(|message| message.tool_calls).unwrap_or_default();
        Ok(ChatReply { text, tool_calls, finish_reason, usage, model, node_id, task })
    }

    /// The text of the answer; empty if the model only calls tools.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// The answer to a completion.
#[derive(Clone)]
#[non_exhaustive]
pub struct CompletionReply {
    /// The text that follows.
    pub text: String,
    /// Why it ends: `stop`, `length`, …
    pub finish_reason: Option<String>,
    /// Tokens used, if the provider counted them.
    pub usage: Option<Usage>,
    /// The model that answered, if the provider says.
    pub model: Option<String>,
    /// The finished task; its result is the provider's whole reply.
    pub task: TaskResult,
}

impl CompletionReply {
    pub(crate) fn read(task: TaskResult) -> Result<Self> {
        if let Ok(text) = task.result.json::<String>() {
            return Ok(CompletionReply { text, finish_reason: None, usage: None, model: None, task });
        }
        let Generated { choices, text, usage, model } = task.result.json().map_err(|_| malformed(&task, "text"))?;
        let (first, finish_reason) = match choices.into_iter().flatten().next() {
            // Some backends answer a completion with a message.
            Some(Choice { text, message, finish_reason }) => (text.or(message.map(|m| m.text())), finish_reason),
            None => (None, None),
        };
        let text = first.or(text).ok_or_else(|| malformed(&task, "text"))?;
        Ok(CompletionReply { text, finish_reason, usage, model, task })
    }
}

/// The vectors of texts.
#[derive(Clone)]
#[non_exhaustive]
pub struct EmbeddingReply {
    /// One vector for each text, in their order.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens used, if the provider counted them.
    pub usage: Option<Usage>,
    /// The model that answered, if the provider says.
    pub model: Option<String>,
    /// The finished task; its result is the provider's whole reply.
    pub task: TaskResult,
}

impl EmbeddingReply {
    /// Reads the vectors in the order of the texts, which the provider may have answered in another.
    pub(crate) fn read(task: TaskResult) -> Result<Self> {
        #[derive(Deserialize)]
        struct Item {
            embedding: Vec<f32>,
            index: Option<usize>,
        }
        #[derive(Deserialize)]
        struct Embedded {
            data: Vec<Item>,
            usage: Option<Usage>,
            model: Option<String>,
        }
        let Embedded { mut data, usage, model } = task.result.json().map_err(|_| malformed(&task, "vectors"))?;
        data.sort_by_key(|item| item.index.unwrap_or(usize::MAX));
        let vectors = data.into_iter().map(|item| item.embedding).collect();
        Ok(EmbeddingReply { vectors, usage, model, task })
    }
}

/// What was said in a sound file.
#[derive(Clone)]
#[non_exhaustive]
pub struct TranscriptionReply {
    /// The words.
    pub text: String,
    /// The language, if the provider says.
    pub language: Option<String>,
    /// The finished task; its result is the provider's whole reply.
    pub task: TaskResult,
}

impl TranscriptionReply {
    pub(crate) fn read(task: TaskResult) -> Result<Self> {
        #[derive(Deserialize)]
        struct Heard {
            text: String,
            language: Option<String>,
        }
        if let Ok(text) = task.result.json::<String>() {
            return Ok(TranscriptionReply { text, language: None, task });
        }
        let Heard { text, language } = task.result.json().map_err(|_| malformed(&task, "text"))?;
        Ok(TranscriptionReply { text, language, task })
    }
}

/// A spoken text.
#[derive(Clone)]
#[non_exhaustive]
pub struct SpeechReply {
    /// The sound file.
    pub audio: Bytes,
    /// Its media type, such as `audio/wav`, if the provider says.
    pub content_type: Option<String>,
    /// Its format, such as `wav`, if the provider says.
    pub format: Option<String>,
    /// The finished task; its result is the provider's whole reply.
    pub task: TaskResult,
}

impl SpeechReply {
    pub(crate) fn read(task: TaskResult) -> Result<Self> {
        #[derive(Deserialize)]
        struct Spoken {
            audio: String,
            content_type: Option<String>,
            format: Option<String>,
        }
        let Spoken { audio, content_type, format } = task.result.json().map_err(|_| malformed(&task, "sound"))?;
        let audio = STANDARD.decode(audio).map_err(|_| malformed(&task, "sound in base64"))?.into();
        Ok(SpeechReply { audio, content_type, format, task })
    }
}

/// How one text was judged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Judgement {
    /// Whether it breaks a rule at all.
    pub flagged: bool,
    /// Which rules it breaks.
    pub categories: BTreeMap<String, bool>,
    /// How surely it breaks each.
    pub category_scores: BTreeMap<String, f64>,
}

/// How texts were judged.
#[derive(Clone)]
#[non_exhaustive]
pub struct ModerationReply {
    /// One judgement for each text, in their order.
    pub results: Vec<Judgement>,
    /// The model that judged, if the provider says.
    pub model: Option<String>,
    /// The finished task; its result is the provider's whole reply.
    pub task: TaskResult,
}

impl ModerationReply {
    pub(crate) fn read(task: TaskResult) -> Result<Self> {
        #[derive(Deserialize)]
        struct Judged {
            results: Vec<Judgement>,
            model: Option<String>,
        }
        let Judged { results, model } = task.result.json().map_err(|_| malformed(&task, "judgements"))?;
        Ok(ModerationReply { results, model, task })
    }
}
