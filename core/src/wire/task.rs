//! The task and its reply as JSON over HTTP. The payload and the result stay bytes: they are walked over once, for
//! their end and their depth, and never built into a tree.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};
use serde_json::value::RawValue;

use super::events::LIFECYCLE;
use super::write_string;
use crate::error::{Code, Error, Result};
use crate::options::TaskOptions;
use crate::types::{Payload, Priority, Qos, check_depth, position};

/// A task as a node receives it.
#[derive(Deserialize)]
pub(crate) struct TaskRequest<'a> {
    #[serde(borrow)]
    pub(crate) task_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) intent: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) payload: Option<&'a RawValue>,
    /// A sealed payload.
    #[serde(borrow, default)]
    pub(crate) iicp_conf: Option<&'a RawValue>,
    #[serde(borrow, default)]
    cx_response_encryption: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "null_is_default")]
    pub(crate) constraints: Constraints<'a>,
    #[serde(borrow, default)]
    pub(crate) source_node_id: Option<Cow<'a, str>>,
    /// What a task is that is a part of a larger one.
    #[serde(borrow, default)]
    cip: Option<&'a RawValue>,
    #[serde(borrow, default)]
    nonce: Option<&'a RawValue>,
    #[serde(borrow, default)]
    auth: Option<&'a RawValue>,
    /// The token of a task whose parts came by themselves.
    #[serde(skip)]
    shown_token: Option<&'a str>,
    /// What else such a task is known by, beside its id.
    #[serde(skip)]
    pub(crate) idempotency_key: Option<&'a str>,
}

/// What stands in `auth`. The official clients do not agree on the name, and put in tokens of their own.
#[derive(Deserialize)]
struct Auth<'a> {
    #[serde(borrow, default)]
    node_token: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    token: Option<Cow<'a, str>>,
}

/// A task whose parts came by themselves.
#[derive(Default)]
pub(crate) struct TaskParts<'a> {
    pub(crate) task_id: &'a str,
    pub(crate) intent: &'a str,
    /// JSON.
    pub(crate) payload: Bytes,
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) qos: Option<&'a str>,
    pub(crate) source_node_id: Option<&'a str>,
    /// What would stand in `auth.node_token`.
    pub(crate) node_token: Option<&'a str>,
    /// A task id with another of these is another task.
    pub(crate) idempotency_key: Option<&'a str>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct Constraints<'a> {
    #[serde(deserialize_with = "super::count")]
    pub(crate) timeout_ms: Option<u64>,
    /// What clients write, and what published nodes read: the same thing under two names.
    #[serde(borrow)]
    qos: Option<Cow<'a, str>>,
    #[serde(borrow)]
    qos_class: Option<Cow<'a, str>>,
    #[serde(borrow)]
    priority: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) model: Option<Cow<'a, str>>,
    #[serde(deserialize_with = "super::count")]
    pub(crate) max_tokens: Option<u64>,
    #[serde(borrow)]
    required_profiles: Option<&'a RawValue>,
}

fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

impl Constraints<'_> {
    pub(crate) fn qos(&self) -> Qos {
        let named = self.qos.as_deref().or(self.qos_class.as_deref());
        named.and_then(Qos::parse).unwrap_or(Qos::BestEffort)
    }

    pub(crate) fn priority(&self) -> Priority {
        self.priority.as_deref().and_then(Priority::parse).unwrap_or_default()
    }

    /// Whether there is something that the node must know to serve the task rightly, and does not.
    pub(crate) fn requires_unknown_profiles(&self) -> bool {
        let Some(named) = self.required_profiles.filter(|named| named.get() != "null") else { return false };
        serde_json::from_str::<Vec<Cow<'_, str>>>(named.get())
            .map_or(true, |named| named.iter().any(|profile| profile != LIFECYCLE))
    }
}

impl<'a> TaskRequest<'a> {
    /// Reads the envelope; the payload is checked for nesting but not looked into.
    pub(crate) fn read(body: &'a [u8]) -> Result<Self, String> {
        let request: TaskRequest<'a> = super::object(body).map_err(|e| position(&e))?;
        if let Some(payload) = request.payload {
            check_depth(payload.get().as_bytes())
                .map_err(|most| format!("the payload is nested deeper than {most}"))?;
        }
        Ok(request)
    }

    /// Makes an envelope of parts that came by themselves.
    pub(crate) fn of_parts(parts: &'a TaskParts<'_>) -> Result<Self, String> {
        let payload: &RawValue = serde_json::from_slice(&parts.payload).map_err(|e| position(&e))?;
        check_depth(payload.get().as_bytes()).map_err(|most| format!("the payload is nested deeper than {most}"))?;
        Ok(TaskRequest {
            task_id: parts.task_id.into(),
            intent: parts.intent.into(),
            payload: (payload.get() != "null").then_some(payload),
            iicp_conf: None,
            cx_response_encryption: None,
            constraints: Constraints {
                timeout_ms: parts.timeout_ms,
                qos: parts.qos.map(Cow::Borrowed),
                ..Constraints::default()
            },
            source_node_id: parts.source_node_id.map(Cow::Borrowed),
            cip: None,
            nonce: None,
            auth: None,
            shown_token: parts.node_token,
            idempotency_key: parts.idempotency_key,
        })
    }

    /// Whether the task is a part of a larger one, for which its coordinator asks for the credits.
    pub(crate) fn is_part(&self) -> bool {
        self.cip.is_some_and(|cip| cip.get() != "null")
    }

    /// The number that is good once, as the JSON that it is.
    pub(crate) fn nonce(&self) -> Option<&'a str> {
        self.nonce.map(RawValue::get).filter(|nonce| !matches!(*nonce, "null" | "\"\""))
    }

    /// The token that the task shows: this node's, if its operator gave it to the caller; often just the caller's own.
    pub(crate) fn node_token(&self) -> Option<Cow<'a, str>> {
        let auth: Option<Auth<'a>> = self.auth.and_then(|auth| serde_json::from_str(auth.get()).ok());
        match (self.shown_token, auth) {
            (Some(token), _) => Some(token.into()),
            (None, Some(auth)) => auth.node_token.or(auth.token),
            (None, None) => None,
        }
    }

    /// Whether the caller takes nothing but a sealed reply. Other words have no meaning.
    pub(crate) fn wants_sealed_reply(&self) -> bool {
        self.cx_response_encryption.is_some_and(|word| word.get() == r#""required""#)
    }
}

/// What a task carries.
#[derive(Clone, Copy)]
pub(crate) enum TaskBody<'a> {
    Plain(&'a Payload),
    /// `iicp_conf` as JSON, and whether the reply must be sealed too.
    Sealed {
        envelope: &'a [u8],
        sealed_reply: bool,
    },
}

impl<'a> TaskBody<'a> {
    fn json(self) -> &'a [u8] {
        match self {
            TaskBody::Plain(payload) => payload.bytes(),
            TaskBody::Sealed { envelope, .. } => envelope,
        }
    }
}

/// How a task is sent.
#[derive(Clone, Copy)]
pub(crate) struct Sending {
    /// What is left of the caller's deadline.
    pub(crate) timeout_ms: u64,
    /// Whether the result is taken in parts: the profile is named, and whoever does not know it passes it over.
    pub(crate) streamed: bool,
}

/// Writes a task for a node.
pub(crate) fn write_request(options: &TaskOptions, task_id: &str, body: TaskBody<'_>, sending: Sending) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.json().len() + 320);
    out.extend_from_slice(br#"{"task_id":"#);
    write_string(&mut out, task_id);
    out.extend_from_slice(br#","intent":"#);
    write_string(&mut out, &options.intent);
    out.extend_from_slice(br#","constraints":{"timeout_ms":"#);
    out.extend_from_slice(sending.timeout_ms.to_string().as_bytes());
    if let Some(qos) = options.qos {
        // Published nodes read only the second name, with an underscore.
        let class = if qos == Qos::BestEffort { "best_effort" } else { qos.as_str() };
        out.extend_from_slice(br#","qos":"#);
        write_string(&mut out, qos.as_str());
        out.extend_from_slice(br#","qos_class":"#);
        write_string(&mut out, class);
    }
    if let Some(priority) = options.priority {
        out.extend_from_slice(br#","priority":"#);
        write_string(&mut out, priority.as_str());
    }
    if let Some(model) = &options.model {
        out.extend_from_slice(br#","model":"#);
        write_string(&mut out, model);
    }
    if sending.streamed {
        out.extend_from_slice(br#","optional_profiles":[""#);
        out.extend_from_slice(LIFECYCLE.as_bytes());
        out.extend_from_slice(br#""]"#);
    }
    out.push(b'}');
    if let Some(source) = &options.source_node_id {
        out.extend_from_slice(br#","source_node_id":"#);
        write_string(&mut out, source);
    }
    out.extend_from_slice(match body {
        TaskBody::Plain(_) => br#","payload":"#,
        TaskBody::Sealed { sealed_reply: true, .. } => br#","cx_response_encryption":"required","iicp_conf":"#,
        TaskBody::Sealed { sealed_reply: false, .. } => br#","iicp_conf":"#,
    });
    out.extend_from_slice(body.json());
    out.push(b'}');
    out
}

/// Writes the reply to a finished task (specification: NODE-TASK-02 to -04).
pub(crate) fn write_reply(task_id: &str, result: &[u8], latency_ms: f64) -> Vec<u8> {
    let mut out = Vec::with_capacity(result.len() + task_id.len() + 128);
    out.extend_from_slice(br#"{"task_id":"#);
    write_string(&mut out, task_id);
    out.extend_from_slice(br#","status":"success","result":"#);
    out.extend_from_slice(result);
    out.extend_from_slice(br#","metrics":{"latency_ms":"#);
    let _ = serde_json::to_writer(&mut out, &((latency_ms * 1000.0).round() / 1000.0));
    out.extend_from_slice(br#"},"generated_by_ai":true}"#);
    out
}

/// The result inside of a reply that [`write_reply`] wrote, without reading it.
pub(crate) fn result_of(reply: &Bytes) -> Option<Bytes> {
    // No string holds the first in its JSON form, and nothing that could hold the second comes after the result.
    const BEFORE: &[u8] = br#"","status":"success","result":"#;
    const AFTER: &[u8] = br#","metrics":{"#;
    let from = memchr::memmem::find(reply, BEFORE)? + BEFORE.len();
    let to = memchr::memmem::rfind(reply, AFTER)?;
    (from <= to).then(|| reply.slice(from..to))
}

/// What a handler returned, seen as what it may have meant.
#[derive(Debug, PartialEq)]
pub(crate) enum Returned {
    /// The inner value, as it should be.
    Plain,
    /// The inner value, with the reply's own envelope around it.
    Wrapped(Bytes),
    /// The published adapters' way to say that the backend failed, with a status.
    BackendError(i64),
}

/// Looks at a handler's value without building a tree, and mostly without reading it.
pub(crate) fn returned(result: &Bytes) -> Returned {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Envelope<'a> {
        #[serde(borrow)]
        result: &'a RawValue,
        #[serde(borrow, default)]
        error: Option<&'a RawValue>,
        #[serde(default, rename = "task_id")]
        _task_id: IgnoredAny,
        #[serde(default, rename = "status")]
        _status: IgnoredAny,
        #[serde(default, rename = "metrics")]
        _metrics: IgnoredAny,
        #[serde(default, rename = "model_used")]
        _model_used: IgnoredAny,
        #[serde(default, rename = "generated_by_ai")]
        _generated_by_ai: IgnoredAny,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Adapter {
        error_code: i64,
        #[serde(rename = "error_message")]
        _message: String,
    }
    if memchr::memmem::find(result, b"\"result\"").is_some()
        && let Ok(Envelope { result: inner, error: None, .. }) = super::object(result)
    {
        return Returned::Wrapped(result.slice_ref(inner.get().as_bytes()));
    }
    if result.len() < 4096
        && memchr::memmem::find(result, b"\"error_code\"").is_some()
        && let Ok(Adapter { error_code, .. }) = super::object(result)
    {
        return Returned::BackendError(error_code);
    }
    Returned::Plain
}

#[derive(Deserialize)]
struct ReplyFields<'a> {
    #[serde(borrow, default)]
    task_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    status: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(default)]
    error_code: Option<IgnoredAny>,
    #[serde(borrow, default)]
    iicp_conf_resp: Option<&'a RawValue>,
}

/// A 200 of a node, read but not judged: whether it must be sealed is the caller's to know.
pub(crate) struct TaskReply<'a> {
    body: &'a Bytes,
    fields: ReplyFields<'a>,
}

impl<'a> TaskReply<'a> {
    /// # Errors
    /// `MALFORMED` for an answer that is not a reply to this task.
    pub(crate) fn read(task_id: &str, body: &'a Bytes) -> Result<Self> {
        let fields: ReplyFields<'a> = super::object(body).map_err(|e| malformed(position(&e)))?;
        if let Some(other) = fields.task_id.as_deref().filter(|other| !other.is_empty() && *other != task_id) {
            return Err(malformed(format!("it is about task {:?}", super::failure::clean(other))));
        }
        Ok(TaskReply { body, fields })
    }

    /// The sealed reply inside, if there is one.
    pub(crate) fn sealed(&self) -> Option<&'a [u8]> {
        self.fields.iicp_conf_resp.map(|sealed| sealed.get().as_bytes())
    }

    /// The handler's result of a plain reply.
    ///
    /// # Errors
    /// `MALFORMED` for an answer without a known status, `BACKEND` for a failure inside a 200 (which published nodes
    /// send), `CONFIDENTIALITY_REQUIRED` for a sealed reply that nobody asked for.
    pub(crate) fn result(self) -> Result<Payload> {
        let TaskReply { body, fields: reply } = self;
        let failed =
            || Error::new(Code::Backend, "the node answered that its handler or backend failed").with_http_status(200);
        match reply.status.as_deref() {
            Some("success" | "completed") => {}
            Some("encrypted") => {
                return Err(Error::new(
                    Code::ConfidentialityRequired,
                    "the node sealed its answer though the task was not sealed",
                ));
            }
            Some("error" | "timeout" | "failed") => {
                let failure = super::failure::Failure::read(body);
                let error = failed();
                return Err(match failure.code {
                    Some(code) => error.with_wire_code(code),
                    None => error,
                });
            }
            Some(other) => return Err(malformed(format!("its status is {:?}", super::failure::clean(other)))),
            None => return Err(malformed("it has no status".into())),
        }
        // A backend failure of a published node: the two keys stand at the top (Python) or inside the result (Rust).
        if reply.error_code.is_some() || reply.error.is_some_and(|error| error.get() != "null") {
            return Err(failed());
        }
        let result = match reply.result {
            Some(result) if result.get() != "null" => body.slice_ref(result.get().as_bytes()),
            _ => leftover(body).map_err(malformed)?,
        };
        check_depth(&result).map_err(|most| malformed(format!("it is nested deeper than {most}")))?;
        if is_backend_error(&result) {
            return Err(failed());
        }
        Ok(Payload::trusted(result))
    }
}

fn malformed(why: String) -> Error {
    Error::new(Code::Malformed, format!("the node's answer is not a task reply: {why}"))
}

/// Whether a result is the published adapters' way to say that the backend failed.
fn is_backend_error(result: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Adapter {
        #[serde(rename = "error_code")]
        _code: i64,
        #[serde(rename = "error_message")]
        _message: String,
    }
    result.len() < 4096
        && memchr::memmem::find(result, b"\"error_code\"").is_some()
        && serde_json::from_slice::<Adapter>(result).is_ok()
}

/// A handler's fields that were merged into the envelope (published Python nodes and relays do that).
fn leftover(body: &[u8]) -> Result<Bytes, String> {
    let mut fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(body).map_err(|e| position(&e))?;
    for name in ["task_id", "status", "generated_by_ai", "metrics", "error", "trace", "cip_receipt", "result"] {
        fields.remove(name);
    }
    if fields.is_empty() {
        return Ok(Bytes::from_static(b"null"));
    }
    serde_json::to_vec(&fields).map(Bytes::from).map_err(|e| position(&e))
}

#[cfg(test)]
mod tests;
