//! Clients.

use iicp_core::Result;
use iicp_core::bridge::{Bridge, Inference};

use crate::error::{iicp_code, iicp_error};
use crate::guard::guard;
use crate::queue::iicp_queue;
use crate::runtime::{iicp_runtime, of};
use crate::view::{Out, iicp_bytes, iicp_str, invalid};

/// Finds nodes and sends tasks to them.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct iicp_client {
    /// The id; 0 is nothing.
    pub id: u64,
}

/// Which model task `iicp_client_infer` runs: one of the `IICP_INFERENCE_` numbers above.
pub type iicp_inference = i32;

/// The task of this number.
pub(crate) fn inference(kind: iicp_inference) -> Result<Inference> {
    let none = || invalid(format!("argument kind is {kind}, which is none of the IICP_INFERENCE_ numbers"));
    Inference::from_number(kind).ok_or_else(none)
}

/// Starts a verb and tells its operation.
///
/// # Safety
/// `op` and `err` are null or may be written.
pub(crate) unsafe fn start(
    id: u64,
    op: *mut u64,
    err: *mut *mut iicp_error,
    verb: impl FnOnce(&Bridge) -> Result<u64>,
) -> iicp_code {
    let body = || {
        let op = Out::wanted(op, "op")?;
        let started = verb(&of(id)?)?;
        // SAFETY: the caller's promise.
        unsafe { op.set(started) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { guard(err, body) }
}

/// Makes a client. `options_json` are options of a client, empty for the defaults. Nothing is sent yet.
///
/// Ownership: `*out` is yours, for `iicp_client_close`. Threads: any.
/// Errors: `IICP_CONFIG_INVALID`, `IICP_TIMEOUT_TOO_LARGE`, `IICP_CONFIDENTIALITY_REQUIRED`; `IICP_STALE_ID`,
/// `IICP_CLOSED`, `IICP_FORKED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_client_new(
    runtime: iicp_runtime,
    options_json: iicp_str,
    out: *mut iicp_client,
    err: *mut *mut iicp_error,
) -> iicp_code {
    let body = || {
        let out = Out::required(out, "out")?;
        // SAFETY: the caller's promise.
        let id = of(runtime.id)?.client_new(unsafe { options_json.read("options_json")? })?;
        // SAFETY: the caller's promise.
        unsafe { out.set(iicp_client { id }) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { guard(err, body) }
}

/// Asks the directory for nodes. `query_json` is `{"intent": "urn:iicp:intent:...", "limit": 5}` and what else the options
/// of a discovery say. The json of its `IICP_EVENT_DONE` is a list of nodes, best first.
///
/// Ownership: arguments are copied. `op` may be NULL. Threads: any. Never blocks.
/// Errors: `IICP_CONFIG_INVALID`, `IICP_INTENT_INVALID`; `IICP_QUEUE_FULL`, `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`.
/// All else comes as the error of the `IICP_EVENT_DONE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_client_discover(
    client: iicp_client,
    queue: iicp_queue,
    query_json: iicp_str,
    tag: u64,
    op: *mut u64,
    err: *mut *mut iicp_error,
) -> iicp_code {
    // SAFETY: the caller's promise.
    let verb = |bridge: &Bridge| bridge.discover(client.id, queue.id, unsafe { query_json.read("query_json")? }, tag);
    // SAFETY: the caller's promise.
    unsafe { start(client.id, op, err, verb) }
}

/// Submits a task. `task_json` is `{"intent": "urn:iicp:intent:..."}` and what else the options of a task say, `body` is
/// the payload, a JSON text. The body of its `IICP_EVENT_DONE` is the result, the json is `{"task_id", "node_id",
/// "attempts", "traceparent", "timings_ms": {"discover", "select", "connect", "first_byte", "overhead", "total"}, "receipt":
/// {"receipt_version", "selection_profile", "eligible_candidate_count", "selected_node_id_prefix",
/// "dispatch_ticket_id_prefix", "profile_negotiation", "redaction"}, "sealed"}`.
///
/// If the client was made with `external_ranker`, an `IICP_EVENT_RANK` of the operation comes before; see
/// `iicp_rank_finish`.
///
/// Ownership: arguments are copied. `op` may be NULL. Threads: any. Never blocks.
/// Errors: 2xxx for the options and the payload; `IICP_QUEUE_FULL`, `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`. All else
/// comes as the error of the `IICP_EVENT_DONE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_client_submit(
    client: iicp_client,
    queue: iicp_queue,
    task_json: iicp_str,
    body: iicp_bytes,
    tag: u64,
    op: *mut u64,
    err: *mut *mut iicp_error,
) -> iicp_code {
    let verb = |bridge: &Bridge| {
        // SAFETY: the caller's promise.
        let (task, body) = unsafe { (task_json.read("task_json")?, body.copy("body")?) };
        bridge.submit(client.id, queue.id, task, body, tag)
    };
    // SAFETY: the caller's promise.
    unsafe { start(client.id, op, err, verb) }
}

/// Chats. `chat_json` is `{"messages": [{"role": "user", "content": "Hello"}]}` and what else the options of a chat say.
/// The json of its `IICP_EVENT_DONE` is that of `iicp_client_submit` with `text`, `tool_calls`, `finish_reason`, `usage`
/// and `model` besides, the body is the provider's whole reply.
///
/// Ownership: arguments are copied. `op` may be NULL. Threads: any. Never blocks.
/// Errors: 2xxx for the options; `IICP_QUEUE_FULL`, `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`. All else comes as the
/// error of the `IICP_EVENT_DONE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_client_chat(
    client: iicp_client,
    queue: iicp_queue,
    chat_json: iicp_str,
    tag: u64,
    op: *mut u64,
    err: *mut *mut iicp_error,
) -> iicp_code {
    // SAFETY: the caller's promise.
    let verb = |bridge: &Bridge| bridge.chat(client.id, queue.id, unsafe { chat_json.read("chat_json")? }, tag);
    // SAFETY: the caller's promise.
    unsafe { start(client.id, op, err, verb) }
}

/// Submits a task whose result comes in parts, as the provider makes them. With a body, `ask_json` and `body` are those of
/// `iicp_client_submit`; with an empty one, `ask_json` is that of `iicp_client_chat`.
///
/// Every part is an `IICP_EVENT_CHUNK`: its body is the part, its json `{"sequence", "text", "tokens_used", "task_id",
/// "node_id"}`, with the count from 0, what a chat says next, and the tokens so far, null if the provider does not count. The
/// json of the `IICP_EVENT_DONE` is that of `iicp_client_submit` with `finish_reason`, `usage`, `model` and `tokens_used`
/// besides, its body is empty. A provider that does not stream gives its whole result as one part.
///
/// A part counts until its event is freed: with a megabyte of them the provider waits. `iicp_op_cancel` stops the
/// provider's handler. A failure in the middle is the error of the `IICP_EVENT_DONE`.
///
/// Ownership: arguments are copied. `op` may be NULL. Threads: any. Never blocks.
/// Errors: 2xxx for the options and the payload; `IICP_QUEUE_FULL`, `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`. All else
/// comes as the error of the `IICP_EVENT_DONE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_client_stream(
    client: iicp_client,
    queue: iicp_queue,
    ask_json: iicp_str,
    body: iicp_bytes,
    tag: u64,
    op: *mut u64,
    err: *mut *mut iicp_error,
) -> iicp_code {
    let verb = |bridge: &Bridge| {
        // SAFETY: the caller's promise.
        let (ask, body) = unsafe { (ask_json.read("ask_json")?, body.copy("body")?) };
        bridge.stream(client.id, queue.id, ask, body, tag)
    };
    // SAFETY: the caller's promise.
    unsafe { start(client.id, op, err, verb) }
}

/// Runs a model task of a well-known intent. `ask_json` are the options of a completion, an embedding, a transcription, a
/// speech or a moderation, as `kind` says. Of a transcription `body` is the sound file, else it is empty. The json of its
/// `IICP_EVENT_DONE` is that of `iicp_client_submit` with, besides:
///
/// - a completion: `text`, `finish_reason`, `usage`, `model`;
/// - an embedding: `vectors`, `usage`, `model`;
/// - a transcription: `text`, `language`;
/// - a speech: `content_type`, `format`, and the body is the sound file;
/// - a moderation: `results`, each `{"flagged", "categories", "category_scores"}`, `model`.
///
/// But for a speech, the body is the provider's whole reply.
///
/// Ownership: arguments are copied. `op` may be NULL. Threads: any. Never blocks.
/// Errors: 2xxx for the options; `IICP_QUEUE_FULL`, `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`. All else comes as the
/// error of the `IICP_EVENT_DONE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_client_infer(
    client: iicp_client,
    queue: iicp_queue,
    kind: iicp_inference,
    ask_json: iicp_str,
    body: iicp_bytes,
    tag: u64,
    op: *mut u64,
    err: *mut *mut iicp_error,
) -> iicp_code {
    let verb = |bridge: &Bridge| {
        // SAFETY: the caller's promise.
        let (ask, body) = unsafe { (ask_json.read("ask_json")?, body.copy("body")?) };
        bridge.infer(client.id, queue.id, inference(kind)?, ask, body, tag)
    };
    // SAFETY: the caller's promise.
    unsafe { start(client.id, op, err, verb) }
}

/// Answers an `IICP_EVENT_RANK`, whose id is the operation `op` and whose json is `{"request_ref", "intent", "candidates":
/// [{"candidate_ref", "models", "directory_score", "load", ...}]}`, in the order in which they would be asked.
///
/// `choice_json` is `{"candidate_ref", "policy_id", "mode"}` to have this candidate asked first, with the mode `"normal"`
/// or `"exploration"`; empty or `null` to keep the order; `{"error": "why"}` to refuse the task, which then ends with
/// `IICP_RANKER_REFUSED`. Nothing is sent before the answer; the task's own deadline is that of the answer, too.
///
/// Ownership: arguments are copied. Threads: any. Never blocks.
/// Errors: `IICP_STALE_ID` if the operation does not ask, or no longer. `IICP_INVALID_ARG` if the answer is none of these:
/// the task is refused then. `IICP_CLOSED`, `IICP_FORKED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn iicp_rank_finish(op: u64, choice_json: iicp_str, err: *mut *mut iicp_error) -> iicp_code {
    // SAFETY: the caller's promise.
    unsafe { guard(err, || of(op)?.rank_finish(op, choice_json.read("choice_json")?)) }
}

/// Closes a client: what it is doing ends with `IICP_CLOSED`. Nothing (id 0) is fine.
///
/// Threads: any.
/// Errors: `IICP_STALE_ID` if it was closed before; `IICP_CLOSED` after shutdown, `IICP_FORKED`.
#[unsafe(no_mangle)]
pub extern "C" fn iicp_client_close(client: iicp_client) -> iicp_code {
    let body = || match client.id {
        0 => Ok(()),
        id => of(id)?.client_close(id),
    };
    // SAFETY: no error is written.
    unsafe { guard(std::ptr::null_mut(), body) }
}
