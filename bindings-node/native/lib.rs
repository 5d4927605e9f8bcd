//! The native part of `@iicp/core`: the bridge's verbs as plain functions. Everything else is TypeScript, in `src`.
//!
//! Ids are hexadecimal text, because a JavaScript number holds no 64 bits. Options come as JSON text and are read by the
//! engine alone. A function that refuses throws an error whose message is the engine's error as JSON; the facade makes
//! the public error from it. No function waits, and nothing of JavaScript is touched by another thread than its own.

mod engine;
mod events;

use std::time::Duration;

use bytes::Bytes;
use iicp_core::bridge::Inference;
use iicp_core::{Code, Error};
use napi::JsString;
use napi::bindgen_prelude::{Either, Env, Function, Uint8Array};
use napi_derive::napi;

use engine::{bridge, thrown};

/// Most events of one drain: the loop gets to its other work in between.
const BATCH: usize = 256;

/// JSON text, or the same as UTF-8 bytes.
type Body = Either<String, Uint8Array>;

fn bytes_of(body: Body) -> Bytes {
    match body {
        Either::A(text) => text.into(),
        // Copied: the array stays JavaScript's.
        Either::B(bytes) => Bytes::copy_from_slice(&bytes),
    }
}

fn id(text: &str) -> napi::Result<u64> {
    u64::from_str_radix(text, 16)
        .map_err(|_| thrown(&Error::new(Code::InvalidArg, "an id must be one that this library gave out")))
}

fn text(id: u64) -> String {
    format!("{id:x}")
}

fn tag(number: f64) -> u64 {
    // The facade counts from 1 in whole numbers; anything else would only miss its own promise.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let tag = number as u64;
    tag
}

fn millis(number: f64) -> Duration {
    Duration::try_from_secs_f64(number / 1000.0).unwrap_or(if number > 0.0 { Duration::MAX } else { Duration::ZERO })
}

/// The version of the library, as the package must have it too.
#[napi(catch_unwind)]
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Opens the environment's queue. `ring` is called on its loop when there are events to drain; it keeps no loop alive.
/// The queue is closed when the environment ends, and with the last one the engine.
///
/// # Errors
/// As `Bridge::new` and `Bridge::queue_new`.
#[napi(catch_unwind)]
pub fn open(env: Env, ring: Function<'_, (), ()>) -> napi::Result<String> {
    engine::open(env, ring).map(text)
}

/// Takes up to 256 events; in the form that `events.rs` tells. What is left rings again.
///
/// # Errors
/// As `Bridge::queue_drain`.
#[napi(catch_unwind)]
pub fn drain(env: &Env, queue: String) -> napi::Result<Vec<JsString<'_>>> {
    let mut taken = bridge()?.queue_drain(id(&queue)?, BATCH).map_err(|e| thrown(&e))?;
    events::hold(&mut taken);
    events::write(&taken, |text| env.create_string(text))
}

/// Ends the queue before its environment: called when the process exits without ending its environments.
///
/// # Errors
/// As `Bridge::queue_free`.
#[napi(catch_unwind)]
pub fn leave(queue: String) -> napi::Result<()> {
    engine::leave(id(&queue)?);
    Ok(())
}

/// `Bridge::client_new`.
///
/// # Errors
/// As there.
#[napi(catch_unwind)]
pub fn client_new(options: String) -> napi::Result<String> {
    bridge()?.client_new(&options).map(text).map_err(|e| thrown(&e))
}

/// `Bridge::client_close`.
///
/// # Errors
/// As there.
#[napi(catch_unwind)]
pub fn client_close(client: String) -> napi::Result<()> {
    bridge()?.client_close(id(&client)?).map_err(|e| thrown(&e))
}

/// `Bridge::discover`.
///
/// # Errors
/// As there.
#[napi(catch_unwind)]
pub fn discover(client: String, queue: String, query: String, number: f64) -> napi::Result<String> {
    bridge()?.discover(id(&client)?, id(&queue)?, &query, tag(number)).map(text).map_err(|e| thrown(&e))
}

/// `Bridge::submit`.
///
/// # Errors
/// As there.
#[napi(catch_unwind)]
pub fn submit(client: String, queue: String, task: String, body: Body, number: f64) -> napi::Result<String> {
    let body = bytes_of(body);
    bridge()?.submit(id(&client)?, id(&queue)?, &task, body, tag(number)).map(text).map_err(|e| thrown(&e))
}

/// `Bridge::chat`.
///
/// # Errors
/// As there.
#[napi(catch_unwind)]
pub fn chat(client: String, queue: String, chat: String, number: f64) -> napi::Result<String> {
    bridge()?.chat(id(&client)?, id(&queue)?, &chat, tag(number)).map(text).map_err(|e| thrown(&e))
}

/// `Bridge::stream`. The body is empty for a chat. Every part that was drained counts against its stream until `used`.
///
/// # Errors
/// As there.
#[napi(catch_unwind)]
pub fn stream(client: String, queue: String, ask: String, body: Body, number: f64) -> napi::Result<String> {
    let body = bytes_of(body);
    bridge()?.stream(id(&client)?, id(&queue)?, &ask, body, tag(number)).map(text).map_err(|e| thrown(&e))
}

/// A part of the stream was used: the provider may send another one in its place.
///
/// # Errors
/// `INVALID_ARG` for what is no id.
#[napi(catch_unwind)]
pub fn used(operation: String) -> napi::Result<()> {
    events::used(id(&operation)?);
    Ok(())
}

/// `Bridge::infer`. `sound` is the sound file of a transcription, else empty. The sound of a speech comes as base64.
///
/// # Errors
/// As there; `INVALID_ARG` for a kind that is none.
#[napi(catch_unwind)]
#[allow(clippy::needless_pass_by_value)]
pub fn infer(
    client: String,
    queue: String,
    kind: i32,
    ask: String,
    sound: Uint8Array,
    number: f64,
) -> napi::Result<String> {
    let kind = Inference::from_number(kind)
        .ok_or_else(|| thrown(&Error::new(Code::InvalidArg, format!("there is no model task {kind}"))))?;
    let tag = if kind == Inference::Speech { events::with_bytes(tag(number)) } else { tag(number) };
    let sound = Bytes::copy_from_slice(&sound);
    bridge()?.infer(id(&client)?, id(&queue)?, kind, &ask, sound, tag).map(text).map_err(|e| thrown(&e))
}

/// `Bridge::rank_finish`.
///
/// # Errors
/// As there.
#[napi(catch_unwind)]
pub fn rank_finish(operation: String, choice: String) -> napi::Result<()> {
    bridge()?.rank_finish(id(&operation)?, &choice).map_err(|e| thrown(&e))
}

/// `Bridge::cancel`.
///
/// # Errors
/// As there.
#[napi(catch_unwind)]
pub fn cancel(operation: String) -> napi::Result<()> {
    bridge()?.cancel(id(&operation)?).map_err(|e| thrown(&e))
}

/// `Bridge::directory_bind`.
///
/// # Errors
/// As there.
#[napi(catch_unwind)]
pub fn directory_bind(queue: String, options: String, number: f64) -> napi::Result<String> {
    bridge()?.directory_bind(id(&queue)?, &options, tag(number)).map(text).map_err(|e| thrown(&e))
}

/// `Bridge::directory_close`.
///
/// # Errors
/// As there.
#[napi(catch_unwind)]
pub fn directory_close(directory: String, queue: String, grace_ms: f64, number: f64) -> napi::Result<String> {
    let grace = millis(grace_ms);
    bridge()?.directory_close(id(&directory)?, id(&queue)?, grace, tag(number)).map(text).map_err(|e| thrown(&e))
}

/// `Bridge::node_serve`.
///
/// # Errors
/// As there.
#[napi(catch_unwind)]
pub fn node_serve(queue: String, options: String, number: f64) -> napi::Result<String> {
    bridge()?.node_serve(id(&queue)?, &options, tag(number)).map(text).map_err(|e| thrown(&e))
}

/// `Bridge::node_status`.
///
/// # Errors
/// As there.
#[napi(catch_unwind)]
pub fn node_status(node: String) -> napi::Result<String> {
    bridge()?.node_status(id(&node)?).map_err(|e| thrown(&e))
}

/// `Bridge::node_nat_report`.
///
/// # Errors
/// As there.
#[napi(catch_unwind)]
pub fn node_nat_report(node: String) -> napi::Result<String> {
    bridge()?.node_nat_report(id(&node)?).map_err(|e| thrown(&e))
}

/// `Bridge::node_close`.
///
/// # Errors
/// As there.
#[napi(catch_unwind)]
pub fn node_close(node: String, queue: String, grace_ms: f64, number: f64) -> napi::Result<String> {
    let grace = millis(grace_ms);
    bridge()?.node_close(id(&node)?, id(&queue)?, grace, tag(number)).map(text).map_err(|e| thrown(&e))
}

/// `Bridge::task_chunk`. False says that there is no room yet: the same part is given again after `TASK_ROOM`.
///
/// # Errors
/// As there, without `QUEUE_FULL`.
#[napi(catch_unwind)]
pub fn task_chunk(task: String, meta: String, body: Body) -> napi::Result<bool> {
    match bridge()?.task_chunk(id(&task)?, &meta, bytes_of(body)) {
        Ok(()) => Ok(true),
        Err(error) if error.code() == Code::QueueFull => Ok(false),
        Err(error) => Err(thrown(&error)),
    }
}

/// `Bridge::task_finish`.
///
/// # Errors
/// As there.
#[napi(catch_unwind)]
pub fn task_finish(task: String, meta: String, body: Body) -> napi::Result<()> {
    bridge()?.task_finish(id(&task)?, &meta, bytes_of(body)).map_err(|e| thrown(&e))
}

/// `Bridge::task_fail`.
///
/// # Errors
/// As there.
#[napi(catch_unwind)]
pub fn task_fail(task: String, code: i32, message: String) -> napi::Result<()> {
    bridge()?.task_fail(id(&task)?, code, &message).map_err(|e| thrown(&e))
}
