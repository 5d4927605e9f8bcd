//! Inbound tasks: a handler that hands every task to the host as an event and waits for the answer.

use std::future::poll_fn;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::answer::{Answer, Asking, Begun, Parts};
use super::event::{Event, EventKind};
use super::queue::Queue;
use super::{Bridge, Tables};
use crate::error::{Code, Error, Result};
use crate::node::{Handler, Inbound, Reply};
use crate::options::millis;
use crate::types::{Chunk, Payload, Priority, Qos};

/// A task whose answer is awaited. Dropping it without one says that the host can give none any more.
pub(super) struct Asked {
    answer: Arc<Answer>,
    queue: Arc<Queue>,
}

impl Asked {
    pub(super) fn is_in(&self, queue: &Arc<Queue>) -> bool {
        Arc::ptr_eq(&self.queue, queue)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.answer.close();
    }
}

/// Serves with the host's code.
pub(super) struct ForeignHandler {
    pub(super) tables: Arc<Tables>,
    pub(super) queue: Arc<Queue>,
    pub(super) tag: u64,
    pub(super) node_id: String,
}

/// What the host learns beside the payload.
#[derive(Serialize)]
struct About<'a> {
    task_id: &'a str,
    intent: &'a str,
    qos: Qos,
    deadline_ms: u64,
    traceparent: Option<&'a str>,
    tracestate: Option<&'a str>,
    priority: Priority,
    model: Option<&'a str>,
    max_tokens: Option<u64>,
    takes_events: bool,
    peer: std::net::SocketAddr,
    source_node_id: Option<&'a str>,
    verified: bool,
    verified_node_id: Option<&'a str>,
    node: &'a str,
}

impl ForeignHandler {
    fn event(&self, id: u64, task: Inbound) -> Result<Event> {
        let about = About {
            task_id: &task.task_id,
            intent: &task.intent,
            qos: task.qos,
            deadline_ms: millis(task.time_left()),
            traceparent: task.traceparent.as_deref(),
            tracestate: task.tracestate.as_deref(),
            priority: task.priority,
            model: task.model.as_deref(),
            max_tokens: task.max_tokens,
            takes_events: task.takes_events,
            peer: task.caller.peer,
            source_node_id: task.caller.source_node_id.as_deref(),
            verified: task.caller.verified,
            verified_node_id: task.caller.verified_node_id.as_deref(),
            node: &self.node_id,
        };
        let json = to_json(&about)?;
        Ok(Event { json, body: task.payload.into_bytes(), ..Event::new(EventKind::Task, id, self.tag) })
    }
}

impl Handler for ForeignHandler {
    async fn call(&self, task: Inbound) -> Result<Reply> {
        let answer = Answer::new();
        let asked = Asked { answer: answer.clone(), queue: self.queue.clone() };
        let id = self.tables.tasks.insert(|_| asked).map_err(|_| not_asked())?;
        let (tables, queue) = (self.tables.clone(), self.queue.clone());
        let mut asking = Asking { tables, queue, id, tag: self.tag, seat: None, answer };
        let event = self.event(id, task)?;
        // The node drops this future at the task's deadline, and with it the wait for room.
        asking.seat = Some(self.queue.deliver(event).await.map_err(|_| not_asked())?);
        match poll_fn(|cx| asking.answer.poll_begin(cx)).await {
            Begun::Whole(reply) => reply,
            Begun::Parts => Ok(Reply::stream(Parts { asking, over: false })),
        }
    }
}

/// The host never saw the task, so another node may well be asked.
fn not_asked() -> Error {
    Error::new(Code::Capacity, "the host closed the queue that tasks are delivered to")
}

/// What the host may say beside the result.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AboutReply {
    tokens_used: Option<u64>,
}

impl AboutReply {
    fn read(json: &str) -> Result<Self> {
        if json.is_empty() {
            return Ok(AboutReply::default());
        }
        serde_json::from_str(json).map_err(|e| Error::new(Code::ConfigInvalid, format!("options of a reply: {e}")))
    }
}

impl Bridge {
    /// Gives the caller of a task a part of the result, which must be JSON, and goes on: the task ends with
    /// [`Bridge::task_finish`] or [`Bridge::task_fail`]. A caller who takes no parts gets them put together at the end.
    /// `meta_json` is empty or `{"tokens_used": 12}`, as of this part. An empty `body` says that parts will come.
    ///
    /// # Errors
    /// `QUEUE_FULL` if a megabyte of parts waits for the caller: the part was not taken, and a `TASK_ROOM` event with the
    /// task's `id` comes when there is room. `STALE_ID` if the task needs no answer any more. `HANDLER` if the part is not
    /// JSON and `CONFIG_INVALID` for `meta_json`: the task is answered as failed then. `CLOSED`, `FORKED`.
    pub fn task_chunk(&self, task: u64, meta_json: &str, body: bytes::Bytes) -> Result<()> {
        let tables = self.open()?;
        let answer = tables.tasks.read(task, |asked| asked.answer.clone())?;
        match part(meta_json, body) {
            Ok(part) => answer.add(task, part),
            Err(error) => {
                let _asked = tables.tasks.remove(task)?;
                answer.end(task, Err(Error::new(Code::Handler, "a part of the handler's reply was refused")))?;
                Err(error)
            }
        }
    }

    /// Answers a task with a result, which must be JSON. `meta_json` is empty or `{"tokens_used": 12}`. After
    /// [`Bridge::task_chunk`] it is the end: `body` is the last part then, or empty.
    ///
    /// # Errors
    /// `STALE_ID` if the task needs no answer any more. `HANDLER` if the result is not JSON and `CONFIG_INVALID` for
    /// `meta_json`: the task is answered as failed then. `CLOSED`, `FORKED`.
    pub fn task_finish(&self, task: u64, meta_json: &str, body: bytes::Bytes) -> Result<()> {
        let asked = self.open()?.tasks.remove(task)?;
        let read = || {
            let about = AboutReply::read(meta_json)?;
            let reply = match body.is_empty() && asked.answer.is_in_parts() {
                true => Payload::trusted(body).into(),
                false => Reply::json_bytes(body)?,
            };
            Ok(reply.tokens_used(about.tokens_used.unwrap_or_default()))
        };
        match read() {
            Ok(reply) => asked.answer.end(task, Ok(reply)),
            Err(error) => {
                // The caller is told at once; the host need not answer again.
                asked.answer.end(task, Err(Error::new(Code::Handler, "the handler's reply was refused")))?;
                Err(error)
            }
        }
    }

    /// Answers a task with a failure. The message is shown to the caller only with `TASK_REJECTED`. What came before in
    /// parts stays incomplete.
    ///
    /// # Errors
    /// `STALE_ID` if the task needs no answer any more. `INVALID_ARG` if `code` is no error of this library: the task is
    /// answered as failed then. `CLOSED`, `FORKED`.
    pub fn task_fail(&self, task: u64, code: i32, message: &str) -> Result<()> {
        let asked = self.open()?.tasks.remove(task)?;
        match Code::from_number(code).filter(|code| *code != Code::Ok) {
            Some(code) => asked.answer.end(task, Err(Error::new(code, message))),
            None => {
                asked.answer.end(task, Err(Error::new(Code::Handler, "the handler failed without a valid code")))?;
                Err(Error::new(Code::InvalidArg, format!("{code} is no error code; the task was answered as failed")))
            }
        }
    }
}

/// Reads a part; none where there is nothing in it.
fn part(meta_json: &str, body: bytes::Bytes) -> Result<Option<Chunk>> {
    let tokens = AboutReply::read(meta_json)?.tokens_used;
    if body.is_empty() {
        return Ok(None);
    }
    let part = Payload::from_json(body)
        .map_err(|e| Error::new(Code::Handler, format!("a part of the reply cannot be sent: {}", e.message())))?;
    Ok(Some(Chunk::new(part, tokens)))
}

/// JSON of what has a fixed, small form.
pub(super) fn to_json<T: Serialize>(value: &T) -> Result<String> {
    let mut json = Vec::with_capacity(384);
    serde_json::to_writer(&mut json, value).map_err(|e| e.to_string()).map_err(internal)?;
    String::from_utf8(json).map_err(|e| e.to_string()).map_err(internal)
}

fn internal(why: String) -> Error {
    Error::new(Code::Internal, format!("an event could not be written as JSON: {why}"))
}
