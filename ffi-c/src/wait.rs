//! Clients that wait.
//!
//! On the calling thread, with a queue of its own for the one event. Of a client with an external ranker the tasks are
//! refused: nobody could answer.

use std::time::Duration;

use iicp_core::bridge::{Bridge, Event, EventKind};
use iicp_core::options::QueueOptions;
use iicp_core::{Code, Error, Result};

use crate::client::{iicp_client, iicp_inference, inference};
use crate::error::{iicp_code, iicp_error};
use crate::event::iicp_event;
use crate::guard::guard;
use crate::runtime::of;
use crate::view::{Out, iicp_bytes, iicp_str};

/// A ranking is asked for by an event, and a function that waits shows none but the last.
const NO_RANKER: &str =
    r#"{"error":"a function that waits cannot ask the application's ranker; start the operation with a queue"}"#;

/// A queue that is gone when the wait is over.
struct Private<'a> {
    bridge: &'a Bridge,
    queue: u64,
}

impl Drop for Private<'_> {
    fn drop(&mut self) {
        let _ = self.bridge.queue_free(self.queue);
    }
}

unsafe fn wait(
    client: iicp_client,
    out: *mut *mut iicp_event,
    err: *mut *mut iicp_error,
    verb: impl FnOnce(&Bridge, u64) -> Result<u64>,
) -> iicp_code {
    let body = || {
        let out = Out::required(out, "out")?;
        let bridge = of(client.id)?;
        let own = Private { bridge: &bridge, queue: bridge.queue_new(QueueOptions::default())? };
        verb(&bridge, own.queue)?;
        loop {
            // Every operation has its own deadline, and then exactly one last event.
            let event = bridge.queue_next(own.queue, Duration::MAX)?;
            match event.ok_or_else(|| Error::new(Code::Internal, "an operation ended without an event"))? {
                // An operation that is over meanwhile needs no answer.
                Event { kind: EventKind::Rank, id, .. } => drop(bridge.rank_finish(id, NO_RANKER)),
                Event { error: Some(error), .. } => return Err(error),
                event => {
                    // SAFETY: the caller's promise.
                    unsafe { out.set(iicp_event::boxed(event)) };
                    return Ok(());
                }
            }
        }
    };
    // SAFETY: the caller's promise.
    unsafe { guard(err, body) }
}

/// `iicp_client_discover`, and waits for its `IICP_EVENT_DONE`. The operation's own deadline is that of the wait.
///
/// Ownership: `*out` is yours, for `iicp_event_free`; it never has an error. Threads: any, but not inside a doorbell.
/// Errors: those of the verb and of its `IICP_EVENT_DONE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_client_discover_wait(
    client: iicp_client,
    query_json: iicp_str,
    out: *mut *mut iicp_event,
    err: *mut *mut iicp_error,
) -> iicp_code {
    let verb = |bridge: &Bridge, queue| {
        // SAFETY: the caller's promise.
        bridge.discover(client.id, queue, unsafe { query_json.read("query_json")? }, 0)
    };
    // SAFETY: the caller's promise.
    unsafe { wait(client, out, err, verb) }
}

/// `iicp_client_submit`, and waits for its `IICP_EVENT_DONE`. The task's own deadline is that of the wait.
///
/// Ownership: `*out` is yours, for `iicp_event_free`; it never has an error. Threads: any, but not inside a doorbell.
/// Errors: those of the verb and of its `IICP_EVENT_DONE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_client_submit_wait(
    client: iicp_client,
    task_json: iicp_str,
    body: iicp_bytes,
    out: *mut *mut iicp_event,
    err: *mut *mut iicp_error,
) -> iicp_code {
    let verb = |bridge: &Bridge, queue| {
        // SAFETY: the caller's promise.
        let (task, body) = unsafe { (task_json.read("task_json")?, body.copy("body")?) };
        bridge.submit(client.id, queue, task, body, 0)
    };
    // SAFETY: the caller's promise.
    unsafe { wait(client, out, err, verb) }
}

/// `iicp_client_chat`, and waits for its `IICP_EVENT_DONE`. The chat's own deadline is that of the wait.
///
/// Ownership: `*out` is yours, for `iicp_event_free`; it never has an error. Threads: any, but not inside a doorbell.
/// Errors: those of the verb and of its `IICP_EVENT_DONE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_client_chat_wait(
    client: iicp_client,
    chat_json: iicp_str,
    out: *mut *mut iicp_event,
    err: *mut *mut iicp_error,
) -> iicp_code {
    let verb = |bridge: &Bridge, queue| {
        // SAFETY: the caller's promise.
        bridge.chat(client.id, queue, unsafe { chat_json.read("chat_json")? }, 0)
    };
    // SAFETY: the caller's promise.
    unsafe { wait(client, out, err, verb) }
}

/// `iicp_client_infer`, and waits for its `IICP_EVENT_DONE`. The task's own deadline is that of the wait.
///
/// Ownership: `*out` is yours, for `iicp_event_free`; it never has an error. Threads: any, but not inside a doorbell.
/// Errors: those of the verb and of its `IICP_EVENT_DONE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_client_infer_wait(
    client: iicp_client,
    kind: iicp_inference,
    ask_json: iicp_str,
    body: iicp_bytes,
    out: *mut *mut iicp_event,
    err: *mut *mut iicp_error,
) -> iicp_code {
    let verb = |bridge: &Bridge, queue| {
        // SAFETY: the caller's promise.
        let (ask, body) = unsafe { (ask_json.read("ask_json")?, body.copy("body")?) };
        bridge.infer(client.id, queue, inference(kind)?, ask, body, 0)
    };
    // SAFETY: the caller's promise.
    unsafe { wait(client, out, err, verb) }
}
