//! Serving nodes.

use std::time::Duration;

use iicp_core::bridge::{Bridge, Event, EventKind};

use crate::client::start;
use crate::error::{iicp_code, iicp_error};
use crate::event::iicp_event;
use crate::guard::guard;
use crate::queue::iicp_queue;
use crate::runtime::of;
use crate::view::{Out, iicp_bytes, iicp_str};

/// A node that serves tasks with your code, or with an inference server.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct iicp_node {
    /// The id; 0 is nothing.
    pub id: u64,
}

/// Begins to serve. `options_json` are options of a node: at least `{"intents": ["urn:iicp:intent:..."]}`. Its
/// `IICP_EVENT_DONE` comes after the first registration was tried; its handle is the node, its json as that of
/// `iicp_node_status`.
///
/// A task comes as `IICP_EVENT_TASK` with the same tag on the same queue: its id is the task, its body the payload, its
/// json `{"task_id", "intent", "qos", "deadline_ms", "traceparent", "tracestate", "priority", "model", "max_tokens",
/// "takes_events", "peer",
/// "source_node_id", "verified", "verified_node_id", "node"}`. `model` and `max_tokens` are what the caller wishes outside of
/// the payload, `takes_events` whether it takes the result in parts; `source_node_id` is what it says it is, `verified_node_id` what the directory says it is, and `verified`
/// whether it has shown a good consumer token or this node's own token; what there is not is null. Answer it with
/// `iicp_task_finish` or `iicp_task_fail`, maybe with parts before by `iicp_task_chunk`, on any thread, in any order. `IICP_EVENT_TASK_CANCEL` with the id of a task says
/// that nobody waits for its answer any more. The node never asks for more tasks at once than `max_concurrent`.
///
/// With the option `backend`, as in `{"backend": {"url": "http://127.0.0.1:8000/v1"}}`, no task comes here: they go to that
/// inference server. Intents and models are the backend's, unless the options name them.
///
/// Ownership: arguments are copied. `op` may be NULL. Threads: any. Never blocks.
/// Errors: `IICP_CONFIG_INVALID`, `IICP_INTENT_INVALID`; `IICP_QUEUE_FULL`, `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`.
/// All else, such as `IICP_BIND`, comes as the error of the `IICP_EVENT_DONE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_node_serve(
    queue: iicp_queue,
    options_json: iicp_str,
    tag: u64,
    op: *mut u64,
    err: *mut *mut iicp_error,
) -> iicp_code {
    // SAFETY: the caller's promise.
    let verb = |bridge: &Bridge| bridge.node_serve(queue.id, unsafe { options_json.read("options_json")? }, tag);
    // SAFETY: the caller's promise.
    unsafe { start(queue.id, op, err, verb) }
}

/// How a node is. The json of `*out` is `{"node_id", "url", "registered", "active_jobs", "effective_max_concurrent",
/// "models", "backend_state" (`ok`, `degraded` or `draining`), "backend_reason"}`.
///
/// Ownership: `*out` is yours, for `iicp_event_free`. Threads: any. Never blocks.
/// Errors: `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_node_status(
    node: iicp_node,
    out: *mut *mut iicp_event,
    err: *mut *mut iicp_error,
) -> iicp_code {
    // SAFETY: the caller's promise.
    unsafe { told(node, out, err, Bridge::node_status) }
}

/// How a node can be reached from outside: what was tried, what came back, what to do about it. The json of `*out` is
/// `{"text", "reached_by", "endpoint", "interfaces": [{"name", "address", "public", "temporary", "vpn"}], "gateways",
/// "container", "wan_address", "double_nat", "rungs": [{"rung", "state", "lines", "fix"}], "took_ms", "climbs"}`; its `text`
/// is the same for people.
///
/// Ownership: `*out` is yours, for `iicp_event_free`. Threads: any. Never blocks.
/// Errors: `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_node_nat_report(
    node: iicp_node,
    out: *mut *mut iicp_event,
    err: *mut *mut iicp_error,
) -> iicp_code {
    // SAFETY: the caller's promise.
    unsafe { told(node, out, err, Bridge::node_nat_report) }
}

/// Shows what the engine says of a node at once.
///
/// # Safety
/// As for the functions that it stands for.
unsafe fn told(
    node: iicp_node,
    out: *mut *mut iicp_event,
    err: *mut *mut iicp_error,
    verb: fn(&Bridge, u64) -> iicp_core::Result<String>,
) -> iicp_code {
    let body = || {
        let out = Out::required(out, "out")?;
        let json = verb(&of(node.id)?, node.id)?;
        let mut event = Event::new(EventKind::Done, 0, 0);
        (event.handle, event.json) = (node.id, json);
        // SAFETY: the caller's promise.
        unsafe { out.set(iicp_event::boxed(event)) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { guard(err, body) }
}

/// Closes a node: it leaves its directory and takes no new task; tasks that run have `grace_ms` to be answered. The id is
/// stale at once. The json of its `IICP_EVENT_DONE` is `{"in_time": true}` if all of them were.
///
/// Ownership: `op` may be NULL. Threads: any. Never blocks.
/// Errors: `IICP_QUEUE_FULL`, `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_node_close(
    node: iicp_node,
    queue: iicp_queue,
    grace_ms: u32,
    tag: u64,
    op: *mut u64,
    err: *mut *mut iicp_error,
) -> iicp_code {
    let grace = Duration::from_millis(grace_ms.into());
    // SAFETY: the caller's promise.
    unsafe { start(node.id, op, err, |bridge| bridge.node_close(node.id, queue.id, grace, tag)) }
}

/// Gives the caller of a task a part of the result, a JSON text, and goes on: `iicp_task_finish` or `iicp_task_fail` ends it.
/// A caller who takes no parts gets them put together. `meta_json` is empty or `{"tokens_used": 12}`, as of this part. An
/// empty body says that parts will come.
///
/// `IICP_QUEUE_FULL` says that a megabyte of parts waits for the caller and that this one was not taken: give it again when
/// an `IICP_EVENT_TASK_ROOM` with the id of the task has come.
///
/// Ownership: arguments are copied. Threads: any. Never blocks.
/// Errors: `IICP_QUEUE_FULL`; `IICP_STALE_ID` if the task was answered before or needs no answer any more. `IICP_HANDLER` if
/// the part is not JSON and `IICP_CONFIG_INVALID` for `meta_json`: the task is answered as failed then. `IICP_CLOSED`,
/// `IICP_FORKED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_task_chunk(
    task: u64,
    meta_json: iicp_str,
    body: iicp_bytes,
    err: *mut *mut iicp_error,
) -> iicp_code {
    let body = || {
        // SAFETY: the caller's promise.
        let (meta, body) = unsafe { (meta_json.read("meta_json")?, body.copy("body")?) };
        of(task)?.task_chunk(task, meta, body)
    };
    // SAFETY: the caller's promise.
    unsafe { guard(err, body) }
}

/// Answers a task with a result, a JSON text. `meta_json` is empty or `{"tokens_used": 12}`. After `iicp_task_chunk` it is
/// the end: the body is the last part then, or empty.
///
/// Ownership: arguments are copied. Threads: any. Never blocks.
/// Errors: `IICP_STALE_ID` if the task was answered before or needs no answer any more. `IICP_HANDLER` if the result is
/// not JSON and `IICP_CONFIG_INVALID` for `meta_json`: the task is answered as failed then. `IICP_CLOSED`, `IICP_FORKED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_task_finish(
    task: u64,
    meta_json: iicp_str,
    body: iicp_bytes,
    err: *mut *mut iicp_error,
) -> iicp_code {
    let body = || {
        // SAFETY: the caller's promise.
        let (meta, body) = unsafe { (meta_json.read("meta_json")?, body.copy("body")?) };
        of(task)?.task_finish(task, meta, body)
    };
    // SAFETY: the caller's promise.
    unsafe { guard(err, body) }
}

/// Answers a task with a failure. The caller reads `message` only with `IICP_TASK_REJECTED`, a deliberate refusal; with
/// every other code it learns that the provider failed.
///
/// Ownership: arguments are copied. Threads: any. Never blocks.
/// Errors: `IICP_STALE_ID` if the task was answered before or needs no answer any more. `IICP_INVALID_ARG` if `code` is
/// none of the list: the task is answered as failed then. `IICP_CLOSED`, `IICP_FORKED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_task_fail(
    task: u64,
    code: iicp_code,
    message: iicp_str,
    err: *mut *mut iicp_error,
) -> iicp_code {
    // SAFETY: the caller's promise.
    unsafe { guard(err, || of(task)?.task_fail(task, code, message.read("message")?)) }
}
