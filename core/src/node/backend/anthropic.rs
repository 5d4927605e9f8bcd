//! Anthropic's interface: a chat in OpenAI's form to its messages, and the answer back.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::fields::Fields;
use super::models::Models;
use super::openai::{Job, Wanted, model, no_model_yet, unserved};
use super::upstream::{Content, Failure};
use crate::error::{Code, Error, Result};
use crate::node::handler::{Inbound, Reply};
use crate::types::{CHAT, Chunk, Payload, Usage, check_depth, position};
use crate::wire::count;

/// Intents that this interface has.
pub(super) const INTENTS: [&str; 1] = [CHAT];

/// The interface wants a bound; this is what published nodes say when the task does not.
const MAX_TOKENS: u64 = 4096;

/// Most tools that one message calls.
const MOST_TOOLS: usize = 1024;

/// A message as a chat has it.
#[derive(Deserialize)]
struct Said<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow, default)]
    content: Option<Spoken<'a>>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<ToolCall<'a>>>,
    #[serde(borrow, default)]
    tool_call_id: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Spoken<'a> {
    Text(Cow<'a, str>),
    Parts(Vec<Part<'a>>),
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part<'a> {
    Text {
        text: Cow<'a, str>,
    },
    ImageUrl {
        image_url: ImageUrl<'a>,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct ImageUrl<'a> {
    url: Cow<'a, str>,
}

#[derive(Deserialize)]
struct ToolCall<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    function: Function<'a>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    arguments: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Tool<'a> {
    #[serde(borrow)]
    function: Described<'a>,
}

#[derive(Deserialize)]
struct Described<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    description: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    parameters: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: Vec<Value>,
}

/// What a chat asks of the server.
///
/// # Errors
/// `PAYLOAD_INVALID` and `TASK_REJECTED`, as the caller is to be told.
pub(super) fn job(task: &Inbound, models: &Models) -> Result<Job> {
    if *task.intent != *CHAT {
        return Err(unserved(&task.intent));
    }
    let fields = Fields::read(task.payload.bytes())?;
    let Some(model) = model(task, &fields, models)? else {
        return Err(no_model_yet());
    };
    let (system, messages) = messages(&fields)?;
    let mut request = json!({ "model": model, "max_tokens": max_tokens(task, &fields)?, "messages": messages });
    if !system.is_empty() {
        request["system"] = system.into();
    }
    if let Some(temperature) = number(&fields, "temperature")? {
        // OpenAI's scale goes to 2, this one to 1.
        request["temperature"] = temperature.clamp(0.0, 1.0).into();
    }
    if let Some(top_p) = number(&fields, "top_p")? {
        request["top_p"] = top_p.into();
    }
    if let Some(stop) = fields.get("stop") {
        request["stop_sequences"] = match read::<Value>("stop", stop)? {
            Value::String(one) => json!([one]),
            list => list,
        };
    }
    if let Some(tools) = fields.get("tools") {
        let tools: Vec<Tool<'_>> = read("tools", tools)?;
        request["tools"] = tools.iter().map(|tool| described(&tool.function)).collect::<Result<_>>()?;
        if let Some(choice) = fields.get("tool_choice") {
            request["tool_choice"] = tool_choice(&read::<Value>("tool_choice", choice)?)?;
        }
    }
    if task.takes_events {
        request["stream"] = true.into();
    }
    let content = Content::Json(request.to_string().into());
    Ok(Job { path: "/messages", content, wanted: Wanted::Message, in_parts: task.takes_events })
}

fn read<'a, T: Deserialize<'a>>(name: &str, raw: &'a RawValue) -> Result<T> {
    serde_json::from_str(raw.get()).map_err(|e| {
        Error::new(Code::PayloadInvalid, format!("{name} of the payload is not what a chat has: {}", position(&e)))
    })
}

fn number(fields: &Fields<'_>, name: &str) -> Result<Option<f64>> {
    fields.get(name).map(|raw| read(name, raw)).transpose()
}

fn max_tokens(task: &Inbound, fields: &Fields<'_>) -> Result<u64> {
    let named = fields.get("max_tokens").or(fields.get("max_completion_tokens"));
    let named = named.map(|raw| read::<u64>("max_tokens", raw)).transpose()?;
    Ok(named.or(task.max_tokens).unwrap_or(MAX_TOKENS).max(1))
}

fn described(function: &Described<'_>) -> Result<Value> {
    let schema = function.parameters.map(|raw| read::<Value>("tools", raw)).transpose()?;
    let mut tool = json!({ "name": function.name, "input_schema": schema.unwrap_or(json!({ "type": "object" })) });
    if let Some(description) = &function.description {
        tool["description"] = description.as_ref().into();
    }
    Ok(tool)
}

fn tool_choice(choice: &Value) -> Result<Value> {
    match (choice.as_str(), choice["function"]["name"].as_str()) {
        (Some("auto"), _) => Ok(json!({ "type": "auto" })),
        (Some("required"), _) => Ok(json!({ "type": "any" })),
        (Some("none"), _) => Ok(json!({ "type": "none" })),
        (None, Some(name)) => Ok(json!({ "type": "tool", "name": name })),
        _ => Err(unknown("tool_choice")),
    }
}

fn unknown(what: &str) -> Error {
    Error::new(Code::PayloadInvalid, format!("{what} of the payload is not one that this backend knows"))
}

/// The system's part, which stands apart here, and the rest.
fn messages(fields: &Fields<'_>) -> Result<(String, Vec<Message>)> {
    let raw = fields.get("messages").ok_or_else(|| unknown("messages"))?;
    let said: Vec<Said<'_>> = read("messages", raw)?;
    let mut system: Vec<String> = Vec::new();
    let mut messages: Vec<Message> = Vec::new();
    for said in &said {
        let (role, content) = match &*said.role {
            "system" | "developer" => {
                system.extend(texts(said.content.as_ref()));
                continue;
            }
            "user" => ("user", blocks(said.content.as_ref())?),
            "assistant" => ("assistant", assistant(said)?),
            "tool" => {
                let text = texts(said.content.as_ref()).join("\n\n");
                let id = said.tool_call_id.as_deref().ok_or_else(|| unknown("tool_call_id"))?;
                ("user", vec![json!({ "type": "tool_result", "tool_use_id": id, "content": text })])
            }
            _ => return Err(unknown("a role")),
        };
        match messages.last_mut() {
            // What tools answered to one message belongs into one.
            Some(last) if last.role == role => last.content.extend(content),
            _ => messages.push(Message { role, content }),
        }
    }
    if messages.is_empty() {
        return Err(Error::new(Code::PayloadInvalid, "the payload has no message of a user"));
    }
    Ok((system.join("\n\n"), messages))
}

fn texts(content: Option<&Spoken<'_>>) -> Vec<String> {
    match content {
        None => Vec::new(),
        Some(Spoken::Text(text)) => vec![text.clone().into_owned()],
        Some(Spoken::Parts(parts)) => parts
            .iter()
            .filter_map(|part| match part {
                Part::Text { text } => Some(text.clone().into_owned()),
                Part::ImageUrl { .. } | Part::Other => None,
            })
            .collect(),
    }
}

fn blocks(content: Option<&Spoken<'_>>) -> Result<Vec<Value>> {
    match content {
        None => Ok(Vec::new()),
        Some(Spoken::Text(text)) => Ok(vec![json!({ "type": "text", "text": text })]),
        Some(Spoken::Parts(parts)) => parts
            .iter()
            .map(|part| match part {
                Part::Text { text } => Ok(json!({ "type": "text", "text": text })),
                Part::ImageUrl { image_url } => Ok(json!({ "type": "image", "source": image(&image_url.url) })),
                Part::Other => Err(unknown("a part of a message")),
            })
            .collect(),
    }
}

/// A picture: inside the message, or where the server can fetch it.
fn image(url: &str) -> Value {
    let inside = url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,"));
    match inside {
        Some((media_type, data)) => json!({ "type": "base64", "media_type": media_type, "data": data }),
        None => json!({ "type": "url", "url": url }),
    }
}

fn assistant(said: &Said<'_>) -> Result<Vec<Value>> {
    let mut content = blocks(said.content.as_ref())?;
    // The interface refuses empty texts, which chats have beside calls of tools.
    content.retain(|block| block["text"].as_str() != Some(""));
    for call in said.tool_calls.iter().flatten() {
        let arguments = match &*call.function.arguments {
            "" => json!({}),
            text => serde_json::from_str(text).map_err(|_| unknown("the arguments of a tool call"))?,
        };
        let name = &call.function.name;
        content.push(json!({ "type": "tool_use", "id": call.id, "name": name, "input": arguments }));
    }
    Ok(content)
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow)]
    content: Vec<Block<'a>>,
    #[serde(borrow, default)]
    stop_reason: Option<Cow<'a, str>>,
    #[serde(default)]
    usage: Used,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Used {
    #[serde(deserialize_with = "count")]
    input_tokens: Option<u64>,
    #[serde(deserialize_with = "count")]
    cache_creation_input_tokens: Option<u64>,
    #[serde(deserialize_with = "count")]
    cache_read_input_tokens: Option<u64>,
    #[serde(deserialize_with = "count")]
    output_tokens: Option<u64>,
}

impl Used {
    /// Takes what another count says; what it does not say stays.
    fn learn(&mut self, more: &Used) {
        self.input_tokens = more.input_tokens.or(self.input_tokens);
        self.cache_creation_input_tokens = more.cache_creation_input_tokens.or(self.cache_creation_input_tokens);
        self.cache_read_input_tokens = more.cache_read_input_tokens.or(self.cache_read_input_tokens);
        self.output_tokens = more.output_tokens.or(self.output_tokens);
    }

    fn counted(&self) -> Usage {
        let read = [self.input_tokens, self.cache_creation_input_tokens, self.cache_read_input_tokens];
        let prompt_tokens: u64 = read.into_iter().flatten().fold(0, u64::saturating_add);
        let completion_tokens = self.output_tokens.unwrap_or_default();
        let total_tokens = prompt_tokens.saturating_add(completion_tokens);
        Usage { prompt_tokens, completion_tokens, total_tokens }
    }
}

/// The answer as a chat has it.
pub(super) fn reply(body: &Bytes) -> Result<Reply, Failure> {
    let bad = Failure::Garbage("no message");
    check_depth(body).map_err(|_| Failure::Garbage("nested too deeply"))?;
    let answer: Answer<'_> = crate::wire::object(body).map_err(|_| bad)?;
    let text: String =
        answer.content.iter().filter(|block| block.kind == "text").filter_map(|b| b.text.as_deref()).collect();
    let calls: Vec<Value> = answer.content.iter().filter(|block| block.kind == "tool_use").map(tool_call).collect();
    let finish_reason = finish_reason(answer.stop_reason.as_deref());
    let usage = answer.usage.counted();
    let mut message = json!({ "role": "assistant", "content": text });
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    let created = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let chat = json!({
        "id": answer.id,
        "object": "chat.completion",
        "created": created,
        "model": answer.model,
        "choices": [{ "index": 0, "message": message, "finish_reason": finish_reason }],
        "usage": usage,
    });
    Ok(Reply::from(Payload::from(chat)).tokens_used(usage.total_tokens))
}

fn finish_reason(stop_reason: Option<&str>) -> &'static str {
    match stop_reason {
        Some("max_tokens" | "model_context_window_exceeded") => "length",
        Some("tool_use") => "tool_calls",
        Some("refusal") => "content_filter",
        _ => "stop",
    }
}

fn tool_call(block: &Block<'_>) -> Value {
    let arguments = block.input.map_or("{}", RawValue::get);
    json!({ "id": block.id, "type": "function", "function": { "name": block.name, "arguments": arguments } })
}

/// One event of a message that comes in parts.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event<'a> {
    MessageStart {
        #[serde(borrow)]
        message: Start<'a>,
    },
    ContentBlockStart {
        index: u64,
        #[serde(borrow)]
        content_block: Block<'a>,
    },
    ContentBlockDelta {
        index: u64,
        #[serde(borrow)]
        delta: Delta<'a>,
    },
    MessageDelta {
        #[serde(borrow)]
        delta: Stop<'a>,
        #[serde(default)]
        usage: Used,
    },
    MessageStop,
    Error,
    /// Pings, ends of blocks, and what is not known yet.
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Start<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    model: Option<Cow<'a, str>>,
    #[serde(default)]
    usage: Used,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Delta<'a> {
    #[serde(rename = "text_delta")]
    Text {
        #[serde(borrow)]
        text: Cow<'a, str>,
    },
    #[serde(rename = "input_json_delta")]
    InputJson {
        #[serde(borrow)]
        partial_json: Cow<'a, str>,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Stop<'a> {
    #[serde(borrow, default)]
    stop_reason: Option<Cow<'a, str>>,
}

/// A message that comes in parts, as the deltas of a chat.
#[derive(Default)]
pub(super) struct Following {
    id: Option<String>,
    model: Option<String>,
    used: Used,
    /// Blocks that call tools, in their order.
    tools: Vec<u64>,
}

/// What an event becomes.
pub(super) enum Followed {
    Nothing,
    Delta(Chunk),
    End,
}

impl Following {
    pub(super) fn take(&mut self, data: &[u8]) -> Result<Followed, Failure> {
        let event: Event<'_> = crate::wire::object(data).map_err(|_| Failure::Garbage("no event of a message"))?;
        let delta = match event {
            Event::MessageStart { message } => {
                self.id = message.id.map(Cow::into_owned);
                self.model = message.model.map(Cow::into_owned);
                self.used.learn(&message.usage);
                json!({ "role": "assistant", "content": "" })
            }
            Event::ContentBlockStart { index, content_block } if content_block.kind == "tool_use" => {
                if self.tools.len() >= MOST_TOOLS {
                    return Err(Failure::TooLarge);
                }
                self.tools.push(index);
                let function = json!({ "name": content_block.name, "arguments": "" });
                let (at, id) = (self.tools.len() - 1, content_block.id);
                json!({ "tool_calls": [{ "index": at, "id": id, "type": "function", "function": function }] })
            }
            Event::ContentBlockDelta { delta: Delta::Text { text }, .. } => json!({ "content": text }),
            Event::ContentBlockDelta { index, delta: Delta::InputJson { partial_json } } => {
                let Some(at) = self.tools.iter().position(|tool| *tool == index) else { return Ok(Followed::Nothing) };
                json!({ "tool_calls": [{ "index": at, "function": { "arguments": partial_json } }] })
            }
            Event::MessageDelta { delta, usage } => {
                self.used.learn(&usage);
                return Ok(Followed::Delta(self.last(delta.stop_reason.as_deref())));
            }
            Event::MessageStop => return Ok(Followed::End),
            Event::Error => return Err(Failure::Garbage("an error in the middle")),
            _ => return Ok(Followed::Nothing),
        };
        Ok(Followed::Delta(self.chunk(&delta, None).into()))
    }

    /// The last part: why the message ends, and what it took.
    fn last(&self, stop_reason: Option<&str>) -> Chunk {
        let usage = self.used.counted();
        let mut last = self.chunk(&json!({}), Some(finish_reason(stop_reason)));
        last["usage"] = json!(usage);
        Chunk::from(last).tokens_used(usage.total_tokens)
    }

    fn chunk(&self, delta: &Value, finish_reason: Option<&str>) -> Value {
        json!({
            "id": self.id, "object": "chat.completion.chunk", "model": self.model,
            "choices": [{ "index": 0, "delta": delta, "finish_reason": finish_reason }],
        })
    }
}

#[cfg(test)]
mod tests;
