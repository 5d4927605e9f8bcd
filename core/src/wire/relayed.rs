//! Tasks and answers in JSON as they pass through a relay: as bytes, looked at no further than it takes to route them.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};
use serde_json::value::RawValue;

use super::write_string;
use crate::types::{check_depth, position};

/// What a relay looks at in a task. Whether the task is one is for the worker to say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Envelope<'a> {
    pub(crate) task_id: Option<Cow<'a, str>>,
    pub(crate) timeout_ms: Option<u64>,
}

/// What is passed on unread must be text all the same: the JSON reader does not look into strings that nobody asks for.
fn is_text(json: &[u8]) -> bool {
    std::str::from_utf8(json).is_ok()
}

impl<'a> Envelope<'a> {
    pub(crate) fn read(body: &'a [u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Fields<'a> {
            #[serde(borrow, default)]
            task_id: Option<&'a RawValue>,
            #[serde(borrow, default)]
            constraints: Option<&'a RawValue>,
            #[serde(borrow, default)]
            payload: Option<&'a RawValue>,
        }
        #[derive(Deserialize)]
        struct Constraints {
            #[serde(default, deserialize_with = "super::count")]
            timeout_ms: Option<u64>,
        }
        let fields: Fields<'a> = super::object(body).map_err(|e| position(&e))?;
        if !is_text(body) {
            return Err("it is no UTF-8".into());
        }
        if let Some(payload) = fields.payload {
            // As a node does; a worker of another kind may not look before it reads.
            check_depth(payload.get().as_bytes())
                .map_err(|most| format!("the payload is nested deeper than {most}"))?;
        }
        let constraints = fields.constraints.and_then(|raw| serde_json::from_str::<Constraints>(raw.get()).ok());
        Ok(Envelope {
            task_id: fields.task_id.and_then(text),
            timeout_ms: constraints.and_then(|constraints| constraints.timeout_ms),
        })
    }
}

fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Text<'_>>(raw.get()).ok().map(|text| text.0)
}

/// What the older path for relayed tasks takes.
pub(crate) struct Addressed {
    pub(crate) target: String,
    pub(crate) task: Bytes,
}

impl Addressed {
    /// Reads it; none if the target or the task is missing.
    pub(crate) fn read(body: &Bytes) -> Result<Option<Self>, String> {
        #[derive(Deserialize)]
        struct Fields<'a> {
            #[serde(borrow, default)]
            target_node_id: Option<Cow<'a, str>>,
            #[serde(borrow, default)]
            task: Option<&'a RawValue>,
        }
        let fields: Fields<'_> = super::object(body).map_err(|e| position(&e))?;
        let (Some(target), Some(task)) = (fields.target_node_id, fields.task) else { return Ok(None) };
        Ok(Some(Addressed { target: target.into_owned(), task: body.slice_ref(task.get().as_bytes()) }))
    }
}

/// A worker's answer as its caller gets it: the worker's own fields, and what every answer has where it left that out.
/// None if it is no object.
pub(crate) fn answer(task_id: &str, worker: &Bytes) -> Option<Bytes> {
    #[derive(Deserialize)]
    struct Fields {
        #[serde(default, deserialize_with = "is_there")]
        task_id: bool,
        #[serde(default, deserialize_with = "is_there")]
        status: bool,
        #[serde(default, deserialize_with = "is_there")]
        generated_by_ai: bool,
    }
    let fields: Fields = super::object(worker).ok().filter(|_| is_text(worker))?;
    let mut head = Vec::new();
    let add = |head: &mut Vec<u8>, name: &str, value: &[u8]| {
        head.push(if head.is_empty() { b'{' } else { b',' });
        write_string(head, name);
        head.push(b':');
        head.extend_from_slice(value);
    };
    if !fields.task_id {
        let mut text = Vec::new();
        write_string(&mut text, task_id);
        add(&mut head, "task_id", &text);
    }
    if !fields.status {
        add(&mut head, "status", br#""completed""#);
    }
    if !fields.generated_by_ai {
        add(&mut head, "generated_by_ai", b"true");
    }
    if head.is_empty() {
        return Some(worker.clone());
    }
    let inside = worker.trim_ascii().strip_prefix(b"{")?;
    if !inside.trim_ascii_start().starts_with(b"}") {
        head.push(b',');
    }
    head.extend_from_slice(inside);
    Some(head.into())
}

/// A field that is there, whatever it holds: also null is a worker's own word.
fn is_there<'de, D: Deserializer<'de>>(d: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(d).map(|_| true)
}

/// A worker's request to be bound over HTTP.
#[derive(Deserialize)]
pub(crate) struct BindRequest<'a> {
    #[serde(borrow, default)]
    worker_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    models: Option<&'a RawValue>,
    #[serde(borrow, default)]
    bind_ticket: Option<&'a RawValue>,
}

impl<'a> BindRequest<'a> {
    pub(crate) fn read(body: &'a [u8]) -> Option<Self> {
        super::object(body).ok()
    }

    pub(crate) fn worker_id(&self) -> Option<Cow<'a, str>> {
        self.worker_id.and_then(text)
    }

    /// Not empty.
    pub(crate) fn ticket(&self) -> Option<Cow<'a, str>> {
        self.bind_ticket.and_then(text).filter(|ticket| !ticket.is_empty())
    }

    /// At most 64, each of at most 255 bytes.
    pub(crate) fn models(&self) -> Vec<String> {
        let models: Vec<String> = self.models.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
        models.into_iter().filter(|model| model.len() <= 255).take(64).collect()
    }
}

/// What a worker brings over HTTP.
pub(crate) struct Brought {
    pub(crate) call: String,
    pub(crate) result: Bytes,
}

impl Brought {
    /// Reads it; none if the call or the result is missing, or the result is no object.
    pub(crate) fn read(body: &Bytes) -> Option<Self> {
        #[derive(Deserialize)]
        struct Fields<'a> {
            #[serde(borrow)]
            call_id: Cow<'a, str>,
            #[serde(borrow)]
            result: &'a RawValue,
        }
        let fields: Fields<'_> = super::object(body).ok()?;
        let result = fields.result.get();
        result
            .starts_with('{')
            .then(|| Brought { call: fields.call_id.into_owned(), result: body.slice_ref(result.as_bytes()) })
    }
}

/// What a pull brings: the task stands in it as it came.
pub(crate) fn write_pulled(call: &str, task: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(task.len() + call.len() + 32);
    out.extend_from_slice(br#"{"call_id":"#);
    write_string(&mut out, call);
    out.extend_from_slice(br#","task":"#);
    out.extend_from_slice(task);
    out.push(b'}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn answered(worker: &str) -> Option<Value> {
        answer("t-1", &Bytes::copy_from_slice(worker.as_bytes())).map(|body| serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn a_workers_own_fields_win_and_the_missing_ones_are_added() {
        let full = json!({"task_id": "t-9", "status": "encrypted", "generated_by_ai": false, "x": 1});
        assert_eq!(answered(&full.to_string()), Some(full.clone()));
        let whole = Bytes::from(full.to_string());
        assert_eq!(answer("t-1", &whole).unwrap().as_ptr(), whole.as_ptr(), "passed on as it is");
        assert_eq!(
            answered(r#" { "result" : {"ok":true} } "#),
            Some(json!({"task_id": "t-1", "status": "completed", "generated_by_ai": true, "result": {"ok": true}}))
        );
        let bare = Some(json!({"task_id": "t-1", "status": "completed", "generated_by_ai": true}));
        for empty in ["{}", " {\n}", "{ }"] {
            assert_eq!(answered(empty), bare);
        }
        assert_eq!(answered(r#"{"status":"x"}"#).unwrap()["status"], "x");
        for other in ["", "[]", "7", "null", "{", r#""{}""#, "{}x", "[{}]"] {
            assert_eq!(answered(other), None, "{other}");
        }
    }

    #[test]
    fn no_field_is_written_twice() {
        for body in [r#"{"task_id":null}"#, r#"{"status":null,"task_id":7}"#, r#"{"generated_by_ai":[]}"#] {
            let text = answer("t-1", &Bytes::from_static(body.as_bytes())).unwrap();
            let text = std::str::from_utf8(&text).unwrap();
            for name in ["task_id", "status", "generated_by_ai"] {
                assert_eq!(text.matches(name).count(), 1, "{text}");
            }
        }
    }

    #[test]
    fn a_task_is_looked_at_no_further_than_needed() {
        let read = |body: &'static str| Envelope::read(body.as_bytes());
        let envelope =
            read(r#"{"task_id":"a\"b","constraints":{"timeout_ms":5000,"x":[]},"payload":{"deep":[1]}}"#).unwrap();
        assert_eq!((envelope.task_id.as_deref(), envelope.timeout_ms), (Some("a\"b"), Some(5000)));
        for lenient in ["{}", r#"{"task_id":7,"constraints":[]}"#, r#"{"constraints":{"timeout_ms":"x"}}"#] {
            assert_eq!(read(lenient), Ok(Envelope::default()), "{lenient}");
        }
        for bad in ["", "[]", "x", "{", "null"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let deep = format!(r#"{{"payload":{}{}}}"#, "[".repeat(500), "]".repeat(500));
        assert!(Envelope::read(deep.as_bytes()).is_err());
    }
}
