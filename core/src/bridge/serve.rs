//! Inbound tasks: a handler that hands every task to the host as an event and waits for the answer.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::event::{Event, EventKind};
use super::queue::{Queue, Seat};
use super::{Bridge, Tables};
use crate::error::{Code, Error, Result};
use crate::node::{Handler, Inbound, Reply};
use crate::options::millis;
use crate::types::{Priority, Qos};

/// A task whose answer is awaited.
pub(super) struct Asked {
    answer: oneshot::Sender<Result<Reply>>,
    queue: Arc<Queue>,
}

impl Asked {
    pub(super) fn is_in(&self, queue: &Arc<Queue>) -> bool {
        Arc::ptr_eq(&self.queue, queue)
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
        let (answer, answered) = oneshot::channel();
        let asked = Asked { answer, queue: self.queue.clone() };
        let id = self.tables.tasks.insert(|_| asked).map_err(|_| not_asked())?;
        let mut asking = Asking { handler: self, id, seat: None, answered };
        let event = self.event(id, task)?;
        // The node drops this future at the task's deadline, and with it the wait for room.
        asking.seat = Some(self.queue.deliver(event).await.map_err(|_| not_asked())?);
        match (&mut asking.answered).await {
            Ok(reply) => {
                asking.seat = None;
                reply
            }
            Err(_) => Err(Error::new(Code::Closed, "the host closed the queue that the task was delivered to")),
        }
    }
}

/// The host never saw the task, so another node may well be asked.
fn not_asked() -> Error {
    Error::new(Code::Capacity, "the host closed the queue that tasks are delivered to")
}

/// A task that the host was asked to serve. However the wait for its answer ends, its id is stale afterwards; if there
/// was no answer, the host is told to stop.
struct Asking<'a> {
    handler: &'a ForeignHandler,
    id: u64,
    /// There while the task is delivered and has no answer.
    seat: Option<Seat>,
    answered: oneshot::Receiver<Result<Reply>>,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let withdrawn = self.handler.tables.tasks.remove(self.id).is_ok();
        let Some(seat) = self.seat.take() else { return };
        // Who took the id out may be about to answer: from here on that says STALE_ID, or the answer is here already.
        self.answered.close();
        if withdrawn || self.answered.try_recv().is_err() {
            seat.finish(Event::new(EventKind::TaskCancel, self.id, self.handler.tag));
        }
    }
}

/// What the host may say beside the result.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AboutReply {
    tokens_used: u64,
}

impl Bridge {
    /// Answers a task with a result, which must be JSON. `meta_json` is empty or `{"tokens_used": 12}`.
    ///
    /// # Errors
    /// `STALE_ID` if the task needs no answer any more. `HANDLER` if the result is not JSON and `CONFIG_INVALID` for
    /// `meta_json`: the task is answered as failed then. `CLOSED`, `FORKED`.
    pub fn task_finish(&self, task: u64, meta_json: &str, body: bytes::Bytes) -> Result<()> {
        let asked = self.open()?.tasks.remove(task)?;
        let read = || {
            let about: AboutReply = match meta_json {
                "" => AboutReply::default(),
                text => serde_json::from_str(text)
                    .map_err(|e| Error::new(Code::ConfigInvalid, format!("options of a reply: {e}")))?,
            };
            Ok(Reply::json_bytes(body)?.tokens_used(about.tokens_used))
        };
        match read() {
            Ok(reply) => answer(task, asked, Ok(reply)),
            Err(error) => {
                // The caller is told at once; the host need not answer again.
                answer(task, asked, Err(Error::new(Code::Handler, "the handler's reply was refused")))?;
                Err(error)
            }
        }
    }

    /// Answers a task with a failure. The message is shown to the caller only with `TASK_REJECTED`.
    ///
    /// # Errors
    /// `STALE_ID` if the task needs no answer any more. `INVALID_ARG` if `code` is no error of this library: the task is
    /// answered as failed then. `CLOSED`, `FORKED`.
    pub fn task_fail(&self, task: u64, code: i32, message: &str) -> Result<()> {
        let asked = self.open()?.tasks.remove(task)?;
        match Code::from_number(code).filter(|code| *code != Code::Ok) {
            Some(code) => answer(task, asked, Err(Error::new(code, message))),
            None => {
                answer(task, asked, Err(Error::new(Code::Handler, "the handler failed without a valid code")))?;
                Err(Error::new(Code::InvalidArg, format!("{code} is no error code; the task was answered as failed")))
            }
        }
    }
}

fn answer(task: u64, asked: Asked, reply: Result<Reply>) -> Result<()> {
    asked.answer.send(reply).map_err(|_| {
        Error::new(Code::StaleId, format!("task {task:#018x} needs no answer any more; its caller did not wait"))
    })
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
